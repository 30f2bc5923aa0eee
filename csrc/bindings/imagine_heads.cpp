// Rollouts under a policy, with the heads at every state.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/checks.hpp"
#include "bindings/gil.hpp"
#include "bindings/weights.hpp"
#include "ops/imagine_heads.hpp"

namespace lsp_fast::bindings {

namespace {

py::array_t<float> imagine_heads(const py::object& stoch_object, const py::object& deter_object, const py::tuple& prior,
                                 const py::object& actor, const py::object& plans_object, std::int64_t skill_length,
                                 const py::object& stoch_noise_object, const py::object& action_noise_object,
                                 const py::tuple& heads, const std::string& precision, std::int64_t threads,
                                 const std::string& isa) {
  const auto& kernels = kernels_of(isa);
  const auto stoch_array = as_array("stoch", stoch_object), deter_array = as_array("deter", deter_object);
  const auto stoch_noise_array = as_array("stoch_noise", stoch_noise_object);
  require_dims("stoch", stoch_array, 2, "[R, S]");
  require_dims("deter", deter_array, 2, "[R, D]");
  require_dims("stoch_noise", stoch_noise_array, 3, "[H, R, S]");
  const auto rows = stoch_array.shape(0), stoch_dim = stoch_array.shape(1), deter_dim = deter_array.shape(1);
  const auto steps = stoch_noise_array.shape(0);
  require_shape("deter", deter_array, {rows, deter_dim}, "[R, D]");
  require_shape("stoch_noise", stoch_noise_array, {steps, rows, stoch_dim}, "[H, R, S]");
  const auto stoch = dense<float>("stoch", stoch_array), deter = dense<float>("deter", deter_array);
  const auto stoch_noise = dense<float>("stoch_noise", stoch_noise_array);
  if (skill_length < 1) throw py::value_error("skill_length must be at least 1");
  if (actor.is_none() && plans_object.is_none()) throw py::value_error("there are neither an actor nor actions");

  auto net = sized_networks(precision, stoch_dim, deter_dim, prior);
  CheckedPacker packer(net.precision);

  lsp_fast::Rollouts call{};
  Dense<float> plans, action_noise;
  if (!plans_object.is_none()) {
    const auto array = as_array("skills", plans_object);
    require_dims("skills", array, 3, "[P, R, Z]");
    call.plan_length = array.shape(0);
    set_plan_width(net, "skills", array, !actor.is_none());
    require_shape("skills", array, {call.plan_length, rows, net.plan_width()}, "[P, R, Z]");
    if (call.plan_length < 1) throw py::value_error("skills hold no plan step");
    plans = dense<float>("skills", array);
    call.plans = plans.data();
  }
  if (!action_noise_object.is_none()) {
    const auto array = as_array("action_noise", action_noise_object);
    require_shape("action_noise", array, {steps, rows, net.action}, "[H, R, A]");
    action_noise = dense<float>("action_noise", array);
    call.action_noise = action_noise.data();
    call.sample = true;
  }

  pack_networks(packer, net, prior, actor, heads);
  py::array_t<float> outputs(std::vector<py::ssize_t>{static_cast<py::ssize_t>(heads.size()), steps, rows});
  call.rows = rows;
  call.group = call.noise_group = 1;
  call.steps = steps;
  call.skill_length = skill_length;
  call.stoch = stoch.data();
  call.deter = deter.data();
  call.stoch_noise = stoch_noise.data();
  call.outputs = outputs.mutable_data();
  without_gil([&](ReleasedGil&) {
    lsp_fast::imagine_heads(kernels, net, call, std::max<std::int64_t>(threads, 1));
  });
  return outputs;
}

}  // namespace

void bind_imagine_heads(py::module_& module) {
  module.def("imagine_heads", &imagine_heads, py::arg("stoch"), py::arg("deter"), py::arg("prior"), py::arg("actor"),
             py::arg("skills"), py::arg("skill_length"), py::arg("stoch_noise"), py::arg("action_noise"),
             py::arg("heads"), py::arg("precision"), py::arg("threads"), py::arg("isa") = "auto",
             "stoch[R,S], deter[R,D], weights, skills[P,R,Z] or None, K, noise[H,R,S], noise[H,R,A] or None, heads, "
             "precision, threads, isa -> [heads,H,R]; isa is auto or one of instruction_sets()");
}

}  // namespace lsp_fast::bindings
