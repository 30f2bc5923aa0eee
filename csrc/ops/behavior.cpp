#include "ops/behavior.hpp"

#include <algorithm>
#include <cmath>
#include <memory>

#include "features.hpp"
#include "ops/densities.hpp"
#include "ops/lambda_return.hpp"
#include "ops/mlp.hpp"
#include "parallel.hpp"

namespace lsp_fast {

namespace {

// The predictor of every segment's skill, once with one noise: x = [seen states, the segment's first one] + noise.
class Prediction {
 public:
  Prediction(const LearnerKernels& kernels, const Behavior& model, const BehaviorSizes& sizes, std::int64_t threads,
             bool graded)
      : model_(model),
        n_(sizes.rollout),
        F_(sizes.features()),
        I_(F_ * (static_cast<std::int64_t>(model.seen.size()) + 1)),
        rows_(sizes.segments * n_.states),
        threads_(threads),
        arena_(kind_of('q', {rows_, I_, n_.skill, graded})),
        pass_(kernels, model.predictor, true, rows_, graded),
        density_{kernels, rows_, n_.skill, threads},
        x_(arena_.floats(rows_ * I_)),
        raw_(arena_.floats(rows_ * 2 * n_.skill)),
        slopes_(graded ? arena_.floats(rows_ * 2 * n_.skill) : nullptr) {}

  // log_q [J, N] of the segments of `feature` [T, N, F] that begin in `first` [N, F].
  void forward(const BehaviorInputs& inputs, const float* first, const float* feature, std::int64_t length,
               const float* noise, float* log_q) {
    parallel(threads_, rows_, [&](std::int64_t from, std::int64_t to) {
      for (std::int64_t r = from; r < to; ++r) {
        float* x = x_ + r * I_;
        const float* e = noise + r * I_;
        each_state(r, length, [&](std::int64_t state, std::int64_t at) {
          const auto i = r % n_.states;
          const float* f = state < 0 ? first + i * F_ : feature + (state * n_.states + i) * F_;
          if (inputs.means) {
            for (std::int64_t k = 0; k < F_; ++k) {
              x[at + k] = (f[k] - inputs.means[k]) / inputs.deviations[k] + model_.predictor_noise * e[at + k];
            }
          } else {
            for (std::int64_t k = 0; k < F_; ++k) x[at + k] = f[k] + model_.predictor_noise * e[at + k];
          }
        });
      }
    });
    pass_.forward(x_, raw_, threads_);
    density_.log_prob(raw_, inputs.skills, model_.low, model_.high, log_q, slopes_);
  }

  // Adds the gradient to the features from d_log_q [J, N]; that to the weights where it is wanted, and then alone.
  void backward(const float* d_log_q, std::int64_t length, const float* deviations, float* d_feature,
                const std::vector<TorchGradient>& weights) {
    const auto Z = 2 * n_.skill;
    for (std::int64_t r = 0; r < rows_; ++r) {
      for (std::int64_t k = 0; k < Z; ++k) slopes_[r * Z + k] *= d_log_q[r];
    }
    float* dx = weights.empty() ? x_ : nullptr;  // its numbers are no longer needed
    pass_.backward(slopes_, dx, weights, threads_);
    if (!dx) return;
    // A state of two segments, the last of one and the first of the next, is one rollout's: nobody else adds to it.
    const auto segments = rows_ / n_.states;
    parallel(threads_, n_.states, [&](std::int64_t from, std::int64_t to) {
      for (std::int64_t i = from; i < to; ++i) {
        for (std::int64_t j = 0; j < segments; ++j) {
          const auto r = j * n_.states + i;
          each_state(r, length, [&](std::int64_t state, std::int64_t at) {
            if (state < 0) return;
            float* d = d_feature + (state * n_.states + i) * F_;
            for (std::int64_t k = 0; k < F_; ++k) d[k] += dx[r * I_ + at + k] / (deviations ? deviations[k] : 1.0f);
          });
        }
      }
    });
  }

 private:
  // Calls work(t, column) for every state that row r sees, -1 being the start, and where it lies in x.
  template <typename Work>
  void each_state(std::int64_t r, std::int64_t length, const Work& work) const {
    const auto begin = r / n_.states * length;
    std::int64_t at = 0;
    for (const auto step : model_.seen) {
      work(begin + step, at);
      at += F_;
    }
    work(begin - 1, at);
  }

  const Behavior& model_;
  const ImaginePass::Sizes n_;
  const std::int64_t F_, I_, rows_, threads_;
  Arena arena_;
  MlpPass pass_;
  const Densities density_;
  float *x_, *raw_, *slopes_;
};

}  // namespace

void behavior(const LearnerKernels& kernels, const Behavior& model, const BehaviorSizes& sizes, const BehaviorInputs& inputs,
              BehaviorResults& results, const BehaviorGradients& gradients, std::int64_t threads) {
  const bool graded = !gradients.actor.empty(), informed = !model.predictor.empty();
  const auto& n = sizes.rollout;
  const auto T = n.steps, N = n.states, S = n.stoch, D = n.deter, A = n.action, F = sizes.features(), rows = sizes.rows();
  const auto length = inputs.rollout.skill_length, counted = (T - 1) * N, explained = sizes.segments * N;
  Arena arena(kind_of('b', {T, N, S, D, A, graded}));
  const auto room = [&](std::int64_t count) { return arena.floats(count); };

  // Forward.
  float *stoch = room(rows * S), *deter = room(rows * D), *actions = room(rows * A), *feature = results.feature;
  ImaginePass rollout(kernels, n, model.prior, model.actor, true, graded);
  rollout.forward(inputs.rollout, {stoch, deter, actions, results.mean, results.stddev}, threads);
  const Features features{rows, S, D, threads};
  features.join(stoch, deter, feature);
  MlpPass reward_head(kernels, model.reward, true, rows, graded), value_head(kernels, model.value, true, rows, graded);
  reward_head.forward(feature, results.task_reward, threads);
  std::unique_ptr<MlpPass> slow_head;
  const float* learned = results.value;  // what the value says; it learns, and the slow one judges
  if (model.slow.empty()) {
    value_head.forward(feature, results.value, threads);
  } else {
    slow_head = std::make_unique<MlpPass>(kernels, model.slow, true, rows, graded);
    slow_head->forward(feature, results.value, threads);
    float* own = room(rows);
    value_head.forward(feature, own, threads);
    learned = own;
  }
  float* reward = room(rows);
  std::copy_n(results.task_reward, rows, reward);
  std::unique_ptr<Prediction> told;
  float* first = nullptr;
  if (informed) {
    first = room(N * F);
    Features{N, S, D, 1}.join(inputs.rollout.stoch, inputs.rollout.deter, first);
    told = std::make_unique<Prediction>(kernels, model, sizes, threads, graded);
    told->forward(inputs, first, feature, length, inputs.intrinsic_noise, results.log_q);
    for (std::int64_t t = 0; t < sizes.segments * length; ++t) {
      const float* log_q = results.log_q + t / length * N;
      const float share = model.shares[static_cast<std::size_t>(t)];
      for (std::int64_t i = 0; i < N; ++i) reward[t * N + i] += inputs.beta[i] * share * (log_q[i] + model.offset);
    }
  }
  float* discount = room(counted);
  std::fill_n(discount, counted, model.gamma);
  const float *value = results.value, *bootstrap = value + counted;
  lambda_return<float>(T - 1, N, N, reward, value, discount, bootstrap, model.lam, results.target);
  float *d_mean = graded ? room(rows * A) : nullptr, *d_stddev = graded ? room(rows * A) : nullptr;
  Densities{kernels, rows, A, threads}.entropy(results.mean, results.stddev, inputs.rollout.action_noise, results.entropy,
                                               d_mean, d_stddev);

  // Losses, and their slopes at what they are made of. A state counts by the discounts before it, and the value learns
  // from no more than the largest reward at every step would bring.
  float *d_target = room(counted), *d_value = room(rows);
  const double share = 1.0 / static_cast<double>(counted);
  double objective = 0.0, errors = 0.0;
  float weight = 1.0f, largest = model.largest;
  for (std::int64_t i = 0; std::isfinite(largest) && i < rows; ++i) {
    largest = std::max({largest, std::abs(results.task_reward[i]), std::abs(reward[i])});
  }
  const float limit = static_cast<float>(largest * model.endless);
  for (std::int64_t t = 0; t < T - 1; ++t, weight *= model.gamma) {
    double wanted = 0.0, squares = 0.0;
    for (std::int64_t i = t * N; i < (t + 1) * N; ++i) {
      const double apart = static_cast<double>(learned[i]) - std::clamp(results.target[i], -limit, limit);
      wanted += static_cast<double>(results.target[i]) + static_cast<double>(model.entropy) * results.entropy[i];
      squares += apart * apart;
      d_target[i] = static_cast<float>(-weight * share);
      d_value[i] = static_cast<float>(weight * apart * share);
      const float slope = static_cast<float>(-weight * model.entropy * share);
      for (std::int64_t k = i * A; graded && k < (i + 1) * A; ++k) {
        d_mean[k] *= slope;
        d_stddev[k] *= slope;
      }
      for (std::int64_t k = i * A; model.saturation > 0.0f && k < (i + 1) * A; ++k) {
        const float beyond = std::max(std::abs(results.mean[k]) - model.saturated, 0.0f);
        wanted -= static_cast<double>(model.saturation) * beyond * beyond / static_cast<double>(A);
        if (graded) {
          d_mean[k] += static_cast<float>(2.0 * weight * model.saturation * share / static_cast<double>(A)) *
                       std::copysign(beyond, results.mean[k]);
        }
      }
    }
    constexpr double kHalfLogTwoPi = 0.91893853320467274;
    objective += weight * wanted;
    errors += weight * (0.5 * squares + kHalfLogTwoPi * static_cast<double>(N));
  }
  results.actor_loss = -objective * share;
  results.value_loss = errors * share;
  std::fill_n(d_value + counted, N, 0.0f);  // the last state's value is not learned from

  if (graded) {
    float *d_reward = room(rows), *d_bootstrapped = room(rows), *d_discount = room(counted);
    lambda_return_backward<float>(T - 1, N, d_target, value, discount, bootstrap, results.target, model.lam, d_reward,
                                  d_bootstrapped, d_discount, d_bootstrapped + counted);
    std::fill_n(d_reward + counted, N, 0.0f);
    std::fill_n(d_mean + counted * A, N * A, 0.0f);
    std::fill_n(d_stddev + counted * A, N * A, 0.0f);
    float *d_feature = room(rows * F), *d_other = room(rows * F);
    reward_head.backward(d_reward, d_feature, {}, threads);
    if (slow_head) {
      slow_head->backward(d_bootstrapped, d_other, {}, threads);
      value_head.backward(d_value, nullptr, gradients.value, threads);
    } else {
      value_head.backward_twice(d_bootstrapped, d_other, d_value, gradients.value, threads);
    }
    if (informed) {
      float* d_log_q = room(explained);
      std::fill_n(d_log_q, explained, 0.0f);
      for (std::int64_t t = 0; t < sizes.segments * length; ++t) {
        float* to = d_log_q + t / length * N;
        const float share = model.shares[static_cast<std::size_t>(t)];
        for (std::int64_t i = 0; i < N; ++i) to[i] += inputs.beta[i] * share * d_reward[t * N + i];
      }
      told->backward(d_log_q, length, inputs.deviations, d_feature, {});
    }
    float *d_stoch = room(rows * S), *d_deter = room(rows * D);
    features.split(d_feature, d_other, d_stoch, d_deter);
    rollout.backward({d_stoch, d_deter, nullptr, d_mean, d_stddev}, gradients.actor, threads);
  }
  if (!informed) return;
  // The predictor learns of the same segments with other noise.
  float* log_q = room(explained);
  told->forward(inputs, first, feature, length, inputs.predictor_noise, log_q);
  double sum = 0.0;
  for (std::int64_t i = 0; i < explained; ++i) sum += log_q[i];
  results.predictor_loss = -sum / static_cast<double>(explained);
  if (!graded) return;
  std::fill_n(log_q, explained, static_cast<float>(-1.0 / static_cast<double>(explained)));
  told->backward(log_q, length, nullptr, nullptr, gradients.predictor);
}

}  // namespace lsp_fast
