// Filtering sequences with the RSSM, with the gradients of embeddings, actions and weights.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/checks.hpp"
#include "bindings/gil.hpp"
#include "bindings/layers.hpp"
#include "ops/observe.hpp"

namespace lsp_fast::bindings {

namespace {

using Pass = std::shared_ptr<lsp_fast::ObservePass>;

py::tuple forward(const py::object& embeddings_object, const py::object& actions_object,
                  const py::object& is_first_object, const py::object& noise_object, const py::tuple& prior,
                  const py::tuple& posterior, bool with_backward, std::int64_t threads, const std::string& isa) {
  const auto& kernels = learner_kernels_of(isa);
  const auto embeddings_array = as_array("embeddings", embeddings_object), actions_array = as_array("actions", actions_object);
  const auto is_first_array = as_array("is_first", is_first_object), noise_array = as_array("noise", noise_object);
  require_dims("embeddings", embeddings_array, 3, "[L, B, E]");
  require_dims("actions", actions_array, 3, "[L, B, A]");
  require_dims("noise", noise_array, 3, "[L, B, S]");
  const auto L = embeddings_array.shape(0), B = embeddings_array.shape(1);
  require_shape("actions", actions_array, {L, B, actions_array.shape(2)}, "[L, B, A]");
  require_shape("is_first", is_first_array, {L, B}, "[L, B]");
  require_shape("noise", noise_array, {L, B, noise_array.shape(2)}, "[L, B, S]");
  if (L == 0 || B == 0) throw py::value_error("there is no step to observe");
  const auto embeddings = dense<float>("embeddings", embeddings_array), actions = dense<float>("actions", actions_array);
  const auto is_first = dense<bool>("is_first", is_first_array);
  const auto noise = dense<float>("noise", noise_array);

  TorchLayers layers;
  auto transition = torch_transition(layers, prior, noise_array.shape(2), actions_array.shape(2));
  const auto S = noise_array.shape(2), D = transition.gru_hidden.in, E = embeddings_array.shape(2);
  const auto filter = torch_filter(layers, posterior, S, D, E);

  auto pass = std::make_shared<lsp_fast::ObservePass>(
      kernels, lsp_fast::ObservePass::Sizes{L, B, E, actions_array.shape(2), S, D}, transition, filter, with_backward);
  lsp_fast::ObservePass::Outputs outputs{};
  auto stoch = new_array(outputs.stoch, {L, B, S}), deter = new_array(outputs.deter, {L, B, D});
  auto posterior_mean = new_array(outputs.posterior_mean, {L, B, S}), posterior_std = new_array(outputs.posterior_std, {L, B, S});
  auto prior_mean = new_array(outputs.prior_mean, {L, B, S}), prior_std = new_array(outputs.prior_std, {L, B, S});
  const lsp_fast::ObservePass::Inputs inputs{embeddings.data(), actions.data(), is_first.data(), noise.data()};
  without_gil([&](ReleasedGil&) { pass->forward(inputs, outputs, std::max<std::int64_t>(threads, 1)); });
  return py::make_tuple(stoch, deter, posterior_mean, posterior_std, prior_mean, prior_std, pass);
}

py::tuple backward(const Pass& pass, const py::object& d_stoch, const py::object& d_deter,
                   const py::object& d_posterior_mean, const py::object& d_posterior_std, const py::object& d_prior_mean,
                   const py::object& d_prior_std, bool want_embeddings, bool want_actions, bool want_weights,
                   std::int64_t threads) {
  const auto& n = pass->sizes();
  OptionalArrays given;
  const lsp_fast::ObservePass::Given gradients{
      given.add("d_stoch", d_stoch, {n.steps, n.sequences, n.stoch}),
      given.add("d_deter", d_deter, {n.steps, n.sequences, n.deter}),
      given.add("d_posterior_mean", d_posterior_mean, {n.steps, n.sequences, n.stoch}),
      given.add("d_posterior_std", d_posterior_std, {n.steps, n.sequences, n.stoch}),
      given.add("d_prior_mean", d_prior_mean, {n.steps, n.sequences, n.stoch}),
      given.add("d_prior_std", d_prior_std, {n.steps, n.sequences, n.stoch})};
  lsp_fast::ObservePass::Gradients wanted{};
  py::object d_embeddings = py::none(), d_actions = py::none();
  if (want_embeddings) d_embeddings = new_array(wanted.embeddings, {n.steps, n.sequences, n.embedding});
  if (want_actions) d_actions = new_array(wanted.actions, {n.steps, n.sequences, n.action});
  py::list arrays;
  if (want_weights) {
    for (std::size_t i = 0; i < pass->layers().size(); ++i) {
      (i < 5 ? wanted.transition : wanted.filter).push_back(new_gradient(arrays, pass->layers()[i]));
    }
  }
  without_gil([&](ReleasedGil&) { pass->backward(gradients, wanted, std::max<std::int64_t>(threads, 1)); });
  return py::make_tuple(d_embeddings, d_actions, arrays);
}

}  // namespace

void bind_observe(py::module_& module) {
  py::class_<lsp_fast::ObservePass, Pass>(module, "ObservePass", "What observe keeps for its gradient.");
  module.def("observe_forward", &forward, py::arg("embeddings"), py::arg("actions"), py::arg("is_first"),
             py::arg("noise"), py::arg("prior"), py::arg("posterior"), py::arg("with_backward"), py::arg("threads"),
             py::arg("isa") = "auto",
             "[L,B,E], [L,B,A], [L,B] bool, [L,B,S], weights -> stoch, deter, mean and std of posterior and of prior "
             "[L,B,...], what is kept");
  module.def("observe_backward", &backward, py::arg("kept"), py::arg("d_stoch"), py::arg("d_deter"),
             py::arg("d_posterior_mean"), py::arg("d_posterior_std"), py::arg("d_prior_mean"), py::arg("d_prior_std"),
             py::arg("want_embeddings"), py::arg("want_actions"), py::arg("want_weights"), py::arg("threads"),
             "gradients of the outputs or None -> those of embeddings, actions, and [weight, bias, ...] of inp, gru's "
             "input, gru's state, hidden, out, the posterior's hidden, out");
}

}  // namespace lsp_fast::bindings
