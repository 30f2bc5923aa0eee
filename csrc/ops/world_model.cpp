#include "ops/world_model.hpp"

#include <cmath>

#include "features.hpp"
#include "ops/densities.hpp"
#include "ops/mlp.hpp"

namespace lsp_fast {

namespace {

double mean(const float* x, std::int64_t count) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < count; ++i) sum += x[i];
  return sum / static_cast<double>(count);
}

}  // namespace

void world_model(const LearnerKernels& kernels, const WorldModel& model, const WorldModelSizes& n,
                 const WorldModelInputs& inputs, WorldModelResults& results, const WorldModelGradients& gradients,
                 std::int64_t threads) {
  const bool graded = !gradients.decoder.empty();
  const auto rows = n.rows(), S = n.stoch, D = n.deter, F = S + D, E = model.encoder.back().out, O = n.observation;
  Arena arena(kind_of('w', {rows, O, S, D, E, graded}));
  const auto room = [&](std::int64_t width, bool wanted = true) { return wanted ? arena.floats(rows * width) : nullptr; };

  // Forward.
  float *embedding = room(E), *feature = room(F);
  MlpPass encoder(kernels, model.encoder, false, rows, graded);
  encoder.forward(inputs.observations, embedding, threads);
  ObservePass observe(kernels, {n.steps, n.sequences, E, n.action, S, D}, model.prior, model.posterior, graded);
  const ObservePass::Outputs found{results.stoch, results.deter, room(S), room(S), room(S), room(S)};
  observe.forward({embedding, inputs.actions, inputs.is_first, inputs.noise}, found, threads);
  const Features features{rows, S, D, threads};
  features.join(found.stoch, found.deter, feature);
  float *decoded = room(2 * O), *reward = room(1);
  MlpPass decoder(kernels, model.decoder, true, rows, graded), rewards(kernels, model.reward, true, rows, graded);
  decoder.forward(feature, decoded, threads);
  rewards.forward(feature, reward, threads);

  // The loss's parts, and its slopes at the outputs.
  float *of_row = room(1), *d_decoded = room(2 * O, graded), *d_reward = room(1, graded);
  const Densities observation{kernels, rows, O, threads}, latent{kernels, rows, S, threads};
  observation.log_prob(decoded, inputs.observations, model.low, model.high, of_row, d_decoded);
  results.observation_nll = -mean(of_row, rows);
  float *d_mean = room(S, graded), *d_posterior_std = room(S, graded), *d_prior_std = room(S, graded);
  latent.kl_divergence(found.posterior_mean, found.posterior_std, found.prior_mean, found.prior_std, of_row, d_mean,
                       d_posterior_std, d_prior_std);
  results.kl = mean(of_row, rows);
  constexpr double kHalfLogTwoPi = 0.91893853320467274;
  const double share = 1.0 / static_cast<double>(rows);
  double squares = 0.0, errors = 0.0;
  for (std::int64_t i = 0; i < rows; ++i) {
    const double apart = static_cast<double>(reward[i]) - inputs.rewards[i];
    squares += apart * apart;
    errors += std::abs(apart);
    if (graded) d_reward[i] = static_cast<float>(model.reward_scale * apart * share);
  }
  results.reward_nll = 0.5 * squares * share + kHalfLogTwoPi;
  results.reward_error = errors * share;
  if (!graded) return;

  // Backward. Below the free nats the divergence has no gradient; a NaN has one.
  const float gate = results.kl < model.free_nats ? 0.0f : static_cast<float>(share);
  float *d_feature = room(F), *d_other = room(F), *d_prior_mean = room(S), *d_embedding = room(E);
  for (std::int64_t i = 0; i < 2 * O * rows; ++i) d_decoded[i] *= -static_cast<float>(share);
  decoder.backward(d_decoded, d_feature, gradients.decoder, threads);
  rewards.backward(d_reward, d_other, gradients.reward, threads);
  float *d_stoch = room(S), *d_deter = room(D);
  features.split(d_feature, d_other, d_stoch, d_deter);
  const float to_prior = gate * model.prior_share, to_posterior = gate * model.posterior_share;
  for (std::int64_t i = 0; i < S * rows; ++i) {
    d_prior_mean[i] = -d_mean[i] * to_prior;
    d_prior_std[i] *= to_prior;
    d_mean[i] *= to_posterior;
    d_posterior_std[i] *= to_posterior;
  }
  observe.backward({d_stoch, d_deter, d_mean, d_posterior_std, d_prior_mean, d_prior_std},
                   {d_embedding, nullptr, gradients.transition, gradients.filter}, threads);
  encoder.backward(d_embedding, nullptr, gradients.encoder, threads);
}

}  // namespace lsp_fast
