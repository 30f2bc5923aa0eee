// Linear layers of lsp_fast.ops.types as the learner takes them, and room for their gradients.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "bindings/checks.hpp"
#include "learner.hpp"
#include "ops/imagine.hpp"
#include "ops/mlp.hpp"
#include "ops/observe.hpp"

namespace lsp_fast::bindings {

inline const lsp_fast::LearnerKernels& learner_kernels_of(const std::string& isa) {
  const auto* kernels = lsp_fast::find_learner_kernels(isa.c_str());
  if (!kernels) throw py::value_error("isa = " + isa + " is not one that this processor runs");
  return *kernels;
}

// Checked layers; their arrays live as long as this.
class TorchLayers {
 public:
  lsp_fast::TorchLinear add(const char* name, const py::handle& layer, std::int64_t in, std::int64_t out = -1) {
    kept_.push_back(checked_layer(name, layer, in, out));
    const auto& kept = kept_.back();
    if (in == 0 || kept.out == 0) throw py::value_error(describe(name, kept.weight) + " must not be empty");
    return {kept.weight.data(), kept.bias.data(), in, kept.out};
  }

 private:
  std::vector<CheckedLayer> kept_;
};

// lsp_fast.ops.types.PriorWeights; the GRU's two layers as linear ones.
inline lsp_fast::TorchTransition torch_transition(TorchLayers& layers, const py::tuple& prior, std::int64_t stoch,
                                                  std::int64_t action) {
  if (prior.size() != 5) throw py::value_error("prior must be lsp_fast.ops.types.PriorWeights");
  const auto gru = as_tuple("gru", prior[1]);
  if (gru.size() != 4) throw py::value_error("gru must be lsp_fast.ops.types.GRUWeights");
  const auto state = as_array("gru.hidden", gru[1]);
  require_dims("gru.hidden", state, 2, "[3 D, D]");
  const auto deter = state.shape(1);
  lsp_fast::TorchTransition found{};
  found.inp = layers.add("prior.inp", prior[0], stoch + action);
  found.gru_input = layers.add("gru.input", py::make_tuple(gru[0], gru[2]), found.inp.out, 3 * deter);
  found.gru_hidden = layers.add("gru.hidden", py::make_tuple(gru[1], gru[3]), deter, 3 * deter);
  found.hidden = layers.add("prior.hidden", prior[2], deter);
  found.out = layers.add("prior.out", prior[3], found.hidden.out, 2 * stoch);
  found.min_std = static_cast<float>(as_number("prior.min_std", prior[4]));
  return found;
}

// lsp_fast.ops.types.PosteriorWeights.
inline lsp_fast::TorchFilter torch_filter(TorchLayers& layers, const py::tuple& posterior, std::int64_t stoch,
                                          std::int64_t deter, std::int64_t embedding) {
  if (posterior.size() != 3) throw py::value_error("posterior must be lsp_fast.ops.types.PosteriorWeights");
  lsp_fast::TorchFilter found{layers.add("posterior.hidden", posterior[0], deter + embedding), {},
                              static_cast<float>(as_number("posterior.min_std", posterior[2]))};
  found.out = layers.add("posterior.out", posterior[1], found.hidden.out, 2 * stoch);
  return found;
}

// Layers one after the other: ((weight, bias), ...), the last one of `out` outputs where that is given.
inline std::vector<lsp_fast::TorchLinear> torch_mlp(TorchLayers& layers, const char* name, const py::handle& given,
                                                    std::int64_t in, std::int64_t out = -1) {
  const auto each = as_tuple(name, given);
  if (each.empty()) throw py::value_error(std::string(name) + " needs at least one layer");
  std::vector<lsp_fast::TorchLinear> found;
  for (std::size_t i = 0; i < each.size(); ++i) {
    found.push_back(layers.add(name, each[i], in, i + 1 == each.size() ? out : -1));
    in = found.back().out;
  }
  return found;
}

// lsp_fast.ops.types.ActorWeights of `in` inputs.
inline lsp_fast::TorchActor torch_actor(TorchLayers& layers, const py::tuple& actor, std::int64_t in,
                                        std::int64_t action) {
  if (actor.size() != 4) throw py::value_error("actor must be lsp_fast.ops.types.ActorWeights");
  const auto mlp = as_tuple("actor", actor[0]);
  if (mlp.size() != 2) throw py::value_error("actor must be its hidden layers and an output layer");
  lsp_fast::TorchActor found{};
  for (const auto& layer : as_tuple("actor", mlp[0])) {
    found.layers.push_back(layers.add("actor", layer, in));
    in = found.layers.back().out;
  }
  found.layers.push_back(layers.add("actor", mlp[1], in, 2 * action));
  found.mean_scale = static_cast<float>(as_number("actor.mean_scale", actor[1]));
  const auto init_std = as_number("actor.init_std", actor[2]);
  found.std_shift = static_cast<float>(init_std + std::log(-std::expm1(-init_std)));  // log(e^s - 1)
  found.min_std = static_cast<float>(as_number("actor.min_std", actor[3]));
  return found;
}

// Arrays of given shapes, or None.
class OptionalArrays {
 public:
  const float* add(const char* name, const py::object& object, std::initializer_list<py::ssize_t> shape) {
    if (object.is_none()) return nullptr;
    const auto array = as_array(name, object);
    require_shape(name, array, shape, "its output's");
    kept_.push_back(dense<float>(name, array));
    return kept_.back().data();
  }
  // The same, but None is refused.
  const float* require(const char* name, const py::object& object, std::initializer_list<py::ssize_t> shape) {
    if (object.is_none()) throw py::value_error(std::string(name) + " must not be None");
    return add(name, object, shape);
  }

 private:
  std::vector<Dense<float>> kept_;
};

// Not written yet.
inline py::array_t<float> new_array(float*& data, std::initializer_list<py::ssize_t> shape) {
  py::array_t<float> array{std::vector<py::ssize_t>(shape)};
  data = array.mutable_data();
  return array;
}

// Arrays like the layer's, appended to the list; not written yet.
inline lsp_fast::TorchGradient new_gradient(py::list& arrays, const lsp_fast::TorchLinear& layer) {
  py::array_t<float> weight(std::vector<py::ssize_t>{layer.out, layer.in}), bias(std::vector<py::ssize_t>{layer.out});
  arrays.append(weight);
  arrays.append(bias);
  return {weight.mutable_data(), bias.mutable_data()};
}

inline std::vector<lsp_fast::TorchGradient> new_gradients(py::list& arrays,
                                                         const std::vector<lsp_fast::TorchLinear>& layers) {
  std::vector<lsp_fast::TorchGradient> found;
  for (const auto& layer : layers) found.push_back(new_gradient(arrays, layer));
  return found;
}

}  // namespace lsp_fast::bindings
