// The kernels for x86-64 with AVX-512.
#if defined(__x86_64__)
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif
#define VARIANT avx512
#define LANES 16
#include "network.hpp"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
