// Rollouts under a policy, with the gradient to the actor.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/checks.hpp"
#include "bindings/gil.hpp"
#include "bindings/layers.hpp"
#include "ops/imagine.hpp"

namespace lsp_fast::bindings {

namespace {

using Pass = std::shared_ptr<lsp_fast::ImaginePass>;

py::tuple forward(const py::object& stoch_object, const py::object& deter_object, const py::tuple& prior,
                  const py::tuple& actor, const py::object& skills_object, std::int64_t skill_length,
                  const py::object& stoch_noise_object, const py::object& action_noise_object, bool with_backward,
                  std::int64_t threads, const std::string& isa) {
  const auto& kernels = learner_kernels_of(isa);
  const auto stoch_array = as_array("stoch", stoch_object), deter_array = as_array("deter", deter_object);
  const auto noise_array = as_array("noise.stoch", stoch_noise_object);
  require_dims("stoch", stoch_array, 2, "[N, S]");
  require_dims("deter", deter_array, 2, "[N, D]");
  require_dims("noise.stoch", noise_array, 3, "[H, N, S]");
  const auto N = stoch_array.shape(0), S = stoch_array.shape(1), D = deter_array.shape(1), H = noise_array.shape(0);
  require_shape("deter", deter_array, {N, D}, "[N, D]");
  require_shape("noise.stoch", noise_array, {H, N, S}, "[H, N, S]");
  if (H == 0 || N == 0) throw py::value_error("there is nothing to imagine");
  if (skill_length < 1) throw py::value_error("skill_length must be at least 1");
  const auto A = action_width(prior, S);

  TorchLayers layers;
  const auto transition = torch_transition(layers, prior, S, A);
  require_shape("deter", deter_array, {N, transition.gru_hidden.in}, "[N, D]");
  OptionalArrays given;
  lsp_fast::ImaginePass::Inputs inputs{};
  std::int64_t Z = 0;
  if (!skills_object.is_none()) {
    const auto array = as_array("skills", skills_object);
    require_dims("skills", array, 3, "[P, N, Z]");
    inputs.plan_length = array.shape(0);
    Z = array.shape(2);
    if (inputs.plan_length < 1) throw py::value_error("skills hold no plan step");
    inputs.skills = given.add("skills", array, {inputs.plan_length, N, Z});
  }
  inputs.stoch = given.add("stoch", stoch_array, {N, S});
  inputs.deter = given.add("deter", deter_array, {N, D});
  inputs.skill_length = skill_length;
  inputs.stoch_noise = given.add("noise.stoch", noise_array, {H, N, S});
  inputs.action_noise = given.add("noise.action", action_noise_object, {H, N, A});

  const auto policy = torch_actor(layers, actor, S + D + Z, A);

  auto pass = std::make_shared<lsp_fast::ImaginePass>(kernels, lsp_fast::ImaginePass::Sizes{H, N, S, D, A, Z}, transition,
                                                      policy, inputs.action_noise != nullptr, with_backward);
  lsp_fast::ImaginePass::Outputs outputs{};
  auto stoch = new_array(outputs.stoch, {H, N, S}), deter = new_array(outputs.deter, {H, N, D});
  auto actions = new_array(outputs.actions, {H, N, A}), mean = new_array(outputs.mean, {H, N, A});
  auto stddev = new_array(outputs.stddev, {H, N, A});
  without_gil([&](ReleasedGil&) { pass->forward(inputs, outputs, std::max<std::int64_t>(threads, 1)); });
  return py::make_tuple(stoch, deter, actions, mean, stddev, pass);
}

py::list backward(const Pass& pass, const py::object& d_stoch, const py::object& d_deter, const py::object& d_actions,
                  const py::object& d_mean, const py::object& d_stddev, std::int64_t threads) {
  const auto& n = pass->sizes();
  OptionalArrays given;
  const lsp_fast::ImaginePass::Given gradients{given.add("d_stoch", d_stoch, {n.steps, n.states, n.stoch}),
                                               given.add("d_deter", d_deter, {n.steps, n.states, n.deter}),
                                               given.add("d_actions", d_actions, {n.steps, n.states, n.action}),
                                               given.add("d_mean", d_mean, {n.steps, n.states, n.action}),
                                               given.add("d_std", d_stddev, {n.steps, n.states, n.action})};
  py::list arrays;
  const auto wanted = new_gradients(arrays, pass->layers());
  without_gil([&](ReleasedGil&) { pass->backward(gradients, wanted, std::max<std::int64_t>(threads, 1)); });
  return arrays;
}

}  // namespace

void bind_imagine(py::module_& module) {
  py::class_<lsp_fast::ImaginePass, Pass>(module, "ImaginePass", "What imagine keeps for its gradient.");
  module.def("imagine_forward", &forward, py::arg("stoch"), py::arg("deter"), py::arg("prior"), py::arg("actor"),
             py::arg("skills"), py::arg("skill_length"), py::arg("stoch_noise"), py::arg("action_noise"),
             py::arg("with_backward"), py::arg("threads"), py::arg("isa") = "auto",
             "stoch[N,S], deter[N,D], weights, skills[P,N,Z] or None, K, noise[H,N,S], noise[H,N,A] or None -> stoch, "
             "deter, actions, mean, std [H,N,...], what is kept");
  module.def("imagine_backward", &backward, py::arg("kept"), py::arg("d_stoch"), py::arg("d_deter"),
             py::arg("d_actions"), py::arg("d_mean"), py::arg("d_std"), py::arg("threads"),
             "gradients of the outputs or None -> [dweight, dbias, ...] of the actor's layers");
}

}  // namespace lsp_fast::bindings
