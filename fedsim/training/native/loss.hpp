// The losses: one example's value, and the gradient of the batch's mean.
#pragma once

#include <cmath>

#include "plan.hpp"
#include "vectors.hpp"

namespace fedsim::VARIANT {

// -log softmax(logits)[target]; turns `logits` into exp(logits - largest) and says what these add up to.
INLINE double cross_entropy(float* logits, int64_t classes, int64_t target, float* total) {
    float largest = logits[0];
    for (int64_t i = 1; i < classes; ++i) largest = logits[i] > largest ? logits[i] : largest;
    const float chosen = logits[target];
    *total = 0.0f;
    for (int64_t i = 0; i < classes; ++i) {
        logits[i] = expf(logits[i] - largest);
        *total += logits[i];
    }
    return static_cast<double>(logf(*total) + (largest - chosen));
}

INLINE double squared_error(const float* values, const float* targets, int64_t count) {
    double total = 0;
    for (int64_t i = 0; i < count; ++i) total += (values[i] - targets[i]) * (values[i] - targets[i]);
    return total / static_cast<double>(count);
}

// The batch's summed loss; `gradient` becomes that of its mean. `scratch` holds one example's values.
static double batch_loss(const Plan& plan, const Examples& examples, const int64_t* order, int64_t count,
                         const Batch& outputs, const Batch& gradient, float* scratch) {
    double loss = 0;
    const int64_t whole = round_up(plan.values, kWide);
    for (int64_t b = 0; b < count; ++b) {
        for (int64_t i = plan.values; i < whole; ++i) gradient.at(b, i) = 0.0f;
        for (int64_t i = 0; i < plan.values; ++i) scratch[i] = outputs.at(b, i);
        if (plan.loss == Loss::cross_entropy) {
            float total;
            const int64_t target = examples.classes[order[b]];
            loss += cross_entropy(scratch, plan.values, target, &total);
            for (int64_t i = 0; i < plan.values; ++i)
                gradient.at(b, i) = (scratch[i] / total - (i == target ? 1.0f : 0.0f)) / static_cast<float>(count);
        } else {
            const float* targets = examples.targets + order[b] * plan.values;
            loss += squared_error(scratch, targets, plan.values);
            const float scale = 2.0f / static_cast<float>(count * plan.values);
            for (int64_t i = 0; i < plan.values; ++i) gradient.at(b, i) = scale * (scratch[i] - targets[i]);
        }
    }
    return loss;
}

}  // namespace fedsim::VARIANT
