// Activations and the elementary functions behind them, whole vectors at a time.
#pragma once

#include "program.hpp"
#include "vectors.hpp"

namespace fedsim::VARIANT {

// e^x for x <= 0, by range reduction and the Cephes library's polynomial (Moshier, expf.c): about 1 ulp.
INLINE Floats exponential(Floats x) {
    x = larger(broadcast(-87.0f), x);
    Floats scaled = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the addition rounds x / ln 2 to the nearest integer
    Ints exponent = reinterpret_cast<Ints&>(scaled) - broadcast(int32_t{0x4B400000});
    Floats whole = scaled - 12582912.0f;
    Floats r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    Floats p = broadcast(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    Ints power = (exponent + 127) << 23;
    return (p * (r * r) + r + 1.0f) * reinterpret_cast<Floats&>(power);
}

INLINE Floats magnitude(Floats x) { return larger(x, -x); }

INLINE Floats sigmoid(Floats x) {
    Floats e = exponential(-magnitude(x));
    return (x < 0.0f ? e : broadcast(1.0f)) / (e + 1.0f);
}

// Near zero by Cephes' odd polynomial (tanhf.c), where 1 - e^-2x would cancel.
INLINE Floats hyperbolic_tangent(Floats x) {
    Floats a = magnitude(x), z = x * x;
    Floats p = broadcast(-5.70498872745e-3f);
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    Floats e = exponential(a * -2.0f);
    Floats far = (1.0f - e) / (1.0f + e);
    return a < 0.625f ? x + x * z * p : (x < 0.0f ? -far : far);
}

// y = activation(y) over `count` floats, a multiple of kBlock. A sigmoid makes 0.5 of padding: see clear_padding.
INLINE void activate(Activation kind, float* y, int64_t count) {
    switch (kind) {
        case Activation::none:
            return;
        case Activation::relu:
            for (int64_t i = 0; i < count; i += LANES) store(y + i, larger(Floats{}, load(y + i)));
            return;
        case Activation::sigmoid:
            for (int64_t i = 0; i < count; i += LANES) store(y + i, sigmoid(load(y + i)));
            return;
        case Activation::tanh:
            for (int64_t i = 0; i < count; i += LANES) store(y + i, hyperbolic_tangent(load(y + i)));
            return;
    }
}

// g = g * activation'(x), told from the output y alone. A ReLU's derivative at zero is zero, as in torch.
INLINE void activation_gradient(Activation kind, const float* y, float* g, int64_t count) {
    switch (kind) {
        case Activation::none:
            return;
        case Activation::relu:
            for (int64_t i = 0; i < count; i += LANES) store(g + i, load(y + i) > 0.0f ? load(g + i) : Floats{});
            return;
        case Activation::sigmoid:
            for (int64_t i = 0; i < count; i += LANES) store(g + i, load(g + i) * load(y + i) * (1.0f - load(y + i)));
            return;
        case Activation::tanh:
            for (int64_t i = 0; i < count; i += LANES) store(g + i, load(g + i) * (1.0f - load(y + i) * load(y + i)));
            return;
    }
}

// Puts the zeros of padding back into rows of `stride` numbers of which `used` mean something.
INLINE void clear_padding(float* y, int64_t rows, int64_t used, int64_t stride) {
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = used; i < stride; ++i) y[row * stride + i] = 0.0f;
}

}  // namespace fedsim::VARIANT
