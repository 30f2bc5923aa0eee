// The world model's loss and all its gradients at once (lsp_fast.learning.world_model): encoder, filter, decoder and
// reward head, from normalised observations.
#pragma once

#include <cstdint>
#include <vector>

#include "learner.hpp"
#include "ops/observe.hpp"

namespace lsp_fast {

struct WorldModel {
  std::vector<TorchLinear> encoder;  // ends with a hidden layer
  TorchTransition prior;
  TorchFilter posterior;
  std::vector<TorchLinear> decoder, reward;  // end with a linear one
  float free_nats, low, high;                // bounds of the log variance of what is decoded
  float prior_share, posterior_share;        // of the divergence's gradient
  float reward_scale;                        // weight of the reward's -log p
};

struct WorldModelSizes {
  std::int64_t steps, sequences, observation, action, stoch, deter;

  std::int64_t rows() const { return steps * sequences; }
};

struct WorldModelInputs {
  const float *observations, *actions;  // [L, B, O], [L, B, A]
  const bool* is_first;                 // [L, B]
  const float *rewards, *noise;         // [L, B], [L, B, S]
};

struct WorldModelResults {
  float *stoch, *deter;  // [L, B, S], [L, B, D], of the posterior states
  // Means over batch and time.
  double kl, observation_nll, reward_nll, reward_error;
};

// Where the loss's gradients go; all empty: nowhere.
struct WorldModelGradients {
  std::vector<TorchGradient> encoder, transition, filter, decoder, reward;  // in the order of ObservePass::Gradients
};

void world_model(const LearnerKernels& kernels, const WorldModel& model, const WorldModelSizes& sizes,
                 const WorldModelInputs& inputs, WorldModelResults& results, const WorldModelGradients& gradients,
                 std::int64_t threads);

}  // namespace lsp_fast
