#pragma once

#include <cstdint>
#include <vector>

#include "transition.hpp"

namespace lsp_fast {

// lsp_fast.ops.types.ActorWeights: the hidden layers, then the output's of [mean, raw std].
struct TorchActor {
  std::vector<TorchLinear> layers;
  float mean_scale, std_shift, min_std;
};

// Rolls N states out for H steps under the policy (lsp_fast.ops.imagine), for gradients to the actor alone. What `forward`
// computed is kept for `backward`, which may be called any number of times. Blocks of states go through all steps on one
// thread each, so that nobody waits between steps.
class ImaginePass {
 public:
  struct Sizes {
    std::int64_t steps, states, stoch, deter, action, skill;
  };
  struct Inputs {
    const float *stoch, *deter;              // [N, S], [N, D]
    const float* skills;                     // [P, N, Z]
    std::int64_t plan_length, skill_length;  // P, K
    const float *stoch_noise, *action_noise;  // [H, N, S], [H, N, A] or null for tanh(mean)
  };
  struct Outputs {
    float *stoch, *deter, *actions, *mean, *stddev;  // [H, N, ...]
  };
  struct Given {
    const float *stoch, *deter, *actions, *mean, *stddev;  // gradients of the outputs; null: none
  };

  ImaginePass(const LearnerKernels& kernels, const Sizes& sizes, const TorchTransition& prior, const TorchActor& actor,
              bool sample, bool with_backward);

  void forward(const Inputs& inputs, const Outputs& outputs, std::int64_t threads);
  void backward(const Given& given, const std::vector<TorchGradient>& actor, std::int64_t threads);

  const Sizes& sizes() const { return sizes_; }
  const std::vector<TorchLinear>& layers() const { return actor_.layers; }

 private:
  Rows after(const Block& block, std::int64_t t) const;  // [s, h] after step t
  void roll_out(const Block& block, const Inputs& inputs, const Outputs& outputs);
  void back(const Block& block, const Given& given);

  const LearnerKernels& kernels_;
  const Sizes sizes_;
  const TorchActor actor_;
  const float min_std_;
  const bool sample_;
  Arena arena_;
  Advance advance_;
  Linear prior_hidden_, prior_out_;
  std::vector<Linear> policy_layers_;
  std::int64_t stoch_, deter_, action_;  // padded
  Rows in_, last_;                       // [s, h, z] that the policy sees; [s, h] after the last step
  std::vector<Rows> values_;             // of the policy's layers
  Rows policy_, noise_, action_noise_, p_hidden_, p_;
  std::vector<Rows> d_values_;
  Rows ds_, dh_, d_p_, d_p_hidden_, d_in_, d_policy_;  // of one step
};

}  // namespace lsp_fast
