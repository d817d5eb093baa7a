// One optimizer step on a vector of weights.
#pragma once

#include <cmath>

#include "plan.hpp"
#include "vectors.hpp"

namespace fedsim::VARIANT {

enum class Optimizer { sgd, momentum, adam };

// The constants of one step. Both of Adam's forms are w -= rate * m / (sqrt(v) * stretch + epsilon) (Kingma & Ba 2015):
// with epsilon after the bias correction (algorithm 1) stretch = 1 / sqrt(1 - beta2^t) and rate = lr / (1 - beta1^t);
// with epsilon before it (end of section 2) stretch = 1 and rate = lr * sqrt(1 - beta2^t) / (1 - beta1^t).
struct Rule {
    Optimizer optimizer;
    bool pulled;  // by weight decay or towards the round's weights
    float rate, momentum, beta1, beta2, epsilon, stretch, decay, proximal;
};

// Adam's moments are kept as m / (1 - beta1) and v / (1 - beta2), which takes fewer operations a step: the two factors
// go into rate and stretch.
INLINE Rule rule_for(const Training& training, int64_t step) {
    Rule rule{};
    rule.optimizer = training.adam ? Optimizer::adam : training.momentum ? Optimizer::momentum : Optimizer::sgd;
    rule.pulled = training.proximal_mu || training.weight_decay;
    rule.rate = static_cast<float>(training.learning_rate);
    rule.momentum = static_cast<float>(training.momentum);
    rule.decay = static_cast<float>(training.weight_decay);
    rule.proximal = static_cast<float>(training.proximal_mu);
    if (training.adam) {
        double t = static_cast<double>(step), root = std::sqrt(1 - std::pow(training.beta2, t));
        double rate = training.learning_rate * (1 - training.beta1) / (1 - std::pow(training.beta1, t));
        double stretch = std::sqrt(1 - training.beta2);
        rule.rate = static_cast<float>(training.epsilon_first ? rate * root : rate);
        rule.stretch = static_cast<float>(training.epsilon_first ? stretch : stretch / root);
        rule.beta1 = static_cast<float>(training.beta1);
        rule.beta2 = static_cast<float>(training.beta2);
        // Where epsilon = 0 and nothing has moved yet 0 / 0 is no step: padding must stay zero.
        rule.epsilon = static_cast<float>(std::fmax(training.epsilon, 1e-37));
    }
    return rule;
}

// sqrt(v) by Newton's method from the classic bit-level guess at 1 / sqrt(v), and one correction of the root itself:
// within 1 ulp or so, where without it 40 would be missing. The processor's own root would take its turns with the
// division in one slow unit. Zero gives zero.
INLINE Floats square_root(Floats v) {
    Ints guess = broadcast(int32_t{0x5F375A86}) - (reinterpret_cast<Ints&>(v) >> 1);
    Floats r = reinterpret_cast<Floats&>(guess), half = v * 0.5f;
    for (int i = 0; i < 2; ++i) r = r * (1.5f - half * r * r);
    Floats root = v * r;
    return root + (v - root * root) * (0.5f * r);
}

INLINE Floats moment(const Parameters& parameters, const float* moments, int64_t at) {
    return parameters.fresh ? Floats{} : load(moments + at);
}

// The weights w at `at` in the image after a step along the gradient g; moments are read and written in place.
template <Optimizer optimizer, bool pulled>
INLINE Floats stepped(Floats w, Floats g, const Parameters& parameters, int64_t at, const Rule& rule) {
    if constexpr (pulled) {  // one product a sum: of two, compilers may round now the one, now the other
        g += w * rule.decay;
        g += (w - load(parameters.origin + at)) * rule.proximal;
    }
    if constexpr (optimizer == Optimizer::sgd) return w - g * rule.rate;
    Floats m = moment(parameters, parameters.first, at);
    if constexpr (optimizer == Optimizer::momentum) {
        m = m * rule.momentum + g;
        store(parameters.first + at, m);
        return w - m * rule.rate;
    } else {
        Floats v = moment(parameters, parameters.second, at);
        m = m * rule.beta1 + g;
        v = v * rule.beta2 + g * g;
        store(parameters.first + at, m);
        store(parameters.second + at, v);
        return w - m * rule.rate / (square_root(v) * rule.stretch + rule.epsilon);
    }
}

// Where the weights w at `at` go after a step.
template <bool summed>
INLINE void keep(const Parameters& parameters, int64_t at, Floats w) {
    if constexpr (summed) {
        KEEP_IN_REGISTER(w);  // the very weights that `values` would get: else GCC rounds their last product apart
        const Floats before = parameters.first_of_sum ? Floats{} : load(parameters.sum + at);
        store(parameters.sum + at, before + w * parameters.share);
    } else {
        store(parameters.values + at, w);
    }
}

INLINE void keep(const Parameters& parameters, int64_t at, Floats w) {
    parameters.sum ? keep<true>(parameters, at, w) : keep<false>(parameters, at, w);
}

template <Optimizer optimizer, bool pulled>
static void step_image(const Parameters& parameters, const float* gradient, int64_t at, int64_t count,
                       const Rule& rule) {
    for (int64_t i = 0; i < count; i += LANES)
        keep(parameters, at + i,
             stepped<optimizer, pulled>(load(parameters.from + at + i), load(gradient + i), parameters, at + i, rule));
}

// One step on `count` weights, a multiple of kBlock, from `at` on in the image.
static void step(const Parameters& parameters, const float* gradient, int64_t at, int64_t count, const Rule& rule) {
    constexpr auto sgd = Optimizer::sgd, momentum = Optimizer::momentum, adam = Optimizer::adam;
    using Function = decltype(&step_image<sgd, false>);
    static constexpr Function functions[3][2] = {{step_image<sgd, false>, step_image<sgd, true>},
                                                 {step_image<momentum, false>, step_image<momentum, true>},
                                                 {step_image<adam, false>, step_image<adam, true>}};
    functions[static_cast<int>(rule.optimizer)][rule.pulled](parameters, gradient, at, count, rule);
}

}  // namespace fedsim::VARIANT
