// Convolutions in groups, depthwise ones first of all.
//
// Output channels lie in vector lanes. Lane by lane the inputs differ: output c reads the `share` input channels of its
// group. With one input and one output a group (depthwise) they are a plain vector; otherwise they are gathered.
#pragma once

#include "convolution.hpp"

namespace fedsim::VARIANT {

INLINE int64_t group_share(const Step& step) { return step.in_channels / step.groups; }

INLINE bool is_depthwise(const Step& step) {
    return step.groups == step.in_channels && step.groups == step.out_channels;
}

// The first input channel of each lane's group; lanes of padding read channel 0, against weights of zero.
INLINE void group_starts(const Step& step, int64_t c, int64_t* starts) {
    for (int64_t lane = 0; lane < LANES; ++lane) {
        int64_t channel = c + lane < step.out_channels ? c + lane : 0;
        starts[lane] = channel / (step.out_channels / step.groups) * group_share(step);
    }
}

INLINE Floats gather(const float* x, const int64_t* starts) {
    float lanes[LANES];
    for (int lane = 0; lane < LANES; ++lane) lanes[lane] = x[starts[lane]];
    return load(lanes);
}

INLINE void scatter_add(float* x, const int64_t* starts, Floats v) {
    float lanes[LANES];
    store(lanes, v);
    for (int lane = 0; lane < LANES; ++lane) x[starts[lane]] += lanes[lane];
}

static void convolve_groups(const SpatialPlan& plan, const float* image, const float* x, float* y) {
    const int64_t channels = plan.out_channels, share = group_share(plan.step), step = window_step(plan);
    const bool depthwise = is_depthwise(plan.step);
    for (int64_t c = 0; c < channels; c += LANES) {
        int64_t starts[LANES];
        group_starts(plan.step, c, starts);
        for (int64_t row = 0; row < plan.rows; ++row)
            for (int64_t p = 0; p < plan.columns; ++p) {
                const float* corner = window(plan, x, row) + p * step;
                const float* w = image + plan.step.weights + c;
                Floats total = load(image + plan.step.bias + c);
                for (int64_t tap = 0; tap < plan.taps.count; ++tap)
                    for (int64_t i = 0; i < share; ++i, w += channels) {
                        const float* inputs = corner + plan.taps.offsets[tap] + i;
                        total += load(w) * (depthwise ? load(inputs + c) : gather(inputs, starts));
                    }
                store(y + plan.out.origin + row * plan.out.row + p * channels + c, total);
            }
    }
    for (int64_t row = 0; row < plan.rows; ++row) {
        float* out = y + plan.out.origin + row * plan.out.row;
        activate(plan.step.activation, out, plan.columns * channels);
        if (plan.step.activation == Activation::sigmoid)
            clear_padding(out, plan.columns, plan.step.out_channels, channels);
    }
}

// gradient += d loss / d weights, and dx = d loss / d x unless it is null, of one example.
static void group_gradients(const SpatialPlan& plan, const float* image, const float* x, const float* g,
                            float* gradient, float* dx) {
    const int64_t channels = plan.out_channels, share = group_share(plan.step), step = window_step(plan);
    const bool depthwise = is_depthwise(plan.step);
    if (dx) std::memset(dx, 0, sizeof(float) * plan.in.size);
    for (int64_t c = 0; c < channels; c += LANES) {
        int64_t starts[LANES];
        group_starts(plan.step, c, starts);
        for (int64_t row = 0; row < plan.rows; ++row)
            for (int64_t p = 0; p < plan.columns; ++p) {
                const int64_t corner = row * plan.step.stride_height * plan.in.row + p * step;
                const Floats output = load(g + plan.out.origin + row * plan.out.row + p * channels + c);
                int64_t at = c;
                for (int64_t tap = 0; tap < plan.taps.count; ++tap)
                    for (int64_t i = 0; i < share; ++i, at += channels) {
                        const int64_t inputs = corner + plan.taps.offsets[tap] + i;
                        const Floats back = output * load(image + plan.step.weights + at);
                        if (depthwise) {
                            store(gradient + at, load(gradient + at) + output * load(x + inputs + c));
                            if (dx) store(dx + inputs + c, load(dx + inputs + c) + back);
                        } else {
                            store(gradient + at, load(gradient + at) + output * gather(x + inputs, starts));
                            if (dx) scatter_add(dx + inputs, starts, back);
                        }
                    }
            }
    }
}

}  // namespace fedsim::VARIANT
