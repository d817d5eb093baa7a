// The C interface, called through ctypes by library.py. No exception leaves it.
#include <cstring>
#include <new>

#include "engine.hpp"
#include "status.hpp"

#define API extern "C" __attribute__((visibility("default")))

namespace {

using namespace fedsim;

struct Variant {
    const char* name;
    const Kernels* kernels;
    bool runs_here;
};

// Best first.
const Variant* variants(int* count) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    static const Variant all[] = {
        {"avx512", &avx512::kernels,
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")},
        {"avx2", &avx2::kernels, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
        {"baseline", &baseline::kernels, true},
    };
#else
    static const Variant all[] = {{"baseline", &baseline::kernels, true}};
#endif
    *count = sizeof all / sizeof all[0];
    return all;
}

const Variant* find_variant(const char* name) {
    int count;
    const Variant* all = variants(&count);
    for (int i = 0; i < count; ++i)
        if (all[i].runs_here && (!*name || !std::strcmp(name, all[i].name))) return all + i;
    return nullptr;
}

template <class Work>
int status_of(const Work& work) {
    try {
        return work();
    } catch (const std::bad_alloc&) {
        return kNoMemory;
    }
}

}  // namespace

// The sizes of the structures that both sides lay out, for library.py to compare with its own.
API void fedsim_sizes(int64_t* sizes) {
    const int64_t own[] = {sizeof(Step), sizeof(Placement), sizeof(TrainJob), sizeof(EvaluateJob),
                           kBlock,       kWide,             kTile};
    std::memcpy(sizes, own, sizeof own);
}

// The variant that runs here under this name, or the best one for ""; null if none does.
API const char* fedsim_variant(const char* name) {
    const Variant* variant = find_variant(name);
    return variant ? variant->name : nullptr;
}

// An engine for a program, to be closed again; null if the variant does not run here or there is no memory.
API void* fedsim_open(const char* variant, const Step* steps, int64_t step_count, const Placement* placements,
                      int64_t placement_count, const int32_t* tables, int64_t table_count, const float* image,
                      int64_t image_size, int64_t loss) {
    const Variant* found = find_variant(variant);
    if (!found) return nullptr;
    try {
        auto engine = std::make_unique<Engine>();
        engine->owned = make_plan(steps, step_count, image, image_size, static_cast<Loss>(loss));
        engine->placements.assign(placements, placements + placement_count);
        engine->tables.assign(tables, tables + table_count);
        engine->kernels = found->kernels;
        return engine.release();
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

API void fedsim_close(void* engine) { delete static_cast<Engine*>(engine); }

API int fedsim_train(void* engine, const TrainJob* job) {
    return status_of([&] { return train(*static_cast<Engine*>(engine), *job); });
}

API int fedsim_evaluate(void* engine, const EvaluateJob* job) {
    return status_of([&] { return evaluate(*static_cast<Engine*>(engine), *job); });
}

// Runs `rounds` rounds of multiply-adds on registers alone; how many floating-point operations that was, or 0.
API double fedsim_multiply_adds(const char* variant, int64_t rounds) {
    const Variant* found = find_variant(variant);
    float sink[] = {0.5f, 1.0f};
    return found ? found->kernels->multiply_adds(rounds, sink) : 0;
}
