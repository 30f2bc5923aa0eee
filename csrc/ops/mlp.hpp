#pragma once

#include <cstdint>
#include <vector>

#include "learner.hpp"

namespace lsp_fast {

// Hidden layers with ELU, then a linear one where `linear_out`: what `forward` computed is kept for `backward`, which may be
// called any number of times.
class MlpPass {
 public:
  MlpPass(const LearnerKernels& kernels, const std::vector<TorchLinear>& layers, bool linear_out, std::int64_t rows,
          bool with_backward);

  // x [rows, in] -> y [rows, out]
  void forward(const float* x, float* y, std::int64_t threads);

  // dy [rows, out] -> dx [rows, in] where not null, and the gradients of every layer's weights where there are any.
  void backward(const float* dy, float* dx, const std::vector<TorchGradient>& gradients, std::int64_t threads);

  // The same for a single output that two losses are taken of, one for the input and one for the weights: the chain of
  // layers is followed once, from ones, and its rows are multiplied by each one's slopes dx_slopes and weight_slopes [rows].
  void backward_twice(const float* dx_slopes, float* dx, const float* weight_slopes,
                      const std::vector<TorchGradient>& gradients, std::int64_t threads);

  std::int64_t in() const { return in_; }
  std::int64_t out() const { return out_; }
  std::int64_t rows() const { return rows_; }
  const std::vector<TorchLinear>& layers() const { return sizes_; }

 private:
  // Rows that go through all layers before the next ones.
  std::int64_t rows_at_a_time(std::int64_t threads) const;
  // Calls work(first, count) for all of them.
  template <typename Work>
  void each_piece(std::int64_t threads, const Work& work) const;
  // From the gradient of the last layer's sums in these rows to that of the first one's.
  void chain(std::int64_t first, std::int64_t count);
  void weight_gradients(const std::vector<TorchGradient>& gradients, std::int64_t threads) const;

  const LearnerKernels& kernels_;
  const std::int64_t rows_;
  const bool linear_out_;
  const std::vector<TorchLinear> sizes_;
  std::int64_t in_, out_;
  Arena arena_;
  std::vector<Linear> layers_;
  std::vector<Rows> values_;     // of the input and of every layer
  std::vector<Rows> gradients_;  // of every layer's sums
  Rows dx_;
};

}  // namespace lsp_fast
