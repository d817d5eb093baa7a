// A client's update, its weights less the round's: how long it is, and a part of it added to a sum. Both in double
// precision, in which the difference of two floats is exact or nearly so and its square does not overflow.
#pragma once

#include <cmath>

#include "vectors.hpp"

namespace fedsim::VARIANT {

typedef float HalfFloats __attribute__((vector_size(LANES * 2), aligned(4), may_alias));
typedef double Doubles __attribute__((vector_size(LANES * 4), aligned(8), may_alias));

INLINE Doubles widened(const float* p) {
    return __builtin_convertvector(*reinterpret_cast<const HalfFloats*>(p), Doubles);
}

INLINE Doubles moved(const float* after, const float* before) { return widened(after) - widened(before); }

// The Euclidean norm over `count` weights, a multiple of kBlock.
static double update_norm(const float* after, const float* before, int64_t count) {
    Doubles squares[2] = {};
    for (int64_t i = 0; i < count; i += LANES) {
        const Doubles low = moved(after + i, before + i), high = moved(after + i + LANES / 2, before + i + LANES / 2);
        squares[0] += low * low;
        squares[1] += high * high;
    }
    const Doubles both = squares[0] + squares[1];
    double total = 0;
    for (int lane = 0; lane < LANES / 2; ++lane) total += both[lane];
    return std::sqrt(total);
}

// sum += factor * update.
static void add_update(const float* after, const float* before, double factor, double* sum, int64_t count) {
    for (int64_t i = 0; i < count; i += LANES / 2) {
        Doubles& at = *reinterpret_cast<Doubles*>(sum + i);
        at = at + moved(after + i, before + i) * factor;
    }
}

}  // namespace fedsim::VARIANT
