// The weight tuples of lsp_fast.ops.types, checked and packed for one call.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bindings/checks.hpp"
#include "networks.hpp"
#include "ops/imagine_heads.hpp"

namespace lsp_fast::bindings {

// Layers of lsp_fast.ops.types, checked and packed; they live as long as the call.
class CheckedPacker {
 public:
  using Parts = std::vector<lsp_fast::Packer::Part>;

  explicit CheckedPacker(lsp_fast::Precision precision)
      : owner(std::make_shared<lsp_fast::Packer>(precision)), packer(*owner) {}

  // weight [out, in] and bias [out]; `out` -1 takes what the weight has.
  lsp_fast::Layer pack(const char* name, const py::handle& layer, std::int64_t in, std::int64_t out,
                       const Parts& parts) {
    const auto checked = checked_layer(name, layer, in, out);
    return packer.pack(checked.weight.data(), checked.bias.data(), in, checked.out, parts);
  }
  lsp_fast::Layer pack(const char* name, const py::handle& layer, std::int64_t in, std::int64_t out) {
    return pack(name, layer, in, out, {{0, in}});
  }

  // (hidden layers, output layer) of lsp_fast.ops.types.MLPWeights.
  lsp_fast::Mlp pack_mlp(const char* name, const py::handle& weights, Parts parts, std::int64_t out) {
    const auto layers = as_tuple(name, weights);
    if (layers.size() != 2) throw py::value_error(std::string(name) + " must be its hidden layers and an output layer");
    std::int64_t in = 0;
    for (const auto& part : parts) in += part.width;
    lsp_fast::Mlp net{};
    for (const auto& layer : as_tuple(name, layers[0])) {
      if (net.count + 1 >= lsp_fast::kMaxLayers) throw py::value_error(std::string(name) + " has too many layers");
      net.layers[net.count] = pack(name, layer, in, -1, parts);
      in = net.layers[net.count++].out;
      parts = {{0, in}};
    }
    net.layers[net.count++] = pack(name, layers[1], in, out, parts);
    return net;
  }

  // Shared with a plan's threads, of which one may come back after the call.
  const std::shared_ptr<lsp_fast::Packer> owner;
  lsp_fast::Packer& packer;
};

inline lsp_fast::Precision precision_of(const std::string& name) {
  if (name == "fp32") return lsp_fast::Precision::fp32;
  if (name == "bf16") return lsp_fast::Precision::bf16;
  throw py::value_error("precision = " + name + " is not one of fp32, bf16");
}

inline const lsp_fast::Kernels& kernels_of(const std::string& isa) {
  const auto* kernels = lsp_fast::find_kernels(isa.c_str());
  if (!kernels) throw py::value_error("isa = " + isa + " is not one that this processor runs");
  return *kernels;
}

// Nothing packed yet; the widths that start states and prior decide.
inline Networks sized_networks(const std::string& precision, std::int64_t stoch, std::int64_t deter,
                               const py::tuple& prior) {
  Networks net{};
  net.precision = precision_of(precision);
  net.stoch = stoch;
  net.deter = deter;
  net.action = action_width(prior, stoch);
  return net;
}

// Packs lsp_fast.ops.types' PriorWeights, ActorWeights (or None, where plans are actions) and heads into `net`, whose
// widths are known.
inline void pack_networks(CheckedPacker& packer, lsp_fast::Networks& net, const py::tuple& prior, const py::object& actor,
                          const py::tuple& heads) {
  if (heads.size() > lsp_fast::kMaxHeads) throw py::value_error("there are more heads than the kernels take");
  const auto S = net.stoch, D = net.deter, A = net.action;
  net.prior_in = packer.pack("prior.inp", prior[0], S + A, -1, {{S, A}, {0, S}});  // [s, a] as [a, s]
  const auto gru = as_tuple("gru", prior[1]);
  if (gru.size() != 4) throw py::value_error("gru must be lsp_fast.ops.types.GRUWeights");
  net.gru_input = packer.pack("gru.input", py::make_tuple(gru[0], gru[2]), net.prior_in.out, 3 * D);
  net.gru_hidden = packer.pack("gru.hidden", py::make_tuple(gru[1], gru[3]), D, 3 * D);
  net.prior_hidden = packer.pack("prior.hidden", prior[2], D, -1);
  net.prior_out = packer.pack("prior.out", prior[3], net.prior_hidden.out, 2 * S);
  net.prior_min_std = static_cast<float>(as_number("prior.min_std", prior[4]));
  net.has_actor = !actor.is_none();
  if (net.has_actor) {
    const auto parts = as_tuple("actor", actor);
    if (parts.size() != 4) throw py::value_error("actor must be lsp_fast.ops.types.ActorWeights");
    net.actor = packer.pack_mlp("actor", parts[0], {{0, S}, {S, D}, {S + D, net.skill}}, 2 * A);
    net.actor_mean_scale = static_cast<float>(as_number("actor.mean_scale", parts[1]));
    const auto init_std = as_number("actor.init_std", parts[2]);
    net.actor_std_shift = static_cast<float>(init_std + std::log(-std::expm1(-init_std)));  // log(e^s - 1)
    net.actor_min_std = static_cast<float>(as_number("actor.min_std", parts[3]));
  }
  for (const auto& head : heads) net.heads[net.head_count++] = packer.pack_mlp("head", head, {{0, S}, {S, D}}, 1);
  net.widest = packer.packer.widest();
  net.weights = packer.packer.weights();
  lsp_fast::link(net);
}

// A plan holds skills for the actor, or actions where there is none.
inline void set_plan_width(lsp_fast::Networks& net, const char* name, const py::array& plans, bool has_actor) {
  const auto width = plans.shape(plans.ndim() - 1);
  net.has_actor = has_actor;
  if (has_actor) {
    net.skill = width;
  } else if (width != net.action) {
    throw py::value_error(describe(name, plans) + " must hold actions of " + std::to_string(net.action) +
                          " numbers where there is no actor");
  }
}

}  // namespace lsp_fast::bindings
