// Dense layers: forward, and backward and update in one pass over the weights.
//
// The weights are most of a small network and do not fit the caches that its activations do. So each tile of 10 x 32 is
// fetched once on the way back: both gradients are formed from it, the optimizer steps, and it is written out. No
// gradient of the weights ever exists in memory.
#pragma once

#include "elementary.hpp"
#include "optimizer.hpp"
#include "plan.hpp"
#include "vectors.hpp"

namespace fedsim::VARIANT {

constexpr int kOutputs = kRegisters == 32 ? 10 : 5;   // of a tile, trained at once
constexpr int kDotOutputs = 5;
constexpr int kDotVectors = kRegisters == 32 ? 5 : 2;  // of LANES / kFew examples
constexpr int kTogether = kRegisters == 32 ? 2 : 1;  // examples
constexpr int64_t kTileSize = kTile * kWide;
constexpr int64_t kLine = 16;   // floats in a cache line
constexpr int64_t kHalfLines = kTileSize / kLine / 2;
constexpr int64_t kGroup = 5;  // tiles

// Lanes hold kFew inputs of each of LANES / kFew examples, so that a sum is spread over no more than kFew lanes.
// sums[output][example][kFew] += weights x for kDotOutputs outputs, a few vectors of examples and `blocks` of inputs;
// on the way it fetches as much of the weights that come `next`.
template <int Vectors>
BY_ITSELF void dot_tile(const float* weights, const float* x, int64_t stride, int64_t blocks, float* sums,
                        const float* next) {
    Floats totals[kDotOutputs][Vectors];
    UNROLLED for (int o = 0; o < kDotOutputs; ++o)
        UNROLLED for (int v = 0; v < Vectors; ++v) totals[o][v] = load(sums + o * stride + v * LANES);
    for (int64_t block = 0; block < blocks; ++block, weights += kTileSize, next += kTileSize)
        for (int64_t k = 0; k < kWide; k += kFew, x += stride) {
            if (k < kDotOutputs * kFew) {
                __builtin_prefetch(next + k / kFew * kWide);
                __builtin_prefetch(next + k / kFew * kWide + kLine);
            }
            Floats input[Vectors];
            UNROLLED for (int v = 0; v < Vectors; ++v) input[v] = load(x + v * LANES);
            UNROLLED for (int o = 0; o < kDotOutputs; ++o) {
                Floats w = repeat_four(weights + k + o * kWide);
                UNROLLED for (int v = 0; v < Vectors; ++v) totals[o][v] += w * input[v];
            }
        }
    UNROLLED for (int o = 0; o < kDotOutputs; ++o)
        UNROLLED for (int v = 0; v < Vectors; ++v) store(sums + o * stride + v * LANES, totals[o][v]);
}

// Where the weights of `output` begin that belong to inputs from `block` on.
INLINE int64_t dot_offset(const DensePlan& plan, int64_t output, int64_t block) {
    return (output / kTile * plan.in_blocks + block) * kTileSize + output % kTile * kWide;
}

// panel [input / kFew][example][kFew]: a few blocks of a few examples' inputs as dot_tile reads them.
static void gather_panel(const Batch& x, int64_t example, int64_t examples, int64_t block, int64_t blocks,
                         int64_t stride, float* panel) {
    for (int64_t k = block; k < block + blocks; ++k)
        for (int64_t b = 0; b < examples; ++b) {
            const float* from = x.block(example + b, k);
            float* to = panel + (k - block) * (kWide / kFew) * stride + b * kFew;
            for (int64_t i = 0; i < kWide; i += kFew, to += stride) std::memcpy(to, from + i, sizeof(float) * kFew);
        }
}

// y = sums + bias, kFew sums a number.
static void finish_panel(const DensePlan& plan, const float* bias, const float* sums, int64_t stride, const Batch& y,
                         int64_t example, int64_t examples) {
    for (int64_t output = 0; output < plan.step.out_channels; ++output, sums += stride)
        for (int64_t b = 0; b < examples; ++b) {
            const float* few = sums + b * kFew;
            y.at(example + b, output) = (few[0] + few[1]) + (few[2] + few[3]) + bias[output];
        }
}

// y = activation(weights x + bias) for a batch. In chunks of inputs that stay in the first-level cache while the
// weights stream past, each once for a panel of examples.
static void multiply(const DensePlan& plan, const float* image, const Batch& x, const Batch& y, int64_t examples,
                     const DotBuffers& buffers) {
    const int64_t outputs = plan.step.out_channels, part = even_part(examples, kPanel);
    for (int64_t begin = 0; begin < examples; begin += part) {
        const int64_t here = examples - begin < part ? examples - begin : part;
        const int64_t stride = round_up(here, LANES / kFew) * kFew, vectors = stride / LANES;
        const int64_t most = even_part(vectors, kDotVectors), chunk = even_part(plan.in_blocks, kChunk);
        std::memset(buffers.sums, 0, sizeof(float) * plan.tiles * kTile * stride);
        for (int64_t block = 0; block < plan.in_blocks; block += chunk) {
            const int64_t blocks = plan.in_blocks - block < chunk ? plan.in_blocks - block : chunk;
            gather_panel(x, begin, here, block, blocks, stride, buffers.panel);
            for (int64_t output = 0; output < outputs; output += kDotOutputs) {
                const float* weights = image + plan.step.weights;
                for (int64_t v = 0; v < vectors; v += most)
                    with_constant<kDotVectors>(vectors - v < most ? vectors - v : most, [&](auto n) {
                        dot_tile<n.value>(weights + dot_offset(plan, output, block), buffers.panel + v * LANES, stride,
                                          blocks, buffers.sums + output * stride + v * LANES,
                                          weights + dot_offset(plan, output + kDotOutputs, block));
                    });
            }
        }
        finish_panel(plan, image + plan.step.bias, buffers.sums, stride, y, begin, here);
    }
    for (int64_t block = 0; block < plan.out_blocks; ++block)
        activate(plan.step.activation, y.block(0, block), examples * kWide);
    for (int64_t i = outputs; i < plan.out_blocks * kWide; ++i)
        for (int64_t b = 0; b < examples; ++b) y.at(b, i) = 0.0f;
}

// The output's gradient as the tiles read it: [tile][example][kTile], zeros past the last output.
static void pack_gradient(const DensePlan& plan, const Batch& g, int64_t examples, float* packed) {
    for (int64_t tile = 0; tile < plan.tiles; ++tile)
        for (int64_t b = 0; b < examples; ++b, packed += kTile)
            for (int64_t o = 0; o < kTile; ++o) {
                int64_t output = tile * kTile + o;
                packed[o] = output < plan.step.out_channels ? g.at(b, output) : 0.0f;
            }
}

// dx += g w for a few examples at once: their sums are independent, so that none waits for another's multiply-adds.
template <int Examples>
INLINE void go_back(const Floats (&w)[kOutputs][2], const float* g, float* dx) {
    Floats back[Examples][2];
    UNROLLED for (int b = 0; b < Examples; ++b)
        UNROLLED for (int v = 0; v < 2; ++v) back[b][v] = load(dx + b * kWide + v * LANES);
    UNROLLED for (int o = 0; o < kOutputs; ++o)
        UNROLLED for (int b = 0; b < Examples; ++b) {
            Floats output = broadcast(g[b * kTile + o]);
            UNROLLED for (int v = 0; v < 2; ++v) back[b][v] += output * w[o][v];
        }
    UNROLLED for (int b = 0; b < Examples; ++b)
        UNROLLED for (int v = 0; v < 2; ++v) store(dx + b * kWide + v * LANES, back[b][v]);
}

// Asks for a line of the weights, and of what else their step will read, at `at` in the image.
template <Optimizer optimizer, bool pulled, bool summed>
INLINE void fetch(const Parameters& parameters, int64_t at) {
    __builtin_prefetch(parameters.from + at, 1);
    if constexpr (optimizer != Optimizer::sgd) __builtin_prefetch(parameters.first + at, 1);
    if constexpr (optimizer == Optimizer::adam) __builtin_prefetch(parameters.second + at, 1);
    if constexpr (pulled) __builtin_prefetch(parameters.origin + at);
    if constexpr (summed) __builtin_prefetch(parameters.sum + at, 1);
}

// For kOutputs outputs and two vectors of inputs: dx += g w, unless dx is null, then w steps along g x. On the way it
// fetches the tile that comes `next`, a line or two an example: so many at once would hold up the loads of this one.
template <Optimizer optimizer, bool pulled, bool summed>
INLINE void train_tile(const Parameters& parameters, int64_t at, const float* x, const float* g, float* dx,
                       int64_t examples, bool trainable, const Rule& rule, int64_t next) {
    const float* weights = parameters.from + at;
    if (dx) {
        Floats w[kOutputs][2];
        UNROLLED for (int o = 0; o < kOutputs; ++o)
            UNROLLED for (int v = 0; v < 2; ++v) w[o][v] = load(weights + o * kWide + v * LANES);
        int64_t b = 0;
        for (; b + kTogether <= examples; b += kTogether) {
            for (int i = 0; i < kTogether; ++i)
                fetch<optimizer, pulled, summed>(parameters, next + (b < kHalfLines ? b + i : 0) * kLine);
            go_back<kTogether>(w, g + b * kTile, dx + b * kWide);
        }
        for (; b < examples; ++b) go_back<1>(w, g + b * kTile, dx + b * kWide);
    }
    if (!trainable) return;
    Floats gradient[kOutputs][2] = {};
    for (int64_t b = 0; b < examples; ++b) {
        fetch<optimizer, pulled, summed>(parameters, next + (b < kHalfLines ? kHalfLines + b : 0) * kLine);
        Floats input[2] = {load(x + b * kWide), load(x + b * kWide + LANES)};
        UNROLLED for (int o = 0; o < kOutputs; ++o) {
            Floats output = broadcast(g[b * kTile + o]);
            UNROLLED for (int v = 0; v < 2; ++v) gradient[o][v] += output * input[v];
        }
    }
    UNROLLED for (int o = 0; o < kOutputs; ++o)
        UNROLLED for (int v = 0; v < 2; ++v) {
            const int64_t place = at + o * kWide + v * LANES;
            const Floats w = load(parameters.from + place);
            keep<summed>(parameters, place,
                         stepped<optimizer, pulled>(w, gradient[o][v], parameters, place, rule));
        }
}

// A group of tiles after the other, from the last to the first: what the forward pass used last is still in the second-
// level cache, and what this pass uses last is what the next forward pass begins with. In a group, blocks of inputs
// outside and tiles inside: a block's x and dx stay in the first-level cache while the weights stream past.
template <Optimizer optimizer, bool pulled, bool summed>
static void train_weights(const DensePlan& plan, const Parameters parameters, const Batch x, const float* packed,
                          const Batch dx, int64_t examples, const Rule rule) {
    const int64_t down = plan.in_blocks * kTileSize, groups = (plan.tiles + kGroup - 1) / kGroup;
    for (int64_t group = groups - 1; group >= 0; --group) {
        const int64_t begin = group * kGroup, end = plan.tiles - begin < kGroup ? plan.tiles : begin + kGroup;
        for (int64_t block = 0; block < plan.in_blocks; ++block) {
            float* back = dx.data ? dx.block(0, block) : nullptr;
            if (back && group == groups - 1) std::memset(back, 0, sizeof(float) * examples * kWide);
            for (int64_t tile = begin; tile < end; ++tile) {
                const int64_t at = plan.step.weights + tile * down + block * kTileSize;
                const int64_t next = tile + 1 < end ? at + down : at - (tile - begin) * down + kTileSize;
                for (int64_t o = 0; o < kTile; o += kOutputs)
                    for (int64_t v = 0; v < kWide; v += 2 * LANES)
                        train_tile<optimizer, pulled, summed>(parameters, at + o * kWide + v, x.block(0, block) + v,
                                                              packed + tile * examples * kTile + o,
                                                              back ? back + v : nullptr, examples,
                                                              plan.step.trainable, rule, next);
            }
        }
    }
}

// dx (unless its data is null) = d loss / d x, then weights and bias step along their gradients. `g` is that of the
// output, the activation undone.
static void train_dense(const DensePlan& plan, const Parameters& parameters, const Batch& x, const Batch& g,
                        const Batch& dx, int64_t examples, float* packed, const Rule& rule) {
    pack_gradient(plan, g, examples, packed);
    constexpr auto sgd = Optimizer::sgd, momentum = Optimizer::momentum, adam = Optimizer::adam;
    using Function = decltype(&train_weights<sgd, false, false>);
    static constexpr Function functions[3][2][2] = {
        {{train_weights<sgd, false, false>, train_weights<sgd, false, true>},
         {train_weights<sgd, true, false>, train_weights<sgd, true, true>}},
        {{train_weights<momentum, false, false>, train_weights<momentum, false, true>},
         {train_weights<momentum, true, false>, train_weights<momentum, true, true>}},
        {{train_weights<adam, false, false>, train_weights<adam, false, true>},
         {train_weights<adam, true, false>, train_weights<adam, true, true>}}};
    functions[static_cast<int>(rule.optimizer)][rule.pulled][parameters.sum != nullptr](plan, parameters, x, packed, dx,
                                                                                       examples, rule);
    if (!plan.step.trainable || !plan.step.has_bias) return;
    for (int64_t block = 0; block < plan.out_blocks; ++block) {
        float total[kWide] = {};
        for (int64_t b = 0; b < examples; ++b)
            for (int64_t i = 0; i < kWide; ++i) total[i] += g.block(b, block)[i];
        step(parameters, total, plan.step.bias + block * kWide, kWide, rule);
    }
}

}  // namespace fedsim::VARIANT
