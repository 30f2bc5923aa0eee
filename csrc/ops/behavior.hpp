// The losses of behaviour with all their gradients at once (lsp_fast.learning.behavior): a rollout under the policy, its
// rewards and values, the skill predictor's, and the returns.
#pragma once

#include <cstdint>
#include <vector>

#include "learner.hpp"
#include "ops/imagine.hpp"

namespace lsp_fast {

struct Behavior {
  TorchTransition prior;
  TorchActor actor;
  std::vector<TorchLinear> reward, value;
  std::vector<TorchLinear> slow;       // a copy of the value that bootstraps it; empty: the value itself does
  std::vector<TorchLinear> predictor;  // empty: there is none, nor an intrinsic reward
  float gamma, lam;
  float entropy, saturation;         // their weights for the actor
  float saturated;                   // the policy's |mean| from which it counts as that
  float largest;                     // |reward| so far; infinite: the value learns from targets of any size
  double endless;                    // what a reward of 1 at every step is worth, 1 / (1 - gamma)
  float predictor_noise, low, high;  // on its input; bounds of the log variance of what it says
  std::vector<std::int64_t> seen;    // which states of a segment the predictor sees, counted from 0
  std::vector<float> shares;         // [T], what each step gets of its segment's log q
  float offset;                      // added to log q
};

struct BehaviorSizes {
  ImaginePass::Sizes rollout;
  std::int64_t segments;  // J, complete ones, of as many steps each as a skill is held

  std::int64_t features() const { return rollout.stoch + rollout.deter; }
  std::int64_t rows() const { return rollout.steps * rollout.states; }
};

struct BehaviorInputs {
  ImaginePass::Inputs rollout;                     // with skills as the policy sees them
  const float* skills;                             // [P, N, Z], as they are
  const float* beta;                               // [N], the weight of what a rollout tells
  const float *means, *deviations;                 // [F], by which the predictor sees features, or null
  const float *intrinsic_noise, *predictor_noise;  // [J, N, I]
};

struct BehaviorResults {
  float *task_reward, *value, *entropy;  // [T, N]; the slow value where there is one
  float *mean, *stddev;                  // [T, N, A]
  float* feature;                        // [T, N, F]
  float* target;                         // [T - 1, N]
  float* log_q;                          // [J, N]
  double actor_loss, value_loss, predictor_loss;
};

// Where gradients go; all empty: nowhere.
struct BehaviorGradients {
  std::vector<TorchGradient> actor, value, predictor;
};

void behavior(const LearnerKernels& kernels, const Behavior& model, const BehaviorSizes& sizes, const BehaviorInputs& inputs,
              BehaviorResults& results, const BehaviorGradients& gradients, std::int64_t threads);

}  // namespace lsp_fast
