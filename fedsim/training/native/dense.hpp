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
constexpr int kDotOutputs = 5, kDotExamples = kRegisters == 32 ? 4 : 2;
constexpr int kTogether = kRegisters == 32 ? 2 : 1;  // examples
constexpr int64_t kTileSize = kTile * kWide;
constexpr int64_t kLine = 16;   // floats in a cache line
constexpr int64_t kHalfLines = kTileSize / kLine / 2;
constexpr int64_t kGroup = 10;  // tiles

// y[example][output] = weights . x + bias for a few of each; lanes run along the inputs and are added up at the end.
// `soon` are weights that the next calls will want: each call fetches its share of them, `lines` a block.
template <int Examples>
BY_ITSELF void dot_tile(const float* weights, const Batch& x, int64_t example, int64_t blocks, const float* bias,
                        const Batch& y, int64_t output, int64_t outputs, const float* soon, int64_t lines) {
    Floats sums[Examples][kDotOutputs] = {};
    const float* inputs = x.block(example, 0);
    for (int64_t block = 0; block < blocks; ++block, weights += kTileSize, inputs += x.stride, soon += kTileSize) {
        for (int64_t line = 0; line < lines; ++line) __builtin_prefetch(soon + line * kLine);
        UNROLLED for (int64_t v = 0; v < kWide; v += LANES) {
            Floats input[Examples];
            UNROLLED for (int b = 0; b < Examples; ++b) input[b] = load(inputs + b * kWide + v);
            UNROLLED for (int o = 0; o < kDotOutputs; ++o) {
                Floats w = load(weights + o * kWide + v);
                UNROLLED for (int b = 0; b < Examples; ++b) sums[b][o] += input[b] * w;
            }
        }
    }
    float totals[Examples][kDotOutputs];
    UNROLLED for (int b = 0; b < Examples; ++b)
        UNROLLED for (int o = 0; o < kDotOutputs; ++o) totals[b][o] = sum(sums[b][o]);
    const int64_t real = outputs - output < kDotOutputs ? outputs - output : kDotOutputs;
    for (int b = 0; b < Examples; ++b)
        for (int64_t o = 0; o < real; ++o) y.at(example + b, output + o) = totals[b][o] + bias[output + o];
}

INLINE int64_t dot_offset(const DensePlan& plan, int64_t output) {
    return output / kTile * plan.in_blocks * kTileSize + output % kTile * kWide;
}

// y = activation(weights x + bias) for a batch.
static void multiply(const DensePlan& plan, const float* image, const Batch& x, const Batch& y, int64_t examples) {
    const int64_t outputs = plan.step.out_channels;
    const int64_t parts = (examples + kDotExamples - 1) / kDotExamples;
    const int64_t all_lines = kDotOutputs * kWide / kLine, lines = (all_lines + parts - 1) / parts;
    for (int64_t output = 0; output < outputs; output += kDotOutputs) {
        const float* weights = image + plan.step.weights + dot_offset(plan, output);
        const float* soon = image + plan.step.weights + dot_offset(plan, output + kDotOutputs);
        for (int64_t b = 0, line = 0; b < examples; b += kDotExamples, line += lines)
            with_constant<kDotExamples>(examples - b < kDotExamples ? examples - b : kDotExamples, [&](auto n) {
                dot_tile<n.value>(weights, x, b, plan.in_blocks, image + plan.step.bias, y, output, outputs,
                                  soon + line * kLine, line < all_lines ? lines : 0);
            });
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
template <Optimizer optimizer, bool pulled>
INLINE void fetch(const Parameters& parameters, int64_t at) {
    __builtin_prefetch(parameters.values + at, 1);
    if constexpr (optimizer != Optimizer::sgd) __builtin_prefetch(parameters.first + at, 1);
    if constexpr (optimizer == Optimizer::adam) __builtin_prefetch(parameters.second + at, 1);
    if constexpr (pulled) __builtin_prefetch(parameters.origin + at);
}

// For kOutputs outputs and two vectors of inputs: dx += g w, unless dx is null, then w steps along g x. On the way it
// fetches the tile that comes `next`, a line or two an example: so many at once would hold up the loads of this one.
template <Optimizer optimizer, bool pulled>
INLINE void train_tile(const Parameters& parameters, int64_t at, const float* x, const float* g, float* dx,
                       int64_t examples, bool trainable, const Rule& rule, int64_t next) {
    const float* weights = parameters.values + at;
    if (dx) {
        Floats w[kOutputs][2];
        UNROLLED for (int o = 0; o < kOutputs; ++o)
            UNROLLED for (int v = 0; v < 2; ++v) w[o][v] = load(weights + o * kWide + v * LANES);
        int64_t b = 0;
        for (; b + kTogether <= examples; b += kTogether) {
            for (int i = 0; i < kTogether; ++i)
                fetch<optimizer, pulled>(parameters, next + (b < kHalfLines ? b + i : 0) * kLine);
            go_back<kTogether>(w, g + b * kTile, dx + b * kWide);
        }
        for (; b < examples; ++b) go_back<1>(w, g + b * kTile, dx + b * kWide);
    }
    if (!trainable) return;
    Floats gradient[kOutputs][2] = {};
    for (int64_t b = 0; b < examples; ++b) {
        fetch<optimizer, pulled>(parameters, next + (b < kHalfLines ? kHalfLines + b : 0) * kLine);
        Floats input[2] = {load(x + b * kWide), load(x + b * kWide + LANES)};
        UNROLLED for (int o = 0; o < kOutputs; ++o) {
            Floats output = broadcast(g[b * kTile + o]);
            UNROLLED for (int v = 0; v < 2; ++v) gradient[o][v] += output * input[v];
        }
    }
    UNROLLED for (int o = 0; o < kOutputs; ++o)
        UNROLLED for (int v = 0; v < 2; ++v) {
            const int64_t place = o * kWide + v * LANES;
            store(parameters.values + at + place,
                  stepped<optimizer, pulled>(load(weights + place), gradient[o][v], parameters, at + place, rule));
        }
}

// A group of tiles after the other, from the last to the first: what the forward pass used last is still in the second-
// level cache, and what this pass uses last is what the next forward pass begins with. In a group, blocks of inputs
// outside and tiles inside: a block's x and dx stay in the first-level cache while the weights stream past.
template <Optimizer optimizer, bool pulled>
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
                        train_tile<optimizer, pulled>(parameters, at + o * kWide + v, x.block(0, block) + v,
                                                      packed + tile * examples * kTile + o, back ? back + v : nullptr,
                                                      examples, plan.step.trainable, rule, next);
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
    using Function = decltype(&train_weights<sgd, false>);
    static constexpr Function functions[3][2] = {{train_weights<sgd, false>, train_weights<sgd, true>},
                                                 {train_weights<momentum, false>, train_weights<momentum, true>},
                                                 {train_weights<adam, false>, train_weights<adam, true>}};
    functions[static_cast<int>(rule.optimizer)][rule.pulled](plan, parameters, x, packed, dx, examples, rule);
    if (!plan.step.trainable || !plan.step.has_bias) return;
    for (int64_t block = 0; block < plan.out_blocks; ++block) {
        float total[kWide] = {};
        for (int64_t b = 0; b < examples; ++b)
            for (int64_t i = 0; i < kWide; ++i) total[i] += g.block(b, block)[i];
        step(parameters, total, plan.step.bias + block * kWide, kWide, rule);
    }
}

}  // namespace fedsim::VARIANT
