#pragma once

#include <cstdint>
#include <vector>

#include "transition.hpp"

namespace lsp_fast {

// lsp_fast.ops.types.PosteriorWeights.
struct TorchFilter {
  TorchLinear hidden, out;
  float min_std;
};

// Filters L steps of B sequences (lsp_fast.ops.observe). What `forward` computed is kept for `backward`, which may be called
// any number of times. Blocks of sequences go through all steps on one thread each, so that nobody waits between steps.
class ObservePass {
 public:
  struct Sizes {
    std::int64_t steps, sequences, embedding, action, stoch, deter;
  };
  struct Inputs {
    const float *embeddings, *actions;  // [L, B, E], [L, B, A]
    const bool* is_first;               // [L, B]
    const float* noise;                 // [L, B, S]
  };
  struct Outputs {
    float *stoch, *deter, *posterior_mean, *posterior_std, *prior_mean, *prior_std;  // [L, B, S], and deter [L, B, D]
  };
  struct Given {
    const float *stoch, *deter, *posterior_mean, *posterior_std, *prior_mean, *prior_std;  // of the outputs; null: none
  };
  struct Gradients {
    float *embeddings, *actions;            // null: not wanted
    std::vector<TorchGradient> transition;  // inp, gru_input, gru_hidden, hidden, out; empty: not wanted
    std::vector<TorchGradient> filter;      // hidden, out
  };

  ObservePass(const LearnerKernels& kernels, const Sizes& sizes, const TorchTransition& prior,
              const TorchFilter& posterior, bool with_backward);

  void forward(const Inputs& inputs, const Outputs& outputs, std::int64_t threads);
  void backward(const Given& given, const Gradients& gradients, std::int64_t threads);

  const Sizes& sizes() const { return sizes_; }
  const std::vector<TorchLinear>& layers() const { return layers_; }  // in the order of Gradients

 private:
  void filter(const Block& block, const Inputs& inputs, const Outputs& outputs);
  void back(const Block& block, const Given& given, const Gradients& gradients);

  const LearnerKernels& kernels_;
  const Sizes sizes_;
  const float prior_min_std_, posterior_min_std_;
  const std::vector<TorchLinear> layers_;
  Arena arena_;
  Advance advance_;
  Linear prior_hidden_, prior_out_, posterior_state_, posterior_embedding_, posterior_out_;
  std::int64_t stoch_, deter_;  // padded
  Rows embedding_, kept_, deter_rows_, stoch_rows_, noise_, u_, q_, p_hidden_, p_, std_;
  Rows d_embedding_, d_u_, d_q_, d_p_hidden_, d_p_, d_stoch_, d_deter_, carry_in_;
  std::vector<char> first_;  // [L, B]
};

}  // namespace lsp_fast
