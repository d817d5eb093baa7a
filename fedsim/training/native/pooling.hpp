// Poolings of any window, stride and padding, those over the whole map among them; channels lie in vector lanes.
#pragma once

#include "elementary.hpp"
#include "plan.hpp"
#include "vectors.hpp"

namespace fedsim::VARIANT {

// A window cut off at the edges of the map: padding never wins a maximum and counts as zero in an average.
struct Window {
    int64_t top, bottom, left, right;
    float share;  // of one position in the average
};

INLINE Window pooling_window(const SpatialPlan& plan, int64_t row, int64_t column) {
    const Step& step = plan.step;
    const int64_t y = row * step.stride_height - step.pad_top, x = column * step.stride_width - step.pad_left;
    Window window;
    window.top = y > 0 ? y : 0;
    window.left = x > 0 ? x : 0;
    window.bottom = y + step.kernel_height < plan.in.height ? y + step.kernel_height : plan.in.height;
    window.right = x + step.kernel_width < plan.in.width ? x + step.kernel_width : plan.in.width;
    const int64_t inside = (window.bottom - window.top) * (window.right - window.left);
    window.share = 1.0f / static_cast<float>(step.count_padding ? step.kernel_height * step.kernel_width : inside);
    return window;
}

// `winners` gets the offset of each maximum in the map; a tie goes to the first in scan order, as in torch.
static void pool(const SpatialPlan& plan, const float* x, float* y, int32_t* winners) {
    const int64_t channels = plan.out_channels;
    const bool maximum = plan.step.kind == Kind::max_pooling;
    for (int64_t row = 0; row < plan.rows; ++row) {
        float* out = y + plan.out.origin + row * plan.out.row;
        for (int64_t column = 0; column < plan.columns; ++column) {
            const Window window = pooling_window(plan, row, column);
            for (int64_t c = 0; c < channels; c += LANES) {
                const int64_t first = plan.in.origin + window.top * plan.in.row + window.left * channels;
                Floats best = maximum ? load(x + first + c) : Floats{};
                Ints winner = broadcast(static_cast<int32_t>(first));
                for (int64_t v = window.top; v < window.bottom; ++v)
                    for (int64_t u = window.left; u < window.right; ++u) {
                        const int64_t at = plan.in.origin + v * plan.in.row + u * channels;
                        const Floats value = load(x + at + c);
                        if (maximum) {
                            Ints wins = value > best;
                            best = wins ? value : best;
                            winner = wins ? broadcast(static_cast<int32_t>(at)) : winner;
                        } else {
                            best += value;
                        }
                    }
                store(out + column * channels + c, maximum ? best : best * window.share);
                if (maximum) store(winners + (row * plan.columns + column) * channels + c, winner);
            }
        }
        activate(plan.step.activation, out, plan.columns * channels);
        if (plan.step.activation == Activation::sigmoid)
            clear_padding(out, plan.columns, plan.step.out_channels, channels);
    }
}

// dx = d loss / d x of one example.
static void pool_gradient(const SpatialPlan& plan, const float* g, const int32_t* winners, float* dx) {
    const int64_t channels = plan.out_channels;
    std::memset(dx, 0, sizeof(float) * plan.in.size);
    for (int64_t row = 0; row < plan.rows; ++row)
        for (int64_t column = 0; column < plan.columns; ++column) {
            const float* out = g + plan.out.origin + row * plan.out.row + column * channels;
            if (plan.step.kind == Kind::max_pooling) {
                const int32_t* winner = winners + (row * plan.columns + column) * channels;
                for (int64_t c = 0; c < channels; ++c) dx[winner[c] + c] += out[c];
                continue;
            }
            const Window window = pooling_window(plan, row, column);
            for (int64_t v = window.top; v < window.bottom; ++v)
                for (int64_t u = window.left; u < window.right; ++u) {
                    float* to = dx + plan.in.origin + v * plan.in.row + u * channels;
                    for (int64_t c = 0; c < channels; c += LANES)
                        store(to + c, load(to + c) + load(out + c) * window.share);
                }
        }
}

}  // namespace fedsim::VARIANT
