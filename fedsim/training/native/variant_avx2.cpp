// The kernels for x86-64 with AVX2 and fused multiply-add.
#if defined(__x86_64__)
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define VARIANT avx2
#define LANES 8
#include "network.hpp"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
