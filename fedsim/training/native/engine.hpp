// The engine: a program made ready to run, and the workers that run it.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels.hpp"
#include "plan.hpp"

namespace fedsim {

// A plan and what its pointers point to.
struct OwnedPlan {
    Plan plan;
    std::vector<SpatialPlan> spatial;
    std::vector<DensePlan> dense;
    std::vector<std::unique_ptr<std::vector<int32_t>>> offsets;
    std::vector<float> constants;
};

std::unique_ptr<OwnedPlan> make_plan(const Step* steps, int64_t count, const float* image, int64_t image_size,
                                     Loss loss);

// A worker in one block of memory, zeroed, a multiple of 64 bytes apart from its neighbours.
struct OwnedWorker {
    Worker worker;
    std::vector<SpatialBuffers> spatial;
    std::vector<DenseBuffers> dense;
    std::unique_ptr<void, void (*)(void*)> memory{nullptr, nullptr};
    int64_t moments = 0;  // images of optimizer state
};

std::unique_ptr<OwnedWorker> make_worker(const Plan& plan, int64_t capacity, int64_t moments);

using Image = std::vector<float>;
using Total = std::vector<double>;  // of images

struct Engine {
    std::unique_ptr<OwnedPlan> owned;
    std::vector<Placement> placements;
    std::vector<int32_t> tables;
    const Kernels* kernels;
    std::mutex idle_lock;
    std::vector<std::unique_ptr<OwnedWorker>> idle;  // kept from call to call: their memory is warm
    std::vector<Image> idle_sums;
    std::vector<Total> idle_totals;

    const Plan& plan() const { return owned->plan; }
    Layout layout() const { return {placements.data(), static_cast<int64_t>(placements.size()), tables.data()}; }
};

// Both throw std::bad_alloc; what they return is a status of api.cpp.
int train(Engine& engine, const TrainJob& job);
int evaluate(Engine& engine, const EvaluateJob& job);

}  // namespace fedsim
