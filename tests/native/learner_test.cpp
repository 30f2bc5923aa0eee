// The learner's operations under sanitizers. Whether their numbers are right the tests in tests/ops say; here: the bits are
// the same whoever shares the work, and nothing is read that the call before has left behind.
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "check.hpp"
#include "learner.hpp"
#include "ops/behavior.hpp"
#include "ops/densities.hpp"
#include "ops/imagine.hpp"
#include "ops/mlp.hpp"
#include "ops/observe.hpp"
#include "ops/world_model.hpp"

namespace lsp_fast::tests {

namespace {

using std::int64_t;
using Floats = std::vector<float>;

std::size_t size(int64_t count) { return static_cast<std::size_t>(count); }

// Layers and room for their gradients, each an array of exactly its numbers.
struct Weights {
  std::vector<std::unique_ptr<Floats>> kept;
  std::vector<Floats*> gradients;

  float* keep(Floats values) {
    kept.push_back(std::make_unique<Floats>(std::move(values)));
    return kept.back()->data();
  }
  TorchLinear layer(int64_t in, int64_t out) {
    const float* weight = keep(numbers<float>(in * out, 0.3));
    return {weight, keep(numbers<float>(out, 0.3)), in, out};
  }
  TorchGradient gradient(const TorchLinear& layer) {
    float* weight = keep(Floats(size(layer.in * layer.out), -7.0f));
    gradients.push_back(kept.back().get());
    float* bias = keep(Floats(size(layer.out), -7.0f));
    gradients.push_back(kept.back().get());
    return {weight, bias};
  }
};

// The operation's outputs and gradients one after the other; `poison` is what its first input is multiplied by.
using Run = std::function<Floats(const LearnerKernels&, float poison, int64_t threads)>;

void append(Floats& all, const Floats& more) { all.insert(all.end(), more.begin(), more.end()); }

Floats times(Floats x, float factor) {
  for (auto& y : x) y *= factor;
  return x;
}

void compare(const LearnerKernels& kernels, const Run& run) {
  const auto wanted = run(kernels, 1.0f, 1);
  for (const float x : wanted) CHECK(std::isfinite(x));
  run(kernels, std::numeric_limits<float>::quiet_NaN(), 1);  // what it leaves behind is the next call's memory
  for (const int64_t threads : {1, 2, 5}) CHECK(same(run(kernels, 1.0f, threads), wanted));
}

Run mlp(int64_t rows, std::vector<int64_t> widths, bool linear_out) {
  auto weights = std::make_shared<Weights>();
  std::vector<TorchLinear> layers;
  for (std::size_t i = 0; i + 1 < widths.size(); ++i) layers.push_back(weights->layer(widths[i], widths[i + 1]));
  const auto x = numbers<float>(rows * widths.front());
  return [=, owner = weights](const LearnerKernels& kernels, float poison, int64_t threads) {
    Weights grads;
    const auto input = times(x, poison);
    MlpPass pass(kernels, layers, linear_out, rows, true);
    Floats y(size(rows * widths.back()), -7.0f), dx(x.size(), -7.0f);
    pass.forward(input.data(), y.data(), threads);
    std::vector<TorchGradient> wanted;
    for (const auto& layer : layers) wanted.push_back(grads.gradient(layer));
    pass.backward(y.data(), dx.data(), wanted, threads);
    append(y, dx);
    for (const auto* g : grads.gradients) append(y, *g);
    return y;
  };
}

TorchTransition transition(Weights& weights, int64_t S, int64_t D, int64_t A, int64_t hidden) {
  return {weights.layer(S + A, hidden), weights.layer(hidden, 3 * D), weights.layer(D, 3 * D), weights.layer(D, hidden),
          weights.layer(hidden, 2 * S), 0.1f};
}

Run observe(ObservePass::Sizes n, int64_t hidden) {
  auto weights = std::make_shared<Weights>();
  const auto prior = transition(*weights, n.stoch, n.deter, n.action, hidden);
  const TorchFilter posterior{weights->layer(n.deter + n.embedding, hidden), weights->layer(hidden, 2 * n.stoch), 0.1f};
  const auto rows = n.steps * n.sequences;
  const auto embeddings = numbers<float>(rows * n.embedding), actions = numbers<float>(rows * n.action);
  const auto noise = numbers<float>(rows * n.stoch);
  auto first = std::shared_ptr<bool[]>(new bool[size(rows)]);
  for (int64_t i = 0; i < rows; ++i) first[i] = i % 7 == 3;
  return [=, owner = weights](const LearnerKernels& kernels, float poison, int64_t threads) {
    Weights grads;
    const auto given = times(embeddings, poison);
    ObservePass pass(kernels, n, prior, posterior, true);
    Floats stoch(noise.size()), deter(size(rows * n.deter)), q(noise.size()), q_std(q), p(q), p_std(q);
    Floats d_embeddings(embeddings.size()), d_actions(actions.size());
    pass.forward({given.data(), actions.data(), first.get(), noise.data()},
                 {stoch.data(), deter.data(), q.data(), q_std.data(), p.data(), p_std.data()}, threads);
    ObservePass::Gradients wanted{d_embeddings.data(), d_actions.data(), {}, {}};
    for (std::size_t i = 0; i < pass.layers().size(); ++i) {
      (i < 5 ? wanted.transition : wanted.filter).push_back(grads.gradient(pass.layers()[i]));
    }
    pass.backward({stoch.data(), deter.data(), nullptr, q_std.data(), p.data(), p_std.data()}, wanted, threads);
    for (const auto* more : {&deter, &q, &q_std, &p, &p_std, &d_embeddings, &d_actions}) append(stoch, *more);
    for (const auto* g : grads.gradients) append(stoch, *g);
    return stoch;
  };
}

Run imagine(ImaginePass::Sizes n, int64_t hidden, bool sample) {
  auto weights = std::make_shared<Weights>();
  const auto prior = transition(*weights, n.stoch, n.deter, n.action, hidden);
  TorchActor actor{{weights->layer(n.stoch + n.deter + n.skill, hidden), weights->layer(hidden, 2 * n.action)},
                   5.0f, 0.5f, 1e-4f};
  const auto stoch = numbers<float>(n.states * n.stoch), deter = numbers<float>(n.states * n.deter);
  const auto skills = numbers<float>(2 * n.states * n.skill);
  const auto rows = n.steps * n.states;
  const auto noise = numbers<float>(rows * n.stoch), action_noise = numbers<float>(rows * n.action);
  return [=, owner = weights](const LearnerKernels& kernels, float poison, int64_t threads) {
    Weights grads;
    const auto given = times(stoch, poison);
    ImaginePass pass(kernels, n, prior, actor, sample, true);
    Floats s(size(rows * n.stoch)), h(size(rows * n.deter)), a(size(rows * n.action)), mean(a.size()), stddev(a.size());
    pass.forward({given.data(), deter.data(), skills.data(), 2, 3, noise.data(), sample ? action_noise.data() : nullptr},
                 {s.data(), h.data(), a.data(), mean.data(), stddev.data()}, threads);
    std::vector<TorchGradient> wanted;
    for (const auto& layer : pass.layers()) wanted.push_back(grads.gradient(layer));
    pass.backward({s.data(), h.data(), nullptr, mean.data(), stddev.data()}, wanted, threads);
    for (const auto* more : {&h, &a, &mean, &stddev}) append(s, *more);
    for (const auto* g : grads.gradients) append(s, *g);
    return s;
  };
}

Run densities(int64_t rows, int64_t width) {
  const auto count = rows * width;
  const auto raw = numbers<float>(2 * count), x = numbers<float>(count), mean = numbers<float>(count);
  auto std = numbers<float>(count);
  for (auto& y : std) y = std::abs(y) + 0.1f;
  return [=](const LearnerKernels& kernels, float poison, int64_t threads) {
    const Densities work{kernels, rows, width, threads};
    const auto given = times(raw, poison);
    Floats out(size(rows)), all, slopes(raw.size()), a(x.size()), b(a), c(a);
    work.log_prob(given.data(), x.data(), -4.6f, 0.8f, out.data(), slopes.data());
    for (const auto* more : {&out, &slopes}) append(all, *more);
    work.kl_divergence(mean.data(), std.data(), x.data(), std.data(), out.data(), a.data(), b.data(), c.data());
    for (const auto* more : {&out, &a, &b, &c}) append(all, *more);
    work.entropy(mean.data(), std.data(), x.data(), out.data(), a.data(), b.data());
    for (const auto* more : {&out, &a, &b}) append(all, *more);
    work.entropy(mean.data(), std.data(), x.data(), out.data(), nullptr, nullptr);
    append(all, out);
    return all;
  };
}

std::vector<TorchGradient> gradients_of(Weights& grads, const std::vector<TorchLinear>& layers) {
  std::vector<TorchGradient> found;
  for (const auto& layer : layers) found.push_back(grads.gradient(layer));
  return found;
}

Run world_model(WorldModelSizes n, int64_t hidden) {
  auto weights = std::make_shared<Weights>();
  const auto F = n.stoch + n.deter, rows = n.rows();
  WorldModel model{};
  model.encoder = {weights->layer(n.observation, hidden), weights->layer(hidden, 7)};
  model.prior = transition(*weights, n.stoch, n.deter, n.action, hidden);
  model.posterior = {weights->layer(n.deter + 7, hidden), weights->layer(hidden, 2 * n.stoch), 0.1f};
  model.decoder = {weights->layer(F, hidden), weights->layer(hidden, 2 * n.observation)};
  model.reward = {weights->layer(F, hidden), weights->layer(hidden, 1)};
  model.low = -4.6f;
  model.high = 0.8f;
  model.prior_share = 0.8f;
  model.posterior_share = 0.2f;
  model.reward_scale = 10.0f;
  const auto observations = numbers<float>(rows * n.observation), actions = numbers<float>(rows * n.action);
  const auto rewards = numbers<float>(rows), noise = numbers<float>(rows * n.stoch);
  auto first = std::shared_ptr<bool[]>(new bool[size(rows)]);
  for (int64_t i = 0; i < rows; ++i) first[i] = i % 7 == 3;
  return [=, owner = weights](const LearnerKernels& kernels, float poison, int64_t threads) {
    Weights grads;
    const auto given = times(observations, poison);
    Floats stoch(noise.size(), -7.0f), deter(size(rows * n.deter), -7.0f);
    WorldModelResults results{};
    results.stoch = stoch.data();
    results.deter = deter.data();
    const auto &p = model.prior;
    const auto &q = model.posterior;
    const WorldModelGradients wanted{gradients_of(grads, model.encoder),
                                     gradients_of(grads, {p.inp, p.gru_input, p.gru_hidden, p.hidden, p.out}),
                                     gradients_of(grads, {q.hidden, q.out}), gradients_of(grads, model.decoder),
                                     gradients_of(grads, model.reward)};
    const WorldModelInputs inputs{given.data(), actions.data(), first.get(), rewards.data(), noise.data()};
    lsp_fast::world_model(kernels, model, n, inputs, results, wanted, threads);
    append(stoch, deter);
    for (const double x : {results.kl, results.observation_nll, results.reward_nll, results.reward_error}) {
      stoch.push_back(static_cast<float>(x));
    }
    for (const auto* g : grads.gradients) append(stoch, *g);
    return stoch;
  };
}

// Skills are held three steps; the predictor sees the first and the last one, where it is `informed`. Then the value
// has a slow copy, too.
Run behavior(ImaginePass::Sizes n, int64_t hidden, bool informed) {
  auto weights = std::make_shared<Weights>();
  const auto F = n.stoch + n.deter, rows = n.steps * n.states, segments = informed ? n.steps / 3 : 0;
  Behavior model{};
  model.prior = transition(*weights, n.stoch, n.deter, n.action, hidden);
  model.actor = {{weights->layer(F + n.skill, hidden), weights->layer(hidden, 2 * n.action)}, 5.0f, 0.5f, 1e-4f};
  model.reward = {weights->layer(F, hidden), weights->layer(hidden, 1)};
  model.value = {weights->layer(F, hidden), weights->layer(hidden, hidden), weights->layer(hidden, 1)};
  if (informed) model.slow = {weights->layer(F, hidden), weights->layer(hidden, 1)};
  if (informed) model.predictor = {weights->layer(3 * F, hidden), weights->layer(hidden, 2 * n.skill)};
  model.seen = {0, 2};
  model.shares.assign(size(segments * 3), 0.3f);
  model.gamma = 0.9f;
  model.endless = 10.0;
  model.lam = 0.8f;
  model.entropy = 0.1f;
  model.predictor_noise = 0.3f;
  model.low = -4.6f;
  model.high = 0.8f;
  model.saturation = 0.5f;
  model.saturated = 0.2f;
  model.largest = informed ? 0.0f : std::numeric_limits<float>::infinity();  // of this rollout's own rewards, and not at all
  model.offset = 1.0f;
  const auto stoch = numbers<float>(n.states * n.stoch), deter = numbers<float>(n.states * n.deter);
  const auto skills = numbers<float>((segments + 1) * n.states * n.skill);
  const auto noise = numbers<float>(rows * n.stoch), action_noise = numbers<float>(rows * n.action);
  const auto seen = times(skills, 3.0f), beta = numbers<float>(n.states), means = numbers<float>(F);
  const auto deviations = Floats(size(F), 0.7f);
  const auto told = numbers<float>(segments * n.states * 3 * F), fitted = numbers<float>(segments * n.states * 3 * F);
  return [=, owner = weights](const LearnerKernels& kernels, float poison, int64_t threads) {
    Weights grads;
    const auto given = times(stoch, poison);
    Floats reward(size(rows), -7.0f), value(reward), entropy(reward), target(size(rows - n.states), -7.0f);
    Floats feature(size(rows * F), -7.0f), mean(size(rows * n.action), -7.0f), stddev(mean), log_q(size(segments * n.states), -7.0f);
    BehaviorResults results{reward.data(), value.data(), entropy.data(), mean.data(), stddev.data(),
                            feature.data(), target.data(), log_q.data(), 0.0, 0.0, 0.0};
    const BehaviorGradients wanted{gradients_of(grads, model.actor.layers), gradients_of(grads, model.value),
                                   gradients_of(grads, model.predictor)};
    const BehaviorInputs inputs{
        {given.data(), deter.data(), seen.data(), segments + 1, 3, noise.data(), action_noise.data()},
        skills.data(), beta.data(), means.data(), deviations.data(), told.data(), fitted.data()};
    lsp_fast::behavior(kernels, model, {n, segments}, inputs, results, wanted, threads);
    for (const auto* more : {&value, &entropy, &target, &feature, &mean, &stddev, &log_q}) append(reward, *more);
    for (const double x : {results.actor_loss, results.value_loss, results.predictor_loss}) {
      reward.push_back(static_cast<float>(x));
    }
    for (const auto* g : grads.gradients) append(reward, *g);
    return reward;
  };
}

}  // namespace

void learner() {
  for (const char* name : {"bf16", "avx512", "avx2", "portable"}) {
    const auto* kernels = find_learner_kernels(name);
    if (!kernels) continue;
    const auto of = std::string(kernels->name) + ": ";
    group(of + "mlp", [&] {
      compare(*kernels, mlp(1, {1, 1}, true));
      compare(*kernels, mlp(17, {19, 33, 5}, true));
      compare(*kernels, mlp(130, {300, 40, 17}, false));
    });
    group(of + "observe", [&] {
      compare(*kernels, observe({1, 1, 1, 1, 1, 1}, 1));
      compare(*kernels, observe({5, 19, 21, 3, 6, 17}, 33));
    });
    group(of + "densities", [&] {
      compare(*kernels, densities(1, 1));
      compare(*kernels, densities(700, 19));
    });
    group(of + "imagine", [&] {
      compare(*kernels, imagine({1, 1, 1, 1, 1, 0}, 1, false));
      compare(*kernels, imagine({7, 37, 6, 17, 3, 2}, 33, true));
    });
    group(of + "world model", [&] {
      compare(*kernels, world_model({1, 1, 1, 1, 1, 1}, 1));
      compare(*kernels, world_model({5, 19, 11, 3, 6, 17}, 33));
    });
    group(of + "behaviour", [&] {
      compare(*kernels, behavior({2, 1, 1, 1, 1, 0}, 1, false));
      compare(*kernels, behavior({7, 37, 6, 17, 3, 2}, 33, true));
    });
  }
}

}  // namespace lsp_fast::tests
