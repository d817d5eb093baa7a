// Convolutions: forward, and both gradients where every output has one.
//
// Output channels lie in vector lanes and neighbouring positions in registers: a tile of 14 positions by 2 vectors
// keeps 28 accumulators busy on one broadcast input and two weights, none of which is loaded twice.
#pragma once

#include "elementary.hpp"
#include "plan.hpp"
#include "vectors.hpp"

namespace fedsim::VARIANT {

constexpr int kPositions = kRegisters == 32 ? 14 : 6;
constexpr int kTaps = kRegisters == 32 ? 12 : 6;

// What a convolution reads and writes: `rows` rows of outputs, those of a row `channels` floats apart and their inputs
// `step`. `bias` may be null.
struct Sweep {
    const float* x;
    int64_t x_row, step;
    Runs taps;
    const float *weights, *bias;
    int64_t channels;
    float* y;
    int64_t y_row, rows;
};

constexpr int kReach = 5;  // positions addressed from one pointer: more would need more registers than there are

// The outputs of `parts` parts of Positions neighbours, from `position` on in every row, and Vectors vectors of
// channels from `channel` on.
template <int Positions, int Vectors>
BY_ITSELF void convolve_tile(const Sweep& sweep, int64_t position, int64_t parts, int64_t channel) {
    const int64_t step = sweep.step, channels = sweep.channels;
    for (int64_t row = 0; row < sweep.rows; ++row)
        for (int64_t part = 0; part < parts; ++part) {
            const int64_t at = position + part * Positions;
            const float* corner = sweep.x + row * sweep.x_row + at * step;
            const float* weights = sweep.weights + channel;
            Floats sums[Positions][Vectors];
            UNROLLED for (int v = 0; v < Vectors; ++v) {
                const Floats bias = sweep.bias ? load(sweep.bias + channel + v * LANES) : Floats{};
                UNROLLED for (int p = 0; p < Positions; ++p) sums[p][v] = bias;
            }
            for (int64_t run = 0; run < sweep.taps.count; ++run) {
                const float* taps[] = {opaque(corner + sweep.taps.offsets[run]), nullptr, nullptr};
                taps[1] = opaque(taps[0] + kReach * step);
                taps[2] = opaque(taps[1] + kReach * step);
                for (int64_t i = 0; i < sweep.taps.length; ++i, weights += channels) {
                    Floats w[Vectors];
                    UNROLLED for (int v = 0; v < Vectors; ++v) w[v] = load(weights + v * LANES);
                    UNROLLED for (int p = 0; p < Positions; ++p) {
                        Floats input = broadcast(taps[p / kReach][p % kReach * step]);
                        UNROLLED for (int v = 0; v < Vectors; ++v) sums[p][v] += input * w[v];
                    }
                    UNROLLED for (int t = 0; t < 3; ++t) ++taps[t];
                }
            }
            float* y = sweep.y + row * sweep.y_row + at * channels + channel;
            UNROLLED for (int p = 0; p < Positions; ++p)
                UNROLLED for (int v = 0; v < Vectors; ++v) store(y + p * channels + v * LANES, sums[p][v]);
        }
}

// Rows of `width` outputs each.
static void convolve_rows(const Sweep& sweep, int64_t width) {
    const int64_t part = even_part(width, kPositions), whole = width / part, rest = width % part;
    for (int64_t c = 0; c < sweep.channels;) {
        const int64_t vectors = sweep.channels - c >= 2 * LANES ? 2 : 1;
        auto run = [&](int64_t position, int64_t parts, int64_t size) {
            with_constant<kPositions>(size, [&](auto n) {
                auto tile = vectors == 2 ? convolve_tile<n.value, 2> : convolve_tile<n.value, 1>;
                tile(sweep, position, parts, c);
            });
        };
        run(0, whole, part);
        if (rest) run(whole * part, 1, rest);
        c += vectors * LANES;
    }
}

INLINE const float* window(const SpatialPlan& plan, const float* x, int64_t row) {
    return x + row * plan.step.stride_height * plan.in.row;
}

INLINE int64_t window_step(const SpatialPlan& plan) { return plan.step.stride_width * plan.in.channels; }

// `rows` rows of a convolution's outputs from `row` on, before its activation.
static void convolve_forward(const SpatialPlan& plan, const float* image, const float* x, int64_t row, int64_t rows,
                             float* y, int64_t y_row) {
    const Sweep sweep{window(plan, x, row),
                      plan.step.stride_height * plan.in.row,
                      window_step(plan),
                      plan.taps,
                      image + plan.step.weights,
                      image + plan.step.bias,
                      plan.out_channels,
                      y,
                      y_row,
                      rows};
    convolve_rows(sweep, plan.columns);
}

// y = activation(convolution(x)) of one example; x points to the map's first float, border included.
static void convolve(const SpatialPlan& plan, const float* image, const float* x, float* y) {
    convolve_forward(plan, image, x, 0, plan.rows, y + plan.out.origin, plan.out.row);
    for (int64_t row = 0; row < plan.rows; ++row) {
        float* out = y + plan.out.origin + row * plan.out.row;
        activate(plan.step.activation, out, plan.columns * plan.out_channels);
        if (plan.step.activation == Activation::sigmoid)
            clear_padding(out, plan.columns, plan.step.out_channels, plan.out_channels);
    }
}

// The part of the weights' gradient that belongs to RunsAtOnce * Length of the taps and Vectors of the outputs,
// accumulated over all windows in registers.
template <int RunsAtOnce, int Length, int Vectors>
BY_ITSELF void weight_gradient_tile(const SpatialPlan& plan, const float* x, const int32_t* runs, const float* g,
                                    float* gradient, int64_t run_stride) {
    const int64_t channels = plan.out_channels, step = window_step(plan), g_step = plan.step.stride_width * channels;
    int64_t offsets[RunsAtOnce];
    UNROLLED for (int r = 0; r < RunsAtOnce; ++r) offsets[r] = runs[r];
    Floats sums[RunsAtOnce][Length][Vectors];
    UNROLLED for (int r = 0; r < RunsAtOnce; ++r)
        UNROLLED for (int i = 0; i < Length; ++i)
            UNROLLED for (int v = 0; v < Vectors; ++v)
                sums[r][i][v] = load(gradient + r * run_stride + i * channels + v * LANES);
    for (int64_t row = 0; row < plan.rows; ++row) {
        const float* taps = window(plan, x, row);
        const float* row_gradient = g + row * plan.step.stride_height * plan.spread.row;
        for (int64_t p = 0; p < plan.columns; ++p, taps += step, row_gradient += g_step) {
            Floats output[Vectors];
            UNROLLED for (int v = 0; v < Vectors; ++v) output[v] = load(row_gradient + v * LANES);
            UNROLLED for (int r = 0; r < RunsAtOnce; ++r)
                UNROLLED for (int i = 0; i < Length; ++i) {
                    Floats input = broadcast(taps[offsets[r] + i]);
                    UNROLLED for (int v = 0; v < Vectors; ++v) sums[r][i][v] += input * output[v];
                }
        }
    }
    UNROLLED for (int r = 0; r < RunsAtOnce; ++r)
        UNROLLED for (int i = 0; i < Length; ++i)
            UNROLLED for (int v = 0; v < Vectors; ++v)
                store(gradient + r * run_stride + i * channels + v * LANES, sums[r][i][v]);
}

// Calls f(Constant<runs>, Constant<length>, Constant<vectors>, run, i, c) for every tile of the weights: so many runs
// of taps from `run` on, of each so many from `i` on, and so many vectors of outputs from channel `c` on.
template <class F>
INLINE void for_each_weight_tile(const Runs& taps, int64_t channels, const F& f) {
    const int64_t length = even_part(taps.length, kTaps);
    for (int64_t run = 0; run < taps.count;) {
        const int64_t left = taps.count - run;
        const int64_t runs = length * 3 <= kTaps && left >= 3 ? 3 : length * 2 <= kTaps && left >= 2 ? 2 : 1;
        for (int64_t i = 0; i < taps.length; i += length)
            for (int64_t c = 0; c < channels;) {
                const int64_t vectors = channels - c >= 2 * LANES ? 2 : 1;
                with_constant<kTaps>(taps.length - i < length ? taps.length - i : length, [&](auto n) {
                    constexpr int most = n.value * 3 <= kTaps ? 3 : n.value * 2 <= kTaps ? 2 : 1;
                    with_constant<most>(runs, [&](auto r) {
                        with_constant<2>(vectors, [&](auto v) { f(r, n, v, run, i, c); });
                    });
                });
                c += vectors * LANES;
            }
        run += runs;
    }
}

// gradient += d loss / d weights of one example; `spread` is the output's gradient as spread_gradient leaves it.
static void weight_gradient(const SpatialPlan& plan, const float* x, const float* spread, float* gradient) {
    const int64_t channels = plan.out_channels, run_stride = plan.taps.length * channels;
    for_each_weight_tile(plan.taps, channels, [&](auto r, auto n, auto v, int64_t run, int64_t i, int64_t c) {
        weight_gradient_tile<r.value, n.value, v.value>(plan, x + i, plan.taps.offsets + run,
                                                        spread + plan.spread.origin + c,
                                                        gradient + run * run_stride + i * channels + c, run_stride);
    });
}

// sums += the gradient of all outputs: the bias's gradient.
static void bias_gradient(const SpatialPlan& plan, const float* g, float* sums) {
    for (int64_t c = 0; c < plan.out_channels; c += LANES) {
        Floats total = load(sums + c);
        for (int64_t row = 0; row < plan.out.height; ++row) {
            const float* p = g + plan.out.origin + row * plan.out.row + c;
            for (int64_t i = 0; i < plan.out.width; ++i) total += load(p + i * plan.out_channels);
        }
        store(sums + c, total);
    }
}

// Lays the output's gradient out with zeros between and around, so that the way back is a plain convolution of it
// with the transposed weights, whatever the stride.
static void spread_gradient(const SpatialPlan& plan, const float* g, float* spread) {
    const Step& step = plan.step;
    for (int64_t row = 0; row < plan.rows; ++row)
        for (int64_t column = 0; column < plan.columns; ++column)
            std::memcpy(spread + plan.spread.origin + row * step.stride_height * plan.spread.row +
                            column * step.stride_width * plan.spread.channels,
                        g + plan.out.origin + row * plan.out.row + column * plan.out_channels,
                        sizeof(float) * plan.out_channels);
}

// turned [height][width][out][in padded]: the weights, mirrored and transposed.
static void turn_weights(const SpatialPlan& plan, const float* weights, float* turned) {
    const int64_t taps = plan.step.kernel_height * plan.step.kernel_width, ins = plan.step.in_channels;
    for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t out = 0; out < plan.step.out_channels; ++out)
            for (int64_t in = 0; in < ins; ++in)
                turned[((taps - 1 - tap) * plan.step.out_channels + out) * plan.in.channels + in] =
                    weights[(tap * ins + in) * plan.out_channels + out];
}

// dx = d loss / d x of one example, border included.
static void input_gradient(const SpatialPlan& plan, const float* turned, const float* spread, float* dx) {
    const int64_t rows = plan.in.size / plan.in.row, columns = plan.in.row / plan.in.channels;
    const Sweep sweep{spread, plan.spread.row,      plan.spread.channels, plan.back,
                      turned, nullptr,              plan.in.channels,     dx,
                      plan.in.row, rows};
    convolve_rows(sweep, columns);
}

}  // namespace fedsim::VARIANT
