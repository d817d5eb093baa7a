// A convolution with 2 x 2 max pooling and activation, in one pass; and the way back along the winners alone.
//
// Of the four outputs under a pooling window one won, and after a ReLU perhaps none lives: three quarters or more of
// the gradient are zero, and that work is not done at all.
#pragma once

#include "convolution.hpp"

namespace fedsim::VARIANT {

constexpr int kPatch = kRegisters == 32 ? 8 : 4;  // vectors of weights, and of their gradient, held in registers

// Where in the input the windows of the 2 x 2 outputs under one pooling window begin, relative to the first of them.
struct Corners {
    int32_t at[4];
};

INLINE Corners corners_of(const SpatialPlan& plan) {
    const int32_t right = static_cast<int32_t>(window_step(plan));
    const int32_t down = static_cast<int32_t>(plan.step.stride_height * plan.in.row);
    return {{0, right, down, down + right}};
}

// Where in the input the first convolution window under a row of pooling windows begins.
INLINE int32_t row_start(const Corners& corners, int64_t row) { return static_cast<int32_t>(2 * row) * corners.at[2]; }

// Pools two rows of a convolution's results into one, and unless `corners` is null writes down which of the four won;
// a tie goes to the first in scan order, as in torch.
static void pool_rows(const float* upper, const float* lower, int64_t width, int64_t channels, float* y,
                      int32_t* corners) {
    for (int64_t i = 0; i < width * channels; i += channels, upper += channels, lower += channels)
        for (int64_t c = 0; c < channels; c += LANES) {
            const Floats four[] = {load(upper + i + c), load(upper + i + channels + c), load(lower + i + c),
                                   load(lower + i + channels + c)};
            Floats best = four[0];
            Ints corner{};
            UNROLLED for (int q = 1; q < 4; ++q) {
                Ints wins = four[q] > best;
                best = wins ? four[q] : best;
                corner = wins ? broadcast(int32_t{q}) : corner;
            }
            store(y + i + c, best);
            if (corners) store(corners + i + c, corner);
        }
}

// y = activation(pooling(convolution(x))) of one example.
static void convolve_and_pool(const SpatialPlan& plan, const float* image, const float* x, float* rows, float* y,
                              int32_t* corners) {
    const int64_t channels = plan.out_channels, width = plan.out.width;
    float* lower = rows + plan.columns * channels;
    for (int64_t row = 0; row < plan.out.height; ++row) {
        convolve_forward(plan, image, x, 2 * row, 2, rows, plan.columns * channels);
        float* out = y + plan.out.origin + row * plan.out.row;
        pool_rows(rows, lower, width, channels, out, corners ? corners + row * width * channels : nullptr);
        activate(plan.step.activation, out, width * channels);
        if (plan.step.activation == Activation::sigmoid)
            clear_padding(out, width, plan.step.out_channels, channels);
    }
}

// As weight_gradient_tile, for a pooled output: under each pooling window the winner, and it alone, has a gradient.
template <int RunsAtOnce, int Length, int Vectors>
BY_ITSELF void pooled_weight_gradient_tile(const SpatialPlan& plan, const float* x, const int32_t* runs, const float* g,
                                           const int32_t* winners, float* gradient, int64_t run_stride) {
    const int64_t channels = plan.out_channels;
    const Corners corners = corners_of(plan);
    int64_t offsets[RunsAtOnce];
    UNROLLED for (int r = 0; r < RunsAtOnce; ++r) offsets[r] = runs[r];
    Floats sums[RunsAtOnce][Length][Vectors];
    UNROLLED for (int r = 0; r < RunsAtOnce; ++r)
        UNROLLED for (int i = 0; i < Length; ++i)
            UNROLLED for (int v = 0; v < Vectors; ++v)
                sums[r][i][v] = load(gradient + r * run_stride + i * channels + v * LANES);
    for (int64_t row = 0; row < plan.out.height; ++row) {
        const float* output = g + row * plan.out.row;
        int32_t start = row_start(corners, row);
        for (int64_t p = 0; p < plan.out.width; ++p, start += 2 * corners.at[1]) {
            Floats value[Vectors];
            Ints winner[Vectors];
            UNROLLED for (int v = 0; v < Vectors; ++v) {
                value[v] = load(output + v * LANES);
                winner[v] = load(winners + v * LANES);
            }
            UNROLLED for (int q = 0; q < 4; ++q) {
                const float* taps = opaque(x + start + corners.at[q]);
                Floats share[Vectors];
                UNROLLED for (int v = 0; v < Vectors; ++v) share[v] = winner[v] == q ? value[v] : Floats{};
                UNROLLED for (int r = 0; r < RunsAtOnce; ++r)
                    UNROLLED for (int i = 0; i < Length; ++i) {
                        Floats input = broadcast(taps[offsets[r] + i]);
                        UNROLLED for (int v = 0; v < Vectors; ++v) sums[r][i][v] += input * share[v];
                    }
            }
            output += channels;
            winners += channels;
        }
    }
    UNROLLED for (int r = 0; r < RunsAtOnce; ++r)
        UNROLLED for (int i = 0; i < Length; ++i)
            UNROLLED for (int v = 0; v < Vectors; ++v)
                store(gradient + r * run_stride + i * channels + v * LANES, sums[r][i][v]);
}

// gradient += d loss / d weights of one example.
static void pooled_weight_gradient(const SpatialPlan& plan, const float* x, const float* g, const int32_t* winners,
                                   float* gradient) {
    const int64_t channels = plan.out_channels, run_stride = plan.taps.length * channels;
    for_each_weight_tile(plan.taps, channels, [&](auto r, auto n, auto v, int64_t run, int64_t i, int64_t c) {
        pooled_weight_gradient_tile<r.value, n.value, v.value>(
            plan, x + i, plan.taps.offsets + run, g + plan.out.origin + c, winners + c,
            gradient + run * run_stride + i * channels + c, run_stride);
    });
}

// Calls f(place in turned, place in weights) for every weight. turned [out][patch]: each output channel's weights in the
// order of the inputs under its window, padding included.
template <class F>
INLINE void for_each_turned(const SpatialPlan& plan, const F& f) {
    const int64_t patch = plan.patch.count * plan.patch.length, ins = plan.step.in_channels;
    const int64_t taps = plan.step.kernel_height * plan.step.kernel_width;
    for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t in = 0; in < ins; ++in)
            for (int64_t out = 0; out < plan.step.out_channels; ++out)
                f(out * patch + tap * plan.in.channels + in, (tap * ins + in) * plan.out_channels + out);
}

static void turn_to_patches(const SpatialPlan& plan, const float* weights, float* turned) {
    for_each_turned(plan, [&](int64_t to, int64_t from) { turned[to] = weights[from]; });
}

static void turn_from_patches(const SpatialPlan& plan, const float* turned, float* weights) {
    for_each_turned(plan, [&](int64_t from, int64_t to) { weights[to] = turned[from]; });
}

// For one output channel and Runs * Length vectors of its patch: both gradients of `count` live winners.
template <int RunsAtOnce, int Length>
BY_ITSELF void scatter_tile(const float* x, float* dx, const int32_t* runs, const int32_t* offsets, const float* values,
                            int64_t count, const float* weights, float* gradient) {
    Floats w[RunsAtOnce][Length], sums[RunsAtOnce][Length];
    UNROLLED for (int r = 0; r < RunsAtOnce; ++r)
        UNROLLED for (int v = 0; v < Length; ++v) {
            w[r][v] = load(weights + (r * Length + v) * LANES);
            sums[r][v] = load(gradient + (r * Length + v) * LANES);
        }
    const int64_t apart = RunsAtOnce == 2 ? runs[1] - runs[0] : 0;
    x += runs[0];
    dx += runs[0];
    for (int64_t i = 0; i < count; ++i) {
        Floats value = broadcast(values[i]);
        const float* from = x + offsets[i];
        float* to = dx + offsets[i];
        UNROLLED for (int r = 0; r < RunsAtOnce; ++r)
            UNROLLED for (int v = 0; v < Length; ++v) {
                sums[r][v] += value * load(from + r * apart + v * LANES);
                float* place = to + r * apart + v * LANES;
                store(place, load(place) + value * w[r][v]);
            }
    }
    UNROLLED for (int r = 0; r < RunsAtOnce; ++r)
        UNROLLED for (int v = 0; v < Length; ++v) store(gradient + (r * Length + v) * LANES, sums[r][v]);
}

// The winners of channel c that have a gradient: where their windows begin in the input, and the gradients.
BY_ITSELF int64_t live_winners(const SpatialPlan& plan, const float* g, const int32_t* winners, int64_t c,
                               int32_t* offsets, float* values) {
    const Corners corners = corners_of(plan);
    int64_t count = 0;
    for (int64_t row = 0; row < plan.out.height; ++row) {
        const float* value = g + plan.out.origin + row * plan.out.row + c;
        int32_t start = row_start(corners, row);
        for (int64_t p = 0; p < plan.out.width; ++p, start += 2 * corners.at[1]) {
            uint32_t bits;
            std::memcpy(&bits, value, sizeof bits);
            offsets[count] = start + corners.at[*winners];
            values[count] = *value;
            count += (bits << 1) != 0;  // neither zero nor minus zero; shorter than a comparison of floats
            value += plan.out_channels;
            winners += plan.out_channels;
        }
    }
    return count;
}

// gradient (in turned order) += d loss / d weights; dx = d loss / d x, border included.
static void scatter_winners(const SpatialPlan& plan, const float* x, const float* g, const int32_t* winners,
                            const float* turned, float* turned_gradient, float* dx, int32_t* offsets, float* values) {
    const Runs& patch = plan.patch;
    const int64_t vectors = patch.length / LANES, length = even_part(vectors, kPatch);
    std::memset(dx, 0, sizeof(float) * plan.in.size);
    for (int64_t c = 0; c < plan.step.out_channels; ++c) {
        const int64_t count = live_winners(plan, g, winners + c, c, offsets, values);
        const int64_t base = c * patch.count * patch.length;
        const bool whole = length == vectors && length * 2 <= kPatch;  // then two runs make one tile
        for (int64_t run = 0; run < patch.count;) {
            const bool two = whole && patch.count - run >= 2;
            for (int64_t v = 0; v < vectors; v += length)
                with_constant<kPatch>(vectors - v < length ? vectors - v : length, [&](auto n) {
                    constexpr int N = n.value, Pair = N * 2 <= kPatch ? 2 : 1;
                    auto tile = two ? scatter_tile<Pair, N> : scatter_tile<1, N>;
                    const int64_t at = base + run * patch.length + v * LANES;
                    tile(x + v * LANES, dx + v * LANES, patch.offsets + run, offsets, values, count, turned + at,
                         turned_gradient + at);
                });
            run += two ? 2 : 1;
        }
    }
}

}  // namespace fedsim::VARIANT
