// Runs jobs: weights into the engine's layout once, then one client, or one slot of clients, a thread at a time.
#include "engine.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <system_error>
#include <thread>

#include "denormals.hpp"
#include "status.hpp"

namespace fedsim {
namespace {

constexpr int64_t kEvaluationBatch = 40;

int64_t moments_of(const Training& training) { return training.adam ? 2 : training.momentum ? 1 : 0; }

// A worker that is large enough, for as long as this lives.
class Lease {
   public:
    Lease(Engine& engine, int64_t capacity, int64_t moments) : engine_(engine) {
        {
            std::lock_guard<std::mutex> lock(engine.idle_lock);
            auto fits = std::find_if(engine.idle.begin(), engine.idle.end(), [&](const auto& worker) {
                return worker->worker.capacity >= capacity && worker->moments >= moments;
            });
            if (fits != engine.idle.end()) {
                worker_ = std::move(*fits);
                engine.idle.erase(fits);
            } else if (!engine.idle.empty()) {
                engine.idle.pop_back();  // too small: a larger one takes its place
            }
        }
        if (!worker_) worker_ = make_worker(engine.plan(), capacity, moments);
    }
    ~Lease() {
        std::lock_guard<std::mutex> lock(engine_.idle_lock);
        engine_.idle.push_back(std::move(worker_));
    }
    Worker& worker() { return worker_->worker; }

   private:
    Engine& engine_;
    std::unique_ptr<OwnedWorker> worker_;
};

// Calls work(item) for every item in the order given, on `threads` threads, each with a worker of its own.
template <class Work>
void for_each(Engine& engine, const std::vector<int64_t>& items, int64_t threads, int64_t capacity, int64_t moments,
              const Work& work) {
    std::vector<std::unique_ptr<Lease>> leases;
    const int64_t count = std::max<int64_t>(1, std::min<int64_t>(threads, static_cast<int64_t>(items.size())));
    for (int64_t i = 0; i < count; ++i) leases.push_back(std::make_unique<Lease>(engine, capacity, moments));
    std::atomic<size_t> next{0};
    auto run = [&](Lease& lease) {
        const FlushDenormals flush;
        for (size_t i = next++; i < items.size(); i = next++) work(lease.worker(), items[i]);
    };
    std::vector<std::thread> others;
    try {
        for (int64_t i = 1; i < count; ++i) others.emplace_back(run, std::ref(*leases[i]));
    } catch (const std::system_error&) {
        // The system gives no more threads; those there are do all the work.
    }
    run(*leases[0]);
    for (std::thread& thread : others) thread.join();
}

// 0..sizes.size(), the largest first; equals in their order.
std::vector<int64_t> largest_first(const std::vector<int64_t>& sizes) {
    std::vector<int64_t> order(sizes.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return sizes[a] > sizes[b]; });
    return order;
}

bool rows_exist(const Plan& plan, const Examples& examples, const int64_t* order, int64_t count) {
    return std::all_of(order, order + count, [&](int64_t row) {
        if (row < 0 || row >= examples.rows) return false;
        return plan.loss != Loss::cross_entropy || (examples.classes[row] >= 0 && examples.classes[row] < plan.values);
    });
}

// Trains one client from the round's image. Its share of the result goes to `sum`, as the `first` of it or to what is
// there; without a sum the worker's image is the result.
void train_client(Engine& engine, Worker& worker, const TrainJob& job, const Image& start, const int64_t* order,
                  int64_t client, float* sum, bool first) {
    const Plan& plan = engine.plan();
    Parameters& parameters = worker.parameters;
    const int64_t moments = moments_of(job.training);
    const size_t bytes = sizeof(float) * start.size();
    parameters.origin = start.data();
    parameters.fresh = !job.state;
    parameters.sum = sum;
    parameters.share = sum ? static_cast<float>(job.shares[client]) : 0.0f;
    parameters.first_of_sum = first;
    float* const held[] = {parameters.first, parameters.second};
    if (job.state)
        for (int64_t i = 0; i < moments; ++i) std::memcpy(held[i], job.state + i * plan.image, bytes);
    int64_t steps = job.state ? *job.state_steps : 0;
    engine.kernels->train(plan, worker, job.examples, job.training, order, job.counts[client], &steps,
                          job.losses + client * job.training.epochs);
    if (!job.state) return;
    for (int64_t i = 0; i < moments; ++i) std::memcpy(job.state + i * plan.image, held[i], bytes);
    *job.state_steps = steps;
}

// The update of the client whose weights the worker holds goes to `total`, as the `first` of it or to what is there,
// scaled down to the job's clip. Its norm before that; not a number if it is not finite, and then it counts as zero.
double add_clipped(const Engine& engine, const Worker& worker, const TrainJob& job, const Image& start, Total& total,
                   bool first) {
    const int64_t size = static_cast<int64_t>(start.size());
    const float* weights = worker.parameters.values;
    if (first) std::fill(total.begin(), total.end(), 0.0);
    const double norm = engine.kernels->update_norm(weights, start.data(), size);
    if (!std::isfinite(norm)) return std::numeric_limits<double>::quiet_NaN();
    engine.kernels->add_update(weights, start.data(), std::min(1.0, job.clip / norm), total.data(), size);
    return norm;
}

// Adds all sums to the first one, in order; piece by piece, so that a piece stays in cache meanwhile.
template <class Sum>
void add_up(std::vector<Sum>& sums, int64_t slots) {
    constexpr int64_t kPiece = 4096;
    const int64_t size = static_cast<int64_t>(sums[0].size());
    for (int64_t begin = 0; begin < size; begin += kPiece)
        for (int64_t slot = 1; slot < slots; ++slot)
            for (int64_t i = begin; i < std::min(begin + kPiece, size); ++i) sums[0][i] += sums[slot][i];
}

// At least so many sums, kept from call to call like the workers: fresh memory would cost more than adding up.
template <class Sum>
std::vector<Sum> take_sums(Engine& engine, std::vector<Sum>& idle, int64_t slots) {
    std::vector<Sum> sums;
    if (!slots) return sums;
    {
        std::lock_guard<std::mutex> lock(engine.idle_lock);
        sums.swap(idle);
    }
    while (static_cast<int64_t>(sums.size()) < slots) sums.emplace_back(engine.plan().image);
    return sums;
}

template <class Sum>
void give_back(Engine& engine, std::vector<Sum>& idle, std::vector<Sum>& sums) {
    std::lock_guard<std::mutex> lock(engine.idle_lock);
    if (idle.size() < sums.size()) idle.swap(sums);
}

}  // namespace

int train(Engine& engine, const TrainJob& job) {
    const Plan& plan = engine.plan();
    std::vector<int64_t> begins(job.clients), sizes(job.clients);
    int64_t parameters = 0, total = 0;
    for (const Placement& place : engine.placements) parameters += place.rows * place.columns;
    for (int64_t c = 0; c < job.clients; ++c) {
        begins[c] = total;
        sizes[c] = job.counts[c];
        total += job.counts[c] * job.training.epochs;
    }
    if (!rows_exist(plan, job.examples, job.orders, total)) return kNoSuchRow;

    Image start(plan.constants, plan.constants + plan.image);
    engine.kernels->pack(engine.layout(), job.weights, start.data());
    // A slot's clients are trained by one thread in their order, and slots are added up in order: a sum does not depend
    // on the number of threads.
    const bool summing = job.sum || job.sums;
    const int64_t slots = summing || job.clipped ? job.slots : job.clients;
    std::vector<Image> sums = take_sums(engine, engine.idle_sums, summing ? slots : 0);
    std::vector<Total> totals = take_sums(engine, engine.idle_totals, job.clipped ? slots : 0);
    std::vector<int64_t> slot_sizes(slots);
    for (int64_t c = 0; c < job.clients; ++c) slot_sizes[c % slots] += sizes[c];

    for_each(engine, largest_first(slot_sizes), job.threads, job.training.batch_size, moments_of(job.training),
             [&](Worker& worker, int64_t slot) {
                 for (int64_t c = slot; c < job.clients; c += slots) {
                     float* const sum = summing ? sums[slot].data() : nullptr;
                     train_client(engine, worker, job, start, job.orders + begins[c], c, sum, c == slot);
                     if (job.stack)
                         engine.kernels->unpack(engine.layout(), worker.parameters.values, job.stack + c * parameters);
                     if (job.clipped)
                         job.norms[c] = add_clipped(engine, worker, job, start, totals[slot], c == slot);
                 }
                 if (job.sums) engine.kernels->unpack(engine.layout(), sums[slot].data(), job.sums + slot * parameters);
             });
    if (job.sum && slots) {
        add_up(sums, slots);
        engine.kernels->unpack(engine.layout(), sums[0].data(), job.sum);
    }
    if (job.clipped && slots) {
        add_up(totals, slots);
        engine.kernels->unpack_total(engine.layout(), totals[0].data(), job.clipped);
    }
    give_back(engine, engine.idle_sums, sums);
    give_back(engine, engine.idle_totals, totals);
    return kDone;
}

int evaluate(Engine& engine, const EvaluateJob& job) {
    const Plan& plan = engine.plan();
    if (!rows_exist(plan, job.examples, job.order, job.count)) return kNoSuchRow;
    Image image(plan.constants, plan.constants + plan.image);
    engine.kernels->pack(engine.layout(), job.weights, image.data());
    std::vector<int64_t> blocks((job.count + kEvaluationBatch - 1) / kEvaluationBatch);
    std::iota(blocks.begin(), blocks.end(), 0);
    for_each(engine, blocks, job.threads, kEvaluationBatch, 0, [&](const Worker& leased, int64_t block) {
        const int64_t begin = block * kEvaluationBatch, count = std::min(job.count - begin, kEvaluationBatch);
        Worker worker = leased;
        worker.parameters.from = image.data();
        engine.kernels->evaluate(plan, worker, job.examples, job.order + begin, count, job.losses + begin,
                                 job.correct + begin, job.outputs ? job.outputs + begin * plan.values : nullptr);
    });
    return kDone;
}

}  // namespace fedsim
