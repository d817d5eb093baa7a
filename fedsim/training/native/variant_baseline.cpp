// The kernels for whatever processor the compiler takes for granted: NEON on arm64, SSE2 on x86-64.
#include <cmath>
#include <cstdint>
#include <cstring>

#define VARIANT baseline
#define LANES 4
#include "network.hpp"
