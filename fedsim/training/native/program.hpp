// A lowered network and the work to do with it: plain numbers, laid out here and in lower.py and library.py alike.
#pragma once

#include <cstdint>

namespace fedsim {

// Sizes of the engine's own layout. They are the same on every processor, so that one lowering serves all variants.
constexpr int64_t kBlock = 16;  // the channels of a map are padded with zeros to whole blocks
constexpr int64_t kWide = 32;   // the inputs of a dense layer lie in blocks of this many
constexpr int64_t kTile = 10;   // outputs of a dense layer that are trained together: 10 x 32 weights fill 20 registers

enum class Kind : int64_t { convolution, grouped_convolution, max_pooling, average_pooling, dense };
enum class Activation : int64_t { none, relu, sigmoid, tanh };
enum class Loss : int64_t { cross_entropy, mean_squared_error };

// One step: a layer, the 2 x 2 max pooling that may follow a convolution, and the activation that comes last.
// Every field is an int64; lower.py's STEP names the same fields in the same order.
//
// Weights lie in one image of floats. A convolution's are [height][width][in / groups][out padded to kBlock]: output
// channels in vector lanes. A dense layer's are [out / kTile][in / kWide][kTile][kWide]: one tile is contiguous. A bias
// is [out padded], zeros if the layer has none. What is padding is zero, and stays zero under every optimizer.
struct Step {
    Kind kind;
    Activation activation;
    int64_t pooled;          // a 2 x 2 max pooling of stride 2 stands between convolution and activation
    int64_t trainable;
    int64_t has_bias;
    int64_t input_gradient;  // a step before this one trains, so the gradient of the input is wanted
    int64_t in_channels, in_height, in_width;
    int64_t out_channels, out_height, out_width;  // after the pooling; a dense layer has height = width = 1
    int64_t kernel_height, kernel_width, stride_height, stride_width, dilation_height, dilation_width, groups;
    int64_t pad_top, pad_left, pad_bottom, pad_right;
    int64_t count_padding;   // an average pooling divides by the whole window, padding included
    int64_t weights, bias;   // where in the image
};

// Where one parameter of the contract's flat vector goes: number (row, column) of the matrix of `columns` numbers a
// row that begins at `vector` lies at image[image + row_table[row] + column_table[column]].
struct Placement {
    int64_t vector, image, rows, columns;
    int64_t row_table, column_table;  // where in the array of tables
};

// What a client trains on. `inputs` holds the whole data set, channels first; a client's examples are rows of it.
struct Examples {
    const void* inputs;      // uint8 (divided by 255) or float32
    int64_t inputs_are_bytes;
    const int64_t* classes;  // for cross entropy: one a row
    const float* targets;    // for mean squared error: [rows][values]
    int64_t rows;
};

struct Training {
    int64_t epochs, batch_size;
    int64_t adam;            // 0: SGD, with or without momentum
    int64_t epsilon_first;   // Adam adds epsilon before the bias correction ("mps"), not after it ("torch")
    double learning_rate, momentum, beta1, beta2, epsilon, proximal_mu, weight_decay;
};

// Every client's local training. Client c walks through counts[c] * epochs rows of `orders`, after those of the
// clients before it. Results go to `stack` [clients][P], or weighted by `shares` to sums, never both: the clients c with
// c % slots == s are added up in `sums` [slots][P], and all of these in `sum` [P]. Or the clients' updates, their weights
// less the round's, are scaled down to a norm of `clip` where theirs is larger and added up in `clipped` [P], in slots
// too; one that is not finite counts as zero. What is not wanted is null.
struct TrainJob {
    const float* weights;    // [P], where everybody starts
    Examples examples;
    Training training;
    int64_t clients;
    const int64_t* counts;
    const int64_t* orders;
    int64_t threads;
    float* stack;
    const double* shares;
    int64_t slots;
    float* sums;
    float* sum;
    double clip;
    double* norms;           // [clients] of the updates before clipping; not a number where one is not finite
    double* clipped;
    double* losses;          // [clients][epochs], mean over the epoch; not a number for a client without examples
    float* state;            // optimizer state in and out, for a single client that goes on training; may be null
    int64_t* state_steps;    // optimizer steps behind that state
};

struct EvaluateJob {
    const float* weights;
    Examples examples;
    int64_t count;
    const int64_t* order;    // [count] rows of the examples
    int64_t threads;
    double* losses;          // [count]
    uint8_t* correct;        // [count], 0 throughout under mean squared error
    float* outputs;          // [count][values]: logits or regressed values; may be null
};

}  // namespace fedsim
