// Vectors of LANES floats by the compilers' vector extensions: one source for AVX-512, AVX2, NEON and anything else.
//
// A file that includes this names its instruction set first: VARIANT (a namespace, so that the variants do not collide
// when linked) and LANES. No container or algorithm of the standard library is used in a variant: the linker would be
// free to keep the copy compiled for AVX-512 and hand it to a processor that has none.
#pragma once

#include <cstdint>
#include <cstring>

#define INLINE static inline __attribute__((always_inline))

// A tile is compiled by itself, so that all registers are its own.
#define BY_ITSELF static __attribute__((noinline))

// Before a loop over a tile: only when it is written out in full do the tile's vectors live in registers.
#if defined(__clang__)
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 32")
#endif

namespace fedsim::VARIANT {

// alignas 4: maps and tiles start at multiples of 64 bytes, but the taps of a window lie anywhere.
typedef float Floats __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

// Register tiles are sized so that accumulators, operands and one broadcast just fit.
#if LANES == 16 || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

#if defined(__x86_64__)
#define KEEP_IN_REGISTER(v) asm volatile("" : "+v"(v))
#elif defined(__aarch64__)
#define KEEP_IN_REGISTER(v) asm volatile("" : "+w"(v))
#else
#define KEEP_IN_REGISTER(v) asm volatile("" : "+g"(v))
#endif

// Hides where a pointer comes from. GCC would otherwise work out the address of every tap of a tile beforehand, and
// have no registers left for them.
INLINE const float* opaque(const float* p) {
    asm("" : "+r"(p));
    return p;
}

INLINE Floats load(const float* p) { return *reinterpret_cast<const Floats*>(p); }
INLINE void store(float* p, Floats v) { *reinterpret_cast<Floats*>(p) = v; }
INLINE Floats broadcast(float x) { return x - Floats{}; }
INLINE Ints broadcast(int32_t x) { return x - Ints{}; }
INLINE Ints load(const int32_t* p) { return *reinterpret_cast<const Ints*>(p); }
INLINE void store(int32_t* p, Ints v) { *reinterpret_cast<Ints*>(p) = v; }

// Four floats, over and over. The one thing said in the processor's own words: GCC takes a shuffle that says the same
// through memory, where it costs the dense layers' forward pass half its speed.
typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
INLINE Floats repeat_four(const float* p) {
    Floats repeated;
#if LANES == 16
    asm("vbroadcastf32x4 %1, %0" : "=v"(repeated) : "m"(*reinterpret_cast<const Four*>(p)));
#elif LANES == 8
    asm("vbroadcastf128 %1, %0" : "=x"(repeated) : "m"(*reinterpret_cast<const Four*>(p)));
#else
    repeated = load(p);
#endif
    return repeated;
}

// The second where one is not a number, so that a diverged model stays visibly so.
INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }

// Halving, not a chain: short, and the same order of additions in every tile.
template <int N>
struct Lanes {
    typedef float Half __attribute__((vector_size(N * 2), may_alias));
    typedef float Whole __attribute__((vector_size(N * 4), may_alias));
    static float sum(Whole v) {
        union {
            Whole whole;
            Half halves[2];
        } parts{v};
        return Lanes<N / 2>::sum(parts.halves[0] + parts.halves[1]);
    }
};
template <>
struct Lanes<2> {
    typedef float Whole __attribute__((vector_size(8), may_alias));
    static float sum(Whole v) { return v[0] + v[1]; }
};
INLINE float sum(Floats v) { return Lanes<LANES>::sum(v); }

template <int N>
struct Constant {
    static constexpr int value = N;
};

// Calls f(Constant<n>) for n in 1..Max: a tile's size must be known to the compiler for it to live in registers.
template <int Max, class F>
INLINE void with_constant(int64_t n, const F& f) {
    if constexpr (Max > 0) {
        if (n == Max) return f(Constant<Max>{});
        with_constant<Max - 1>(n, f);
    }
}

// The size of the first of as few, as equal parts of at most `most` as cover `count`.
INLINE int64_t even_part(int64_t count, int64_t most) {
    int64_t parts = (count + most - 1) / most;
    return (count + parts - 1) / parts;
}

INLINE int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace fedsim::VARIANT
