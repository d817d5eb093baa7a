// What follows from a program before any number is computed: the shapes of maps and buffers, and where taps lie.
#pragma once

#include <cstdint>

#include "program.hpp"

namespace fedsim {

// A map of one example: [height][width][channels], `channels` floats from one position to the next (padding
// included), with a border of zeros round it as wide as the convolution that reads it wants.
struct Map {
    int64_t height, width, channels;
    int64_t row;     // floats from one row to the next
    int64_t origin;  // where position (0, 0) lies
    int64_t size;    // floats in all
};

// The inputs of one output, as contiguous runs of floats relative to the window's first tap.
struct Runs {
    int64_t count, length;
    const int32_t* offsets;
};

// A convolution or pooling.
struct SpatialPlan {
    Step step;
    Map in, out;
    int64_t rows, columns;   // windows that matter, before the fused pooling
    int64_t out_channels;    // padded
    Runs taps;               // in the order of the weights
    Runs patch;              // the same with whole blocks of channels: what a gradient is scattered over
    Runs back;               // the taps of the way back, on `spread`
    Map spread;              // the output's gradient, spaced by the stride, in a border as wide as the kernel
    int64_t weight_count;    // floats of the weights in the image
};

struct DensePlan {
    Step step;
    int64_t in_blocks;       // of kWide
    int64_t out_blocks;
    int64_t tiles;           // of kTile outputs
    int64_t inputs;          // in_blocks * kWide
};

// Where the numbers of the contract's flat vector lie in the image.
struct Layout {
    const Placement* placements;
    int64_t count;
    const int32_t* tables;
};

struct Plan {
    int64_t spatial_count, dense_count;
    const SpatialPlan* spatial;
    const DensePlan* dense;
    bool maps_train;         // whether a step on maps is trainable
    Map input;               // the example
    Map last;                // what the first dense layer, or the loss, reads
    int64_t input_channels;
    int64_t last_blocks;     // of kWide, to hold `last`
    int64_t image;           // floats in the image of all weights
    int64_t spatial_image;   // those of convolutions, which come first
    int64_t values;          // logits or regressed values
    Loss loss;
    const float* constants;  // the image with the frozen weights in place
};

// The dense layers' inputs, outputs and gradients: [block][example][kWide]. An odd number of examples apart, blocks
// do not fall on the same cache sets: at a stride of 4096 bytes they would, with batches of 32 or 128.
struct Batch {
    float* data;
    int64_t stride;  // floats from one block to the next

    float* block(int64_t example, int64_t k) const { return data + k * stride + example * kWide; }
    float& at(int64_t example, int64_t i) const { return block(example, i / kWide)[i % kWide]; }
};

inline int64_t batch_stride(int64_t examples) { return (examples | 1) * kWide; }

// The weights of one client and the optimizer's state: images, of which `first` and `second` may be null. A client's
// first step reads the round's weights and writes its own, so that nobody need copy them; likewise its moments.
struct Parameters {
    float* values;
    const float* from;    // the weights before the step: `values`, or before the first step `origin`
    bool fresh;           // the moments are zero, whatever is written there
    float* first;         // momentum, or Adam's first moment
    float* second;        // Adam's second moment
    float* sum;           // null, or where the client's last step adds `share` of the weights in place of writing them
    float share;
    bool first_of_sum;    // it writes them there: what lies there belongs to nobody
    const float* origin;  // the round's weights, for the proximal term and the first step
};

struct SpatialBuffers {
    float* input;             // [capacity][in.size]
    float* input_gradient;    // one example
    int32_t* winners;         // [capacity][out.height][out.width][channels]: where in the input each maximum comes from
    int32_t* corners;         // the same of a pooled convolution: which of the four under the window won
    float* rows;              // two rows of a convolution before its pooling
    float* spread;
    float* turned;            // weights, transposed for the way back
    float* turned_gradient;   // their gradient in the same order
};

struct DenseBuffers {
    float* input;
    float* input_gradient;
};

constexpr int64_t kFew = 4;     // neighbouring inputs of one example that a dense layer's forward pass keeps together
constexpr int64_t kPanel = 20;  // examples that go through a dense layer at once
constexpr int64_t kChunk = 9;   // blocks of kWide inputs that they do so in

// What a dense layer's forward pass works in, for one panel.
struct DotBuffers {
    float* panel;  // [kChunk * kWide / kFew][kPanel][kFew]
    float* sums;   // [output][kPanel][kFew]
};

// What one thread trains and evaluates in, for batches of up to `capacity` examples.
struct Worker {
    int64_t capacity;
    Parameters parameters;
    float* gradients;         // of the convolutions: an image of plan.spatial_image floats
    SpatialBuffers* spatial;
    DenseBuffers* dense;
    float* last;              // [capacity][last.size]
    float* last_gradient;     // one example
    float* outputs;           // a Batch
    float* output_gradient;   // a Batch
    DotBuffers dot;
    float* packed;            // a dense layer's output gradient: [tile][example][kTile]
    int32_t* offsets;         // of the winners of one channel
    float* values;            // and their gradients
};

}  // namespace fedsim
