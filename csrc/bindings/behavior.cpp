// The losses of behaviour with all their gradients.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/checks.hpp"
#include "bindings/gil.hpp"
#include "bindings/layers.hpp"
#include "ops/behavior.hpp"

namespace lsp_fast::bindings {

namespace {

py::tuple behavior(const py::object& stoch_object, const py::object& deter_object, const py::object& skills_object,
                   const py::object& seen_object, std::int64_t skill_length, const py::object& stoch_noise_object,
                   const py::object& action_noise_object, const py::tuple& weights, double gamma, double lam,
                   double entropy_weight, double saturation, double saturated, double largest, const py::object& information,
                   bool with_gradients, std::int64_t threads, const std::string& isa) {
  const auto& kernels = learner_kernels_of(isa);
  const auto stoch_array = as_array("stoch", stoch_object), noise_array = as_array("noise.stoch", stoch_noise_object);
  require_dims("stoch", stoch_array, 2, "[N, S]");
  require_dims("noise.stoch", noise_array, 3, "[T, N, S]");
  const auto N = stoch_array.shape(0), S = stoch_array.shape(1), T = noise_array.shape(0);
  if (T < 2 || N == 0) throw py::value_error("there must be two steps and a state at least");
  if (skill_length < 1) throw py::value_error("skill_length must be at least 1");
  if (weights.size() != 5) throw py::value_error("weights must be prior, actor, reward head, value and a slow one or None");
  const auto prior = as_tuple("prior", weights[0]);
  const auto A = action_width(prior, S);

  TorchLayers layers;
  lsp_fast::Behavior model{};
  model.prior = torch_transition(layers, prior, S, A);
  const auto D = static_cast<std::int64_t>(model.prior.gru_hidden.in);
  OptionalArrays given;
  lsp_fast::BehaviorInputs inputs{};
  auto& rollout = inputs.rollout;
  std::int64_t Z = 0;
  if (!skills_object.is_none()) {
    const auto array = as_array("skills", skills_object);
    require_dims("skills", array, 3, "[P, N, Z]");
    rollout.plan_length = array.shape(0);
    Z = array.shape(2);
    if (rollout.plan_length < 1) throw py::value_error("skills hold no plan step");
    inputs.skills = given.add("skills", array, {rollout.plan_length, N, Z});
  }
  if (inputs.skills) rollout.skills = given.require("seen skills", seen_object, {rollout.plan_length, N, Z});
  rollout.stoch = given.require("stoch", stoch_array, {N, S});
  rollout.deter = given.require("deter", deter_object, {N, D});
  rollout.skill_length = skill_length;
  rollout.stoch_noise = given.require("noise.stoch", noise_array, {T, N, S});
  rollout.action_noise = given.require("noise.action", action_noise_object, {T, N, A});
  model.actor = torch_actor(layers, as_tuple("actor", weights[1]), S + D + Z, A);
  model.reward = torch_mlp(layers, "reward", weights[2], S + D, 1);
  model.value = torch_mlp(layers, "value", weights[3], S + D, 1);
  if (!py::object(weights[4]).is_none()) model.slow = torch_mlp(layers, "slow value", weights[4], S + D, 1);
  model.gamma = static_cast<float>(gamma);
  model.lam = static_cast<float>(lam);
  model.entropy = static_cast<float>(entropy_weight);
  model.saturation = static_cast<float>(saturation);
  model.saturated = static_cast<float>(saturated);
  model.largest = static_cast<float>(largest);
  model.endless = 1.0 / (1.0 - gamma);  // in double: in float32 1 - gamma would round

  lsp_fast::BehaviorResults results{};
  lsp_fast::BehaviorSizes sizes{{T, N, S, D, A, Z}, 0};
  py::object log_q = py::none();
  if (!information.is_none()) {
    const auto told = as_tuple("information", information);
    if (told.size() != 12 || Z == 0) {
      throw py::value_error("information must be skills' predictor, seen states, noise, bounds, shares, offset, scales, "
                            "beta and numbers");
    }
    for (const auto& step : as_tuple("seen", told[1])) {
      model.seen.push_back(py::cast<std::int64_t>(step));
      if (model.seen.back() < 0 || model.seen.back() >= skill_length) throw py::value_error("seen lies outside a segment");
    }
    for (const auto& share : as_tuple("shares", told[5])) model.shares.push_back(static_cast<float>(as_number("shares", share)));
    const auto width = (static_cast<std::int64_t>(model.seen.size()) + 1) * (S + D);
    model.predictor = torch_mlp(layers, "predictor", told[0], width, 2 * Z);
    model.predictor_noise = static_cast<float>(as_number("noise", told[2]));
    model.low = static_cast<float>(as_number("low", told[3]));
    model.high = static_cast<float>(as_number("high", told[4]));
    model.offset = static_cast<float>(as_number("offset", told[6]));
    inputs.means = given.add("means", told[7], {S + D});
    inputs.deviations = given.add("deviations", told[8], {S + D});
    if (!inputs.means != !inputs.deviations) throw py::value_error("means and deviations come together");
    inputs.beta = given.require("beta", told[9], {N});
    const auto intrinsic = as_array("intrinsic noise", told[10]);
    require_dims("intrinsic noise", intrinsic, 3, "[J, N, I]");
    const auto J = sizes.segments = intrinsic.shape(0);
    if (J < 1 || J > rollout.plan_length || J * skill_length > T ||
        J * skill_length > static_cast<std::int64_t>(model.shares.size())) {
      throw py::value_error("there are not so many segments");
    }
    inputs.intrinsic_noise = given.require("intrinsic noise", intrinsic, {J, N, width});
    inputs.predictor_noise = given.require("predictor noise", told[11], {J, N, width});
    log_q = new_array(results.log_q, {J, N});
  }

  auto task_reward = new_array(results.task_reward, {T, N}), value = new_array(results.value, {T, N});
  auto entropy = new_array(results.entropy, {T, N}), target = new_array(results.target, {T - 1, N});
  auto feature = new_array(results.feature, {T, N, S + D});
  auto mean = new_array(results.mean, {T, N, A}), stddev = new_array(results.stddev, {T, N, A});
  lsp_fast::BehaviorGradients gradients;
  py::list of_actor, of_value, of_predictor;
  if (with_gradients) {
    gradients = {new_gradients(of_actor, model.actor.layers), new_gradients(of_value, model.value),
                 new_gradients(of_predictor, model.predictor)};
  }
  without_gil([&](ReleasedGil&) {
    lsp_fast::behavior(kernels, model, sizes, inputs, results, gradients, std::max<std::int64_t>(threads, 1));
  });
  return py::make_tuple(py::make_tuple(results.actor_loss, results.value_loss, results.predictor_loss), task_reward, value,
                        target, entropy, feature, mean, stddev, log_q, py::make_tuple(of_actor, of_value, of_predictor));
}

}  // namespace

void bind_behavior(py::module_& module) {
  module.def("behavior", &behavior, py::arg("stoch"), py::arg("deter"), py::arg("skills"), py::arg("seen_skills"),
             py::arg("skill_length"), py::arg("stoch_noise"), py::arg("action_noise"), py::arg("weights"), py::arg("gamma"), py::arg("lam"),
             py::arg("entropy"), py::arg("saturation"), py::arg("saturated"), py::arg("largest"), py::arg("information"), py::arg("with_gradients"), py::arg("threads"),
             py::arg("isa") = "auto",
             "stoch[N,S], deter[N,D], skills[P,N,Z] or None, the same as the policy sees them, K, noise[T,N,S], "
             "noise[T,N,A], weights of prior, actor, reward head, value and a slow value or None, gamma, lambda, weights of entropy and "
             "saturation, the mean from which that counts, the largest reward so far, None or (predictor, seen states, noise's deviation, bounds of "
             "the log variance, shares of log q, offset, means and deviations [F] or None, beta[N], two noises [J,N,I]) "
             "-> losses, reward[T,N], value[T,N], target[T-1,N], entropy[T,N], feature[T,N,F], mean and std [T,N,A], "
             "log_q[J,N] or None, gradients");
}

}  // namespace lsp_fast::bindings
