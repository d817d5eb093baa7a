// Reads examples as the data set has them, bytes or floats with channels first, into the first map.
#pragma once

#include "plan.hpp"
#include "vectors.hpp"

namespace fedsim::VARIANT {

// What a byte means: its 255th part, exactly rounded. A table, since a division takes as long as a whole tap.
struct Fractions {
    float of[256];
    constexpr Fractions() : of{} {
        for (int i = 0; i < 256; ++i) of[i] = static_cast<float>(i) / 255.0f;
    }
};
constexpr Fractions kFractions;

INLINE float number(uint8_t byte) { return kFractions.of[byte]; }
INLINE float number(float given) { return given; }

// One channel of an example, `width` numbers a row, into a map's places `apart` floats apart.
template <class T>
INLINE void read_channel(const T* __restrict from, int64_t height, int64_t width, float* __restrict to, int64_t row,
                         int64_t apart) {
    for (int64_t v = 0; v < height; ++v, from += width, to += row)
        if (apart == 1)
            for (int64_t u = 0; u < width; ++u) to[u] = number(from[u]);
        else
            for (int64_t u = 0; u < width; ++u) to[u * apart] = number(from[u]);
}

// One example, channels first, into the first map, channels last.
static void read_example(const Plan& plan, const Examples& examples, int64_t row, float* x) {
    const Map& map = plan.input;
    const int64_t area = map.height * map.width, begin = row * plan.input_channels * area;
    const bool flat = area == 1;  // then the channels themselves are neighbours
    const bool whole = flat || (map.channels == 1 && map.row == map.width);  // then there is but one row
    const int64_t channels = flat ? 1 : plan.input_channels, apart = flat ? 1 : map.channels;
    const int64_t height = whole ? 1 : map.height, width = flat ? plan.input_channels : whole ? area : map.width;
    for (int64_t c = 0; c < channels; ++c) {
        float* to = x + map.origin + c;
        if (examples.inputs_are_bytes)
            read_channel(static_cast<const uint8_t*>(examples.inputs) + begin + c * area, height, width, to, map.row,
                         apart);
        else
            read_channel(static_cast<const float*>(examples.inputs) + begin + c * area, height, width, to, map.row,
                         apart);
    }
}

}  // namespace fedsim::VARIANT
