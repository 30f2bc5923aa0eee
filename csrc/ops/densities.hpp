// Densities of normals (lsp_fast.ops.densities) of rows, each summed over its `width` numbers, and their slopes.
#pragma once

#include <cstdint>

#include "learner.hpp"

namespace lsp_fast {

struct Densities {
  const LearnerKernels& kernels;
  std::int64_t rows, width, threads;

  // log N(x; mean, std) of raw [rows, 2 width] = [mean, raw log std], log std^2 softly clamped between low and high.
  void log_prob(const float* raw, const float* x, float low, float high, float* out, float* d_raw) const;
  // KL(p || q), and its slopes: that of q's mean is p's with the other sign.
  void kl_divergence(const float* p_mean, const float* p_std, const float* q_mean, const float* q_std, float* out,
                     float* d_p_mean, float* d_p_std, float* d_q_std) const;
  // -log density of tanh(mean + std noise).
  void entropy(const float* mean, const float* std, const float* noise, float* out, float* d_mean, float* d_std) const;

 private:
  template <typename Work>
  void each(const Work& work) const;
};

}  // namespace lsp_fast
