// Works out a plan from a program's steps.
#include "engine.hpp"

namespace fedsim {
namespace {

int64_t padded(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

Map make_map(int64_t height, int64_t width, int64_t channels, int64_t top, int64_t bottom, int64_t left,
             int64_t right) {
    Map map{height, width, channels, (left + width + right) * channels, 0, 0};
    map.origin = top * map.row + left * channels;
    map.size = (top + height + bottom) * map.row;
    return map;
}

bool convolves(const Step& step) { return step.kind == Kind::convolution || step.kind == Kind::grouped_convolution; }

// The map that `step` reads. Only the network's own input can do without padded channels: nothing is ever spread over
// it in vectors, and a grey image would grow sixteenfold.
Map input_map(const Step& step, bool first) {
    const bool exact = first && (step.kind == Kind::convolution || step.kind == Kind::dense);
    const int64_t channels = exact ? step.in_channels : padded(step.in_channels, kBlock);
    if (!convolves(step)) return make_map(step.in_height, step.in_width, channels, 0, 0, 0, 0);
    return make_map(step.in_height, step.in_width, channels, step.pad_top, step.pad_bottom, step.pad_left,
                    step.pad_right);
}

// kernel_height x kernel_width runs of `length` floats on `map`; those that touch are one, unless kept `apart`.
Runs make_runs(OwnedPlan& owned, const Step& step, const Map& map, int64_t length, bool apart) {
    const bool joined = !apart && length == map.channels && step.dilation_width == 1;
    auto offsets = std::make_unique<std::vector<int32_t>>();
    for (int64_t v = 0; v < step.kernel_height; ++v)
        for (int64_t u = 0; u < (joined ? 1 : step.kernel_width); ++u)
            offsets->push_back(static_cast<int32_t>(v * step.dilation_height * map.row +
                                                    u * step.dilation_width * map.channels));
    Runs runs{static_cast<int64_t>(offsets->size()), joined ? length * step.kernel_width : length, offsets->data()};
    owned.offsets.push_back(std::move(offsets));
    return runs;
}

SpatialPlan make_spatial(OwnedPlan& owned, const Step& step, const Map& in, const Map& out) {
    SpatialPlan plan{};
    plan.step = step;
    plan.in = in;
    plan.out = out;
    plan.rows = step.out_height * (step.pooled ? 2 : 1);
    plan.columns = step.out_width * (step.pooled ? 2 : 1);
    plan.out_channels = padded(step.out_channels, kBlock);
    if (!convolves(step)) return plan;
    const int64_t share = step.in_channels / step.groups;
    const bool grouped = step.kind == Kind::grouped_convolution;
    plan.weight_count = step.kernel_height * step.kernel_width * share * plan.out_channels;
    plan.taps = make_runs(owned, step, in, share, grouped);
    plan.patch = make_runs(owned, step, in, in.channels, grouped);
    const int64_t reach_down = (step.kernel_height - 1) * step.dilation_height;
    const int64_t reach_right = (step.kernel_width - 1) * step.dilation_width;
    plan.spread = make_map(in.size / in.row, in.row / in.channels, plan.out_channels, reach_down, 0, reach_right, 0);
    plan.back = make_runs(owned, step, plan.spread, step.out_channels, grouped);
    return plan;
}

DensePlan make_dense(const Step& step, int64_t inputs) {
    DensePlan plan{};
    plan.step = step;
    plan.in_blocks = padded(inputs, kWide) / kWide;
    plan.out_blocks = padded(step.out_channels, kWide) / kWide;
    plan.tiles = padded(step.out_channels, kTile) / kTile;
    plan.inputs = plan.in_blocks * kWide;
    return plan;
}

}  // namespace

std::unique_ptr<OwnedPlan> make_plan(const Step* steps, int64_t count, const float* image, int64_t image_size,
                                     Loss loss) {
    auto owned = std::make_unique<OwnedPlan>();
    Plan& plan = owned->plan;
    plan = Plan{};
    int64_t maps = 0;
    while (maps < count && steps[maps].kind != Kind::dense) ++maps;
    plan.input = input_map(steps[0], true);
    plan.input_channels = steps[0].in_channels;
    Map in = plan.input;
    for (int64_t i = 0; i < maps; ++i) {
        const Step& step = steps[i];
        const int64_t channels = padded(step.out_channels, kBlock);
        Map out = i + 1 < maps ? input_map(steps[i + 1], false)
                               : make_map(step.out_height, step.out_width, channels, 0, 0, 0, 0);
        owned->spatial.push_back(make_spatial(*owned, step, in, out));
        plan.maps_train = plan.maps_train || step.trainable;
        in = out;
    }
    plan.last = in;
    plan.last_blocks = padded(in.size, kWide) / kWide;
    int64_t inputs = in.size;
    for (int64_t i = maps; i < count; ++i) {
        owned->dense.push_back(make_dense(steps[i], inputs));
        inputs = steps[i].out_channels;
    }
    plan.values = steps[count - 1].out_channels;
    plan.loss = loss;
    plan.image = image_size;
    plan.spatial_image = maps < count ? steps[maps].weights : image_size;
    owned->constants.assign(image, image + image_size);
    plan.constants = owned->constants.data();
    plan.spatial = owned->spatial.data();
    plan.spatial_count = maps;
    plan.dense = owned->dense.data();
    plan.dense_count = count - maps;
    return owned;
}

}  // namespace fedsim
