#include "ops/adam.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "clones.hpp"
#include "parallel.hpp"

namespace lsp_fast {

namespace {

constexpr std::int64_t kChunk = 4096;
// Numbers come from memory: waking a thread, or waiting for one that was held up, takes as long as many of them.
constexpr std::int64_t kWorthAThread = 1 << 17;

// In double a square is exact, and in lanes the order of the sum is the same whatever the processor has.
LSP_CLONES double sum_of_squares(const float* x, std::int64_t count) {
  constexpr std::int64_t kLanes = 16;
  double lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      const double value = x[i + lane];
      lanes[lane] += value * value;
    }
  }
  for (std::int64_t lane = 0; i < count; ++lane, ++i) {
    const double value = x[i];
    lanes[lane] += value * value;
  }
  double sum = 0.0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

// What a step multiplies by, rounded once.
struct Factors {
  float clip, new_mean, old_square, new_square, step, root, eps;
};

Factors factors_of(const AdamRules& rules, float clip, double steps) {
  return {clip,
          static_cast<float>(1.0 - rules.beta1),
          static_cast<float>(rules.beta2),
          static_cast<float>(1.0 - rules.beta2),
          static_cast<float>(rules.learning_rate / (1.0 - std::pow(rules.beta1, steps))),
          static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(rules.beta2, steps))),
          static_cast<float>(rules.eps)};
}

LSP_CLONES void update(std::int64_t count, const float* gradient, const Factors& factors, float* __restrict parameter,
                       float* __restrict mean, float* __restrict square) {
  const Factors f = factors;  // nothing that is written to
  for (std::int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * f.clip;
    const float m = mean[i] + f.new_mean * (g - mean[i]);
    const float s = square[i] * f.old_square + f.new_square * g * g;
    mean[i] = m;
    square[i] = s;
    parameter[i] -= f.step * m / (std::sqrt(s) * f.root + f.eps);
  }
}

}  // namespace

Adam::Adam(std::vector<AdamTensor> tensors) : tensors_(std::move(tensors)) {
  std::int64_t numbers = 0;
  for (std::size_t t = 0; t < tensors_.size(); ++t) {
    const auto size = tensors_[t].size;
    for (std::int64_t first = 0; first < size; first += kChunk) {
      chunks_.push_back({t, first, std::min(kChunk, size - first)});
    }
    numbers += size;
  }
  sums_.resize(chunks_.size());
  enough_ = std::max<std::int64_t>(1, numbers / kWorthAThread);
}

float Adam::step(const std::vector<const float*>& gradients, const AdamRules& rules, std::int64_t threads) {
  threads = std::min(threads, enough_);
  const auto chunks = static_cast<std::int64_t>(chunks_.size());
  one_by_one(threads, chunks, [&](bool, const auto& next) {
    for (std::int64_t c; (c = next()) < chunks;) {
      const auto& chunk = chunks_[static_cast<std::size_t>(c)];
      sums_[static_cast<std::size_t>(c)] = sum_of_squares(gradients[chunk.tensor] + chunk.first, chunk.count);
    }
  });
  double squares = 0.0;
  for (const double sum : sums_) squares += sum;
  const auto norm = static_cast<float>(std::sqrt(squares));
  // As torch.nn.utils.clip_grad_norm_ rounds it. A NaN stays one.
  const float scale = 1.0f / (norm + 1e-6f) * static_cast<float>(rules.max_norm), clip = scale > 1.0f ? 1.0f : scale;

  for (const auto& tensor : tensors_) *tensor.steps += 1.0f;
  one_by_one(threads, chunks, [&](bool, const auto& next) {
    float steps = 0.0f;  // those that `factors` are for
    Factors factors{};
    for (std::int64_t c; (c = next()) < chunks;) {
      const auto& chunk = chunks_[static_cast<std::size_t>(c)];
      const auto& tensor = tensors_[chunk.tensor];
      if (*tensor.steps != steps) factors = factors_of(rules, clip, steps = *tensor.steps);
      update(chunk.count, gradients[chunk.tensor] + chunk.first, factors, tensor.parameter + chunk.first,
             tensor.mean + chunk.first, tensor.square + chunk.first);
    }
  });
  return norm;
}

}  // namespace lsp_fast
