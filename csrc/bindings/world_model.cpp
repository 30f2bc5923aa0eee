// The world model's loss with all its gradients.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/checks.hpp"
#include "bindings/gil.hpp"
#include "bindings/layers.hpp"
#include "ops/world_model.hpp"

namespace lsp_fast::bindings {

namespace {

py::tuple world_model(const py::object& observations_object, const py::object& actions_object,
                      const py::object& is_first_object, const py::object& rewards_object,
                      const py::object& noise_object, const py::tuple& weights, double free_nats, double low,
                      double high, double prior_share, double posterior_share, double reward_scale, bool with_gradients, std::int64_t threads, const std::string& isa) {
  const auto& kernels = learner_kernels_of(isa);
  const auto observations_array = as_array("observations", observations_object);
  const auto actions_array = as_array("actions", actions_object), noise_array = as_array("noise", noise_object);
  require_dims("observations", observations_array, 3, "[L, B, O]");
  require_dims("actions", actions_array, 3, "[L, B, A]");
  require_dims("noise", noise_array, 3, "[L, B, S]");
  const auto L = observations_array.shape(0), B = observations_array.shape(1);
  const auto O = observations_array.shape(2), A = actions_array.shape(2), S = noise_array.shape(2);
  if (L == 0 || B == 0) throw py::value_error("there is no step to learn from");
  const auto is_first_array = as_array("is_first", is_first_object);
  require_shape("is_first", is_first_array, {L, B}, "[L, B]");
  const auto is_first = dense<bool>("is_first", is_first_array);
  OptionalArrays given;
  const lsp_fast::WorldModelInputs inputs{given.require("observations", observations_array, {L, B, O}),
                                          given.require("actions", actions_array, {L, B, A}), is_first.data(),
                                          given.require("rewards", rewards_object, {L, B}), given.require("noise", noise_array, {L, B, S})};

  if (weights.size() != 5) throw py::value_error("weights must be encoder, prior, posterior, decoder and reward head");
  TorchLayers layers;
  lsp_fast::WorldModel model{};
  model.encoder = torch_mlp(layers, "encoder", weights[0], O);
  model.prior = torch_transition(layers, as_tuple("prior", weights[1]), S, A);
  const auto D = static_cast<std::int64_t>(model.prior.gru_hidden.in);
  model.posterior = torch_filter(layers, as_tuple("posterior", weights[2]), S, D, model.encoder.back().out);
  model.decoder = torch_mlp(layers, "decoder", weights[3], S + D, 2 * O);
  model.reward = torch_mlp(layers, "reward", weights[4], S + D, 1);
  model.free_nats = static_cast<float>(free_nats);
  model.low = static_cast<float>(low);
  model.high = static_cast<float>(high);
  model.prior_share = static_cast<float>(prior_share);
  model.posterior_share = static_cast<float>(posterior_share);
  model.reward_scale = static_cast<float>(reward_scale);

  lsp_fast::WorldModelResults results{};
  auto stoch = new_array(results.stoch, {L, B, S}), deter = new_array(results.deter, {L, B, D});
  lsp_fast::WorldModelGradients gradients;
  py::list arrays;
  if (with_gradients) {
    const auto &p = model.prior;
    const auto &q = model.posterior;
    gradients = {new_gradients(arrays, model.encoder),
                 new_gradients(arrays, {p.inp, p.gru_input, p.gru_hidden, p.hidden, p.out}),
                 new_gradients(arrays, {q.hidden, q.out}), new_gradients(arrays, model.decoder),
                 new_gradients(arrays, model.reward)};
  }
  const lsp_fast::WorldModelSizes sizes{L, B, O, A, S, D};
  without_gil([&](ReleasedGil&) {
    lsp_fast::world_model(kernels, model, sizes, inputs, results, gradients, std::max<std::int64_t>(threads, 1));
  });
  const auto parts = py::make_tuple(results.kl, results.observation_nll, results.reward_nll, results.reward_error);
  return py::make_tuple(stoch, deter, parts, arrays);
}

}  // namespace

void bind_world_model(py::module_& module) {
  module.def("world_model", &world_model, py::arg("observations"), py::arg("actions"), py::arg("is_first"),
             py::arg("rewards"), py::arg("noise"), py::arg("weights"), py::arg("free_nats"), py::arg("low"),
             py::arg("high"), py::arg("prior_share"), py::arg("posterior_share"), py::arg("reward_scale"),
             py::arg("with_gradients"), py::arg("threads"), py::arg("isa") = "auto",
             "[L,B,O], [L,B,A], [L,B] bool, [L,B], [L,B,S], weights, free nats, bounds of the log variance, shares of kl's gradient, weight of -log p(r) -> stoch, "
             "deter [L,B,...], means of kl, -log p(o), -log p(r) and |r - r'|, [dweight, dbias, ...] of encoder, inp, "
             "gru's input, gru's state, hidden, out, the posterior's hidden, out, decoder and reward head");
}

}  // namespace lsp_fast::bindings
