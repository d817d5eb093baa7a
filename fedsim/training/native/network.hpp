// The whole network: one batch forward and backward, a client's local training, an evaluation.
//
// Steps on maps run one example at a time, so that an example's maps stay in the first-level cache from layer to layer;
// dense layers run one batch at a time, so that a batch shares one pass over their weights.
#pragma once

#include "clipping.hpp"
#include "convolution.hpp"
#include "dense.hpp"
#include "elementary.hpp"
#include "grouped_convolution.hpp"
#include "kernels.hpp"
#include "layout.hpp"
#include "loss.hpp"
#include "optimizer.hpp"
#include "plan.hpp"
#include "pooled_convolution.hpp"
#include "pooling.hpp"
#include "reading.hpp"
#include "vectors.hpp"

namespace fedsim::VARIANT {

INLINE float* example_input(const Plan& plan, const Worker& worker, int64_t step, int64_t example) {
    return step < plan.spatial_count ? worker.spatial[step].input + example * plan.spatial[step].in.size
                                     : worker.last + example * plan.last.size;
}

INLINE float* input_gradient_of(const Plan& plan, const Worker& worker, int64_t step) {
    return step < plan.spatial_count ? worker.spatial[step].input_gradient : worker.last_gradient;
}

// Of one example.
template <class T>
INLINE T* winners_of(const SpatialPlan& step, T* winners, int64_t example) {
    return winners + example * step.out.height * step.out.width * step.out_channels;
}

static void forward_step(const Plan& plan, const Worker& worker, int64_t i, int64_t example, bool keep) {
    const SpatialPlan& step = plan.spatial[i];
    const SpatialBuffers& buffers = worker.spatial[i];
    const float *image = worker.parameters.from, *x = example_input(plan, worker, i, example);
    float* y = example_input(plan, worker, i + 1, example);
    switch (step.step.kind) {
        case Kind::convolution:
            if (step.step.pooled)
                return convolve_and_pool(step, image, x, buffers.rows, y,
                                         keep ? winners_of(step, buffers.corners, example) : nullptr);
            return convolve(step, image, x, y);
        case Kind::grouped_convolution:
            return convolve_groups(step, image, x, y);
        default:
            return pool(step, x, y, winners_of(step, buffers.winners, example));
    }
}

INLINE bool scatters(const Step& step) { return step.kind == Kind::convolution && step.pooled && step.input_gradient; }

static void backward_step(const Plan& plan, const Worker& worker, int64_t i, int64_t example) {
    const SpatialPlan& step = plan.spatial[i];
    const SpatialBuffers& buffers = worker.spatial[i];
    const float *x = example_input(plan, worker, i, example), *y = example_input(plan, worker, i + 1, example);
    float* g = input_gradient_of(plan, worker, i + 1);
    float* dx = step.step.input_gradient ? buffers.input_gradient : nullptr;
    for (int64_t row = 0; row < step.out.height; ++row) {
        const int64_t at = step.out.origin + row * step.out.row;
        activation_gradient(step.step.activation, y + at, g + at, step.out.width * step.out.channels);
    }
    float* weights = worker.gradients + step.step.weights;
    float* bias = worker.gradients + step.step.bias;
    switch (step.step.kind) {
        case Kind::convolution:
            bias_gradient(step, g, bias);
            if (scatters(step.step))
                return scatter_winners(step, x, g, winners_of(step, buffers.corners, example), buffers.turned,
                                       buffers.turned_gradient, dx, worker.offsets, worker.values);
            if (step.step.pooled)
                return pooled_weight_gradient(step, x, g, winners_of(step, buffers.corners, example), weights);
            spread_gradient(step, g, buffers.spread);
            if (step.step.trainable) weight_gradient(step, x, buffers.spread, weights);
            if (dx) input_gradient(step, buffers.turned, buffers.spread, dx);
            return;
        case Kind::grouped_convolution:
            bias_gradient(step, g, bias);
            return group_gradients(step, worker.parameters.from, x, g, weights, dx);
        default:
            return pool_gradient(step, g, winners_of(step, buffers.winners, example), dx);
    }
}

INLINE Batch dense_input(const Plan& plan, const Worker& worker, int64_t i, int64_t examples) {
    return {i < plan.dense_count ? worker.dense[i].input : worker.outputs, batch_stride(examples)};
}

// An example's last map among the batch, and the batch's gradient back among the example's. A last block that is not
// full is filled up with zeros: they meet weights of zero, which must get no gradient.
static void gather_last(const Plan& plan, const float* last, const Batch& x, int64_t example) {
    const int64_t whole = plan.last.size / kWide, rest = plan.last.size % kWide;
    for (int64_t block = 0; block < whole; ++block)
        std::memcpy(x.block(example, block), last + block * kWide, sizeof(float) * kWide);
    if (!rest) return;
    float* block = x.block(example, whole);
    std::memcpy(block, last + whole * kWide, sizeof(float) * rest);
    std::memset(block + rest, 0, sizeof(float) * (kWide - rest));
}

static void scatter_last(const Plan& plan, const Batch& g, int64_t example, float* last) {
    const int64_t whole = plan.last.size / kWide, rest = plan.last.size % kWide;
    for (int64_t block = 0; block < whole; ++block)
        std::memcpy(last + block * kWide, g.block(example, block), sizeof(float) * kWide);
    std::memcpy(last + whole * kWide, g.block(example, whole), sizeof(float) * rest);
}

// Everything up to the outputs, for the rows order[0..count). Without `keep` every example uses the same maps.
static void forward(const Plan& plan, const Worker& worker, const Examples& examples, const int64_t* order,
                    int64_t count, bool keep) {
    for (int64_t b = 0; b < count; ++b) {
        const int64_t place = keep ? b : 0;
        read_example(plan, examples, order[b], example_input(plan, worker, 0, place));
        for (int64_t i = 0; i < plan.spatial_count; ++i) forward_step(plan, worker, i, place, keep);
        const float* last = example_input(plan, worker, plan.spatial_count, place);
        gather_last(plan, last, dense_input(plan, worker, 0, count), b);
    }
    for (int64_t i = 0; i < plan.dense_count; ++i)
        multiply(plan.dense[i], worker.parameters.from, dense_input(plan, worker, i, count),
                 dense_input(plan, worker, i + 1, count), count, worker.dot);
}

static void backward_dense(const Plan& plan, const Worker& worker, int64_t count, const Rule& rule) {
    for (int64_t i = plan.dense_count - 1; i >= 0; --i) {
        const DensePlan& step = plan.dense[i];
        const Batch x = dense_input(plan, worker, i, count), y = dense_input(plan, worker, i + 1, count);
        const bool last = i == plan.dense_count - 1;
        const Batch g{last ? worker.output_gradient : worker.dense[i + 1].input_gradient, batch_stride(count)};
        const Batch dx{step.step.input_gradient ? worker.dense[i].input_gradient : nullptr, batch_stride(count)};
        for (int64_t block = 0; block < step.out_blocks; ++block)
            activation_gradient(step.step.activation, y.block(0, block), g.block(0, block), count * kWide);
        train_dense(step, worker.parameters, x, g, dx, count, worker.packed, rule);
        if (!step.step.input_gradient) return;
    }
}

static void backward_spatial(const Plan& plan, const Worker& worker, int64_t count) {
    const Batch g{plan.dense_count ? worker.dense[0].input_gradient : worker.output_gradient, batch_stride(count)};
    std::memset(worker.gradients, 0, sizeof(float) * plan.spatial_image);
    for (int64_t i = 0; i < plan.spatial_count; ++i) {
        const SpatialPlan& step = plan.spatial[i];
        if (step.step.kind != Kind::convolution || !step.step.input_gradient) continue;
        const float* weights = worker.parameters.from + step.step.weights;
        scatters(step.step) ? turn_to_patches(step, weights, worker.spatial[i].turned)
                            : turn_weights(step, weights, worker.spatial[i].turned);
        if (scatters(step.step))
            std::memset(worker.spatial[i].turned_gradient, 0,
                        sizeof(float) * step.patch.count * step.patch.length * step.step.out_channels);
    }
    for (int64_t b = 0; b < count; ++b) {
        scatter_last(plan, g, b, worker.last_gradient);
        for (int64_t i = plan.spatial_count - 1; i >= 0; --i) {
            const Step& step = plan.spatial[i].step;
            if (!step.trainable && !step.input_gradient) break;
            backward_step(plan, worker, i, b);
        }
    }
}

static void train_spatial(const Plan& plan, const Worker& worker, const Rule& rule) {
    for (int64_t i = 0; i < plan.spatial_count; ++i) {
        const SpatialPlan& step = plan.spatial[i];
        if (!step.step.trainable) continue;
        float* gradient = worker.gradients + step.step.weights;
        if (scatters(step.step)) turn_from_patches(step, worker.spatial[i].turned_gradient, gradient);
        VARIANT::step(worker.parameters, gradient, step.step.weights, step.weight_count, rule);
        if (step.step.has_bias)
            VARIANT::step(worker.parameters, worker.gradients + step.step.bias, step.step.bias, step.out_channels,
                          rule);
    }
}

// One optimizer step on the rows order[0..count); their summed loss.
static double train_batch(const Plan& plan, const Worker& worker, const Examples& examples, const int64_t* order,
                          int64_t count, const Rule& rule) {
    forward(plan, worker, examples, order, count, true);
    const Batch outputs{worker.outputs, batch_stride(count)}, gradient{worker.output_gradient, batch_stride(count)};
    const double loss = batch_loss(plan, examples, order, count, outputs, gradient, worker.values);
    backward_dense(plan, worker, count, rule);
    if (plan.maps_train) {
        backward_spatial(plan, worker, count);
        train_spatial(plan, worker, rule);
    }
    return loss;
}

// Takes over what no step writes: all of the round's image for a client without examples, else frozen weights and the
// zeros of biases that a layer does not have.
static void keep_frozen(const Plan& plan, const Parameters& parameters, bool all) {
    auto copy = [&](int64_t at, int64_t count) {
        for (int64_t i = at; i < at + count; i += LANES) keep(parameters, i, load(parameters.origin + i));
    };
    auto copy_step = [&](const Step& step, int64_t weights, int64_t outputs) {
        if (!step.trainable) copy(step.weights, weights);
        if (!step.trainable || !step.has_bias) copy(step.bias, outputs);
    };
    if (all) return copy(0, plan.image);
    for (int64_t i = 0; i < plan.spatial_count; ++i)
        if (const SpatialPlan& step = plan.spatial[i]; step.weight_count)
            copy_step(step.step, step.weight_count, step.out_channels);
    for (int64_t i = 0; i < plan.dense_count; ++i) {
        const DensePlan& step = plan.dense[i];
        copy_step(step.step, step.tiles * step.in_blocks * kTileSize, step.out_blocks * kWide);
    }
}

static void train(const Plan& plan, const Worker& idle, const Examples& examples, const Training& training,
                  const int64_t* order, int64_t count, int64_t* steps, double* losses) {
    Worker worker = idle;
    Parameters& parameters = worker.parameters;
    parameters.from = parameters.origin;
    parameters.sum = nullptr;
    keep_frozen(plan, parameters, count == 0);
    for (int64_t epoch = 0; epoch < training.epochs; ++epoch, order += count) {
        double total = 0;
        for (int64_t start = 0; start < count; start += training.batch_size) {
            const int64_t size = count - start < training.batch_size ? count - start : training.batch_size;
            if (epoch + 1 == training.epochs && start + size == count) parameters.sum = idle.parameters.sum;
            total += train_batch(plan, worker, examples, order + start, size, rule_for(training, ++*steps));
            parameters.from = parameters.values;
            parameters.fresh = false;
        }
        losses[epoch] = total / static_cast<double>(count);
    }
    parameters.sum = idle.parameters.sum;
    if (parameters.sum) keep_frozen(plan, parameters, count == 0);
}

static void evaluate(const Plan& plan, const Worker& worker, const Examples& examples, const int64_t* order,
                     int64_t count, double* losses, uint8_t* correct, float* outputs) {
    forward(plan, worker, examples, order, count, false);
    const Batch values{worker.outputs, batch_stride(count)};
    for (int64_t b = 0; b < count; ++b) {
        float* one = worker.values;
        int64_t best = 0;
        for (int64_t i = 0; i < plan.values; ++i) {
            one[i] = values.at(b, i);
            if (one[i] > one[best]) best = i;
        }
        if (outputs) std::memcpy(outputs + b * plan.values, one, sizeof(float) * plan.values);
        if (plan.loss == Loss::cross_entropy) {
            float total;
            correct[b] = best == examples.classes[order[b]];
            losses[b] = cross_entropy(one, plan.values, examples.classes[order[b]], &total);
        } else {
            correct[b] = 0;
            losses[b] = squared_error(one, examples.targets + order[b] * plan.values, plan.values);
        }
    }
}

// Floating-point operations a second of `rounds` multiply-adds on registers alone: what this variant could reach.
static double multiply_adds(int64_t rounds, float* sink) {
    constexpr int kChains = kRegisters == 32 ? 20 : 10;
    Floats sums[kChains] = {}, factor = broadcast(sink[0]), addend = broadcast(sink[1]);
    for (int64_t i = 0; i < rounds; ++i) {
        UNROLLED for (int c = 0; c < kChains; ++c) {
            sums[c] = sums[c] * factor + addend;
            KEEP_IN_REGISTER(sums[c]);  // lest the compiler find something cleverer to do
        }
    }
    UNROLLED for (int c = 0; c < kChains; ++c) sink[0] += sum(sums[c]);
    return 2.0 * kChains * LANES * static_cast<double>(rounds);
}

const Kernels kernels = {pack, unpack<float>, unpack<double>, train, update_norm, add_update, evaluate, multiply_adds};

}  // namespace fedsim::VARIANT
