// What each instruction set's variant offers to the rest of the engine.
#pragma once

#include "plan.hpp"

namespace fedsim {

struct Kernels {
    // The contract's flat vector into the image, and back.
    void (*pack)(const Layout&, const float* vector, float* image);
    void (*unpack)(const Layout&, const float* image, float* vector);
    void (*unpack_total)(const Layout&, const double* image, double* vector);
    // A client's epochs: `order` holds `count` rows an epoch, `losses` one mean an epoch. `steps` counts on.
    void (*train)(const Plan&, const Worker&, const Examples&, const Training&, const int64_t* order, int64_t count,
                  int64_t* steps, double* losses);
    // The norm of an update, and a part of it added to a sum: see clipping.hpp.
    double (*update_norm)(const float* after, const float* before, int64_t count);
    void (*add_update)(const float* after, const float* before, double factor, double* sum, int64_t count);
    // Up to worker.capacity examples; `outputs` [count][values] may be null.
    void (*evaluate)(const Plan&, const Worker&, const Examples&, const int64_t* order, int64_t count, double* losses,
                     uint8_t* correct, float* outputs);
    // Runs `rounds` rounds of multiply-adds on registers and returns how many floating-point operations that was.
    double (*multiply_adds)(int64_t rounds, float* sink);
};

namespace avx512 { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
namespace baseline { extern const Kernels kernels; }

}  // namespace fedsim
