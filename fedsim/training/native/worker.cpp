// Lays out a worker's buffers in one block of memory.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "engine.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) static_cast<void>(0)
#endif

namespace fedsim {
namespace {

// Hands out pieces of a block of memory; run once without a block, it finds out how large that must be. Between two
// pieces lies a cache line that nobody may touch: pieces of whole pages would else compete for the same cache sets.
struct Carver {
    char* base;
    size_t used;

    template <class T>
    T* take(int64_t count) {
        const size_t size = static_cast<size_t>(count) * sizeof(T), whole = (size + 63) / 64 * 64 + 64;
        char* piece = base ? base + used : nullptr;
        if (piece) ASAN_POISON_MEMORY_REGION(piece + size, whole - size);
        used += whole;
        return reinterpret_cast<T*>(piece);
    }
};

SpatialBuffers carve_spatial(Carver& carver, const SpatialPlan& plan, int64_t capacity) {
    SpatialBuffers buffers{};
    const Step& step = plan.step;
    const int64_t outputs = plan.out.height * plan.out.width * plan.out_channels;
    buffers.input = carver.take<float>(capacity * plan.in.size);
    if (step.input_gradient) buffers.input_gradient = carver.take<float>(plan.in.size);
    if (step.kind == Kind::max_pooling) buffers.winners = carver.take<int32_t>(capacity * outputs);
    if (step.pooled) buffers.corners = carver.take<int32_t>(capacity * outputs);
    if (step.kind != Kind::convolution) return buffers;
    if (step.pooled) buffers.rows = carver.take<float>(2 * plan.columns * plan.out_channels);
    else buffers.spread = carver.take<float>(plan.spread.size);
    if (!step.input_gradient) return buffers;
    const int64_t patch = plan.patch.count * plan.patch.length;
    buffers.turned = carver.take<float>(patch * step.out_channels);
    buffers.turned_gradient = carver.take<float>(patch * step.out_channels);
    return buffers;
}

int64_t most_windows(const Plan& plan) {
    int64_t most = plan.values;
    for (int64_t i = 0; i < plan.spatial_count; ++i)
        most = std::max(most, plan.spatial[i].out.height * plan.spatial[i].out.width);
    return most;
}

void carve(Carver& carver, const Plan& plan, OwnedWorker& owned, int64_t capacity, int64_t moments) {
    Worker& worker = owned.worker;
    const int64_t stride = batch_stride(capacity);
    worker.capacity = capacity;
    worker.parameters.values = carver.take<float>(plan.image);
    worker.parameters.first = moments > 0 ? carver.take<float>(plan.image) : nullptr;
    worker.parameters.second = moments > 1 ? carver.take<float>(plan.image) : nullptr;
    worker.gradients = carver.take<float>(plan.spatial_image);
    owned.spatial.clear();
    owned.dense.clear();
    for (int64_t i = 0; i < plan.spatial_count; ++i)
        owned.spatial.push_back(carve_spatial(carver, plan.spatial[i], capacity));
    worker.last = carver.take<float>(capacity * plan.last.size);
    worker.last_gradient = carver.take<float>(plan.last.size);
    const int64_t panel = std::min(kPanel, (capacity + kFew - 1) / kFew * kFew);
    int64_t packed = 0, tiles = 0, out_blocks = plan.last_blocks;
    for (int64_t i = 0; i < plan.dense_count; ++i) {
        const DensePlan& step = plan.dense[i];
        float* input = carver.take<float>(step.in_blocks * stride);
        owned.dense.push_back({input, carver.take<float>(step.in_blocks * stride)});
        tiles = std::max(tiles, step.tiles);
        packed = std::max(packed, step.tiles * capacity * kTile);
        out_blocks = step.out_blocks;
    }
    worker.outputs = carver.take<float>(out_blocks * stride);
    worker.output_gradient = carver.take<float>(out_blocks * stride);
    worker.dot.panel = carver.take<float>(plan.dense_count ? kChunk * kWide * panel : 0);
    worker.dot.sums = carver.take<float>(tiles * kTile * panel * kFew);
    worker.packed = carver.take<float>(packed);
    worker.offsets = carver.take<int32_t>(most_windows(plan));
    worker.values = carver.take<float>(most_windows(plan));
    worker.spatial = owned.spatial.data();
    worker.dense = owned.dense.data();
}

}  // namespace

std::unique_ptr<OwnedWorker> make_worker(const Plan& plan, int64_t capacity, int64_t moments) {
    auto owned = std::make_unique<OwnedWorker>();
    Carver measure{nullptr, 0};
    carve(measure, plan, *owned, capacity, moments);
    constexpr size_t huge = size_t{2} << 20;
    const size_t size = (measure.used + huge - 1) / huge * huge;
    void* memory = std::aligned_alloc(huge, size);
    if (!memory) throw std::bad_alloc();
    owned->memory = {memory, std::free};
#if defined(__linux__)
    madvise(memory, size, MADV_HUGEPAGE);  // a hint: the weights span hundreds of small pages
#endif
    std::memset(memory, 0, size);
    Carver carver{static_cast<char*>(memory), 0};
    carve(carver, plan, *owned, capacity, moments);
    owned->moments = moments;
    return owned;
}

}  // namespace fedsim
