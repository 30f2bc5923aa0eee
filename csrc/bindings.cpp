// The only file that knows pybind11: shapes and dtypes in, ValueError out. The work itself is plain C++ under ops/.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "networks.hpp"
#include "ops/imagine_heads.hpp"
#include "ops/lambda_return.hpp"
#include "ops/plan.hpp"
#include "ops/select_elites.hpp"
#include "parallel.hpp"

namespace py = pybind11;

namespace {

template <typename T>
using Dense = py::array_t<T, py::array::c_style>;

std::string shape_text(const std::vector<py::ssize_t>& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

std::vector<py::ssize_t> shape_of(const py::array& array) {
  return {array.shape(), array.shape() + array.ndim()};
}

// What the errors call an argument: its name, dtype and shape.
std::string describe(const char* name, const py::array& array) {
  return std::string(name) + " (" + std::string(py::str(array.dtype())) + ", shape " + shape_text(shape_of(array)) + ")";
}

py::array as_array(const char* name, const py::object& object) {
  py::array array = py::array::ensure(object);
  if (!array) throw py::value_error(std::string(name) + ": not a numeric array");
  return array;
}

// Checked, as pybind11 reads the items of what it takes for a tuple unchecked.
py::tuple as_tuple(const char* name, const py::handle& object) {
  if (!py::isinstance<py::tuple>(object)) throw py::value_error(std::string(name) + " must be a tuple");
  return py::reinterpret_borrow<py::tuple>(object);
}

void require_dims(const char* name, const py::array& array, py::ssize_t dims, const char* wanted) {
  if (array.ndim() != dims) throw py::value_error(describe(name, array) + " must have shape " + wanted);
}

void require_shape(const char* name, const py::array& array, std::initializer_list<py::ssize_t> wanted,
                   const char* names) {
  if (shape_of(array) != std::vector<py::ssize_t>(wanted)) {
    throw py::value_error(describe(name, array) + " must have shape " + names + " = " + shape_text(wanted));
  }
}

// A dense array of exactly this dtype; strides are copied away, but a dtype is never converted behind the caller's back.
template <typename T>
Dense<T> dense(const char* name, const py::array& array, const char* why = "") {
  if (!py::isinstance<py::array_t<T>>(array)) {
    throw py::value_error(describe(name, array) + " must be " + std::string(py::str(py::dtype::of<T>())) +
                          why);
  }
  auto copy = Dense<T>::ensure(array);
  if (!copy) throw std::bad_alloc();
  return copy;
}

template <typename T>
py::tuple run_select_elites(const lsp_fast::EliteSizes& sizes, const py::array& values, const py::array& plans,
                            const py::array& mean, const py::array& stddev, double floor) {
  const auto v = dense<T>("values", values);
  const auto p = dense<T>("plans", plans, ", the dtype of values");
  const auto m = dense<T>("mean", mean, ", the dtype of values");
  const auto s = dense<T>("std", stddev, ", the dtype of values");
  py::array_t<T> new_mean(shape_of(mean));
  py::array_t<T> new_std(shape_of(mean));
  py::array_t<std::int64_t> indices(std::vector<py::ssize_t>{sizes.states, sizes.elites});
  const T* v_data = v.data();
  const T* p_data = p.data();
  const T* m_data = m.data();
  const T* s_data = s.data();
  T* mean_data = new_mean.mutable_data();
  T* std_data = new_std.mutable_data();
  std::int64_t* index_data = indices.mutable_data();
  {
    py::gil_scoped_release release;
    lsp_fast::select_elites<T>(sizes, v_data, p_data, m_data, s_data, floor, mean_data, std_data, index_data);
  }
  return py::make_tuple(new_mean, new_std, indices);
}

py::tuple select_elites(const py::object& values_object, const py::object& plans_object, std::int64_t num_elites,
                        const py::object& mean_object, const py::object& std_object, double floor) {
  const auto values = as_array("values", values_object);
  const auto plans = as_array("plans", plans_object);
  const auto mean = as_array("mean", mean_object);
  const auto stddev = as_array("std", std_object);

  require_dims("values", values, 2, "[N, G]");
  require_dims("plans", plans, 4, "[N, G, P, Z]");
  const auto states = values.shape(0), candidates = values.shape(1);
  const auto length = plans.shape(2), width = plans.shape(3);
  require_shape("plans", plans, {states, candidates, length, width}, "[N, G, P, Z]");
  require_shape("mean", mean, {states, length, width}, "[N, P, Z]");
  require_shape("std", stddev, {states, length, width}, "[N, P, Z]");
  if (num_elites < 1 || num_elites > candidates) {
    throw py::value_error("num_elites = " + std::to_string(num_elites) + " must lie in 1 .. " +
                          std::to_string(candidates) + ", the candidates of " + describe("values", values));
  }

  const lsp_fast::EliteSizes sizes{states, candidates, length * width, num_elites};
  if (py::isinstance<py::array_t<float>>(values)) {
    return run_select_elites<float>(sizes, values, plans, mean, stddev, floor);
  }
  if (py::isinstance<py::array_t<double>>(values)) {
    return run_select_elites<double>(sizes, values, plans, mean, stddev, floor);
  }
  throw py::value_error(describe("values", values) + " must be float32 or float64");
}

// Layers of lsp_fast.ops.types, checked and packed; they live as long as the call.
class CheckedPacker {
 public:
  using Parts = std::vector<lsp_fast::Packer::Part>;

  explicit CheckedPacker(lsp_fast::Precision precision) : packer(precision) {}

  // weight [out, in] and bias [out]; `out` -1 takes what the weight has.
  lsp_fast::Layer pack(const char* name, const py::handle& layer, std::int64_t in, std::int64_t out,
                       const Parts& parts) {
    const auto pair = as_tuple(name, layer);
    if (pair.size() != 2) throw py::value_error(std::string(name) + " must be a weight and a bias");
    const auto weight_array = as_array(name, pair[0]), bias_array = as_array(name, pair[1]);
    if (out < 0 && weight_array.ndim() == 2) out = weight_array.shape(0);
    require_shape(name, weight_array, {out, in}, "[out, in]");
    require_shape(name, bias_array, {out}, "[out]");
    const auto weight = dense<float>(name, weight_array), bias = dense<float>(name, bias_array);
    return packer.pack(weight.data(), bias.data(), in, out, parts);
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

  lsp_fast::Packer packer;
};

lsp_fast::Precision precision_of(const std::string& name) {
  if (name == "fp32") return lsp_fast::Precision::fp32;
  if (name == "bf16") return lsp_fast::Precision::bf16;
  throw py::value_error("precision = " + name + " is not one of fp32, bf16");
}

const lsp_fast::Kernels& kernels_of(const std::string& isa) {
  const auto* kernels = lsp_fast::find_kernels(isa.c_str());
  if (!kernels) throw py::value_error("isa = " + isa + " is not one that this processor runs");
  return *kernels;
}

// A, from the transition's first layer.
std::int64_t action_width(const py::tuple& prior, std::int64_t stoch) {
  if (prior.size() != 5) throw py::value_error("prior must be lsp_fast.ops.types.PriorWeights");
  const auto weight = as_array("prior.inp", as_tuple("prior.inp", prior[0])[0]);
  require_dims("prior.inp", weight, 2, "[hidden, S + A]");
  if (weight.shape(1) <= stoch) throw py::value_error(describe("prior.inp", weight) + " leaves no room for an action");
  return weight.shape(1) - stoch;
}

// Packs lsp_fast.ops.types' PriorWeights, ActorWeights (or None, where plans are actions) and heads into `net`, whose
// widths are known.
void pack_networks(CheckedPacker& packer, lsp_fast::Networks& net, const py::tuple& prior, const py::object& actor,
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
  net.prior_min_std = py::cast<float>(prior[4]);
  net.has_actor = !actor.is_none();
  if (net.has_actor) {
    const auto parts = as_tuple("actor", actor);
    if (parts.size() != 4) throw py::value_error("actor must be lsp_fast.ops.types.ActorWeights");
    net.actor = packer.pack_mlp("actor", parts[0], {{0, S}, {S, D}, {S + D, net.skill}}, 2 * A);
    net.actor_mean_scale = py::cast<float>(parts[1]);
    const auto init_std = py::cast<double>(parts[2]);
    net.actor_std_shift = static_cast<float>(init_std + std::log(-std::expm1(-init_std)));  // log(e^s - 1)
    net.actor_min_std = py::cast<float>(parts[3]);
  }
  for (const auto& head : heads) net.heads[net.head_count++] = packer.pack_mlp("head", head, {{0, S}, {S, D}}, 1);
  net.widest = packer.packer.widest();
  net.weights = packer.packer.weights();
  lsp_fast::link(net);
}

// A plan holds skills for the actor, or actions where there is none.
void set_plan_width(lsp_fast::Networks& net, const char* name, const py::array& plans, bool has_actor) {
  const auto width = plans.shape(plans.ndim() - 1);
  net.has_actor = has_actor;
  if (has_actor) {
    net.skill = width;
  } else if (width != net.action) {
    throw py::value_error(describe(name, plans) + " must hold actions of " + std::to_string(net.action) +
                          " numbers where there is no actor");
  }
}

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

  lsp_fast::Networks net{};
  net.precision = precision_of(precision);
  CheckedPacker packer(net.precision);
  net.stoch = stoch_dim;
  net.deter = deter_dim;
  net.action = action_width(prior, stoch_dim);

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
  {
    py::gil_scoped_release release;
    lsp_fast::imagine_heads(kernels, net, call, std::max<std::int64_t>(threads, 1));
  }
  return outputs;
}

// Asked by C++ that runs long: has a signal's handler raised an exception? Then it is set.
class Interrupt {
 public:
  bool operator()() {
    const auto now = std::chrono::steady_clock::now();
    if (now - asked_ < std::chrono::milliseconds(20)) return false;
    asked_ = now;
    const py::gil_scoped_acquire acquire;
    return PyErr_CheckSignals() != 0;
  }

 private:
  std::chrono::steady_clock::time_point asked_ = std::chrono::steady_clock::now();
};

constexpr std::int64_t kWords = std::int64_t{1} << 32;

lsp_fast::Philox philox_of(const py::tuple& key) {
  if (key.size() != 2) throw py::value_error("a Philox key has two words");
  lsp_fast::Philox philox{};
  for (std::size_t i = 0; i < 2; ++i) {
    const auto word = py::cast<std::int64_t>(key[i]);
    if (word < 0 || word > 0xffffffff) throw py::value_error("a Philox key's words must lie in 0 .. 2**32 - 1");
    philox.key[i] = static_cast<std::uint32_t>(word);
  }
  return philox;
}

// `noise` is (candidates, stoch, action or None), or (key, iterations, candidates, steps, sample, shared).
py::tuple plan(const py::object& stoch_object, const py::object& deter_object, const py::tuple& prior,
               const py::object& actor, const py::tuple& heads, const py::object& mean_object,
               const py::object& std_object, const py::tuple& noise, std::int64_t num_elites,
               std::int64_t skill_length, double gamma, double lam, bool sum, double floor, double clip, bool has_value,
               const std::string& precision, std::int64_t threads, const std::string& isa) {
  const auto& kernels = kernels_of(isa);
  const auto stoch_array = as_array("stoch", stoch_object), deter_array = as_array("deter", deter_object);
  const auto mean_array = as_array("mean", mean_object);
  require_dims("stoch", stoch_array, 2, "[N, S]");
  require_dims("deter", deter_array, 2, "[N, D]");
  require_dims("mean", mean_array, 3, "[N, P, Z]");
  const auto N = stoch_array.shape(0), S = stoch_array.shape(1), D = deter_array.shape(1);
  const auto P = mean_array.shape(1), Z = mean_array.shape(2);
  require_shape("deter", deter_array, {N, D}, "[N, D]");
  if (P < 1 || Z < 1) throw py::value_error(describe("mean", mean_array) + " is empty");

  lsp_fast::Networks net{};
  net.precision = precision_of(precision);
  CheckedPacker packer(net.precision);
  net.stoch = S;
  net.deter = D;
  net.action = action_width(prior, S);
  set_plan_width(net, "mean", mean_array, !actor.is_none());

  const auto require_steps = [sum](std::int64_t steps) {
    if (steps < (sum ? 1 : 2)) throw py::value_error("noise.stoch has too few steps: " + std::to_string(steps));
  };
  lsp_fast::PlanCall call{};
  Dense<float> candidate_noise, stoch_noise, action_noise;
  lsp_fast::Philox philox{};
  if (noise.size() == 6) {
    philox = philox_of(as_tuple("noise.key", noise[0]));
    call.philox = &philox;
    call.iterations = py::cast<std::int64_t>(noise[1]);
    call.candidates = py::cast<std::int64_t>(noise[2]);
    call.steps = py::cast<std::int64_t>(noise[3]);
    require_steps(call.steps);
    call.sample = py::cast<bool>(noise[4]);
    call.shared_noise = py::cast<bool>(noise[5]);
    if (call.candidates < 1) throw py::value_error("noise.num_candidates must be at least 1");
    if (call.iterations < 1) throw py::value_error("noise.iterations must be at least 1");
    // Counters have 32 bits, and no array bounds these numbers.
    if (call.steps > kWords / call.iterations || call.candidates > kWords / std::max<std::int64_t>(N, 1)) {
      throw py::value_error("noise.iterations * noise.steps and the number of rollouts must not exceed 2**32");
    }
    std::int64_t numbers = 0;
    if (__builtin_mul_overflow(N * call.candidates, std::max(call.steps * 3, P * Z), &numbers)) {
      throw py::value_error("noise.steps is too large");
    }
  } else if (noise.size() == 3) {
    const auto candidates_array = as_array("noise.candidates", noise[0]);
    const auto stoch_noise_array = as_array("noise.stoch", noise[1]);
    require_dims("noise.candidates", candidates_array, 5, "[I, N, G, P, Z]");
    require_dims("noise.stoch", stoch_noise_array, 4, "[I, H, N * G or N, S]");
    const auto I = candidates_array.shape(0), G = candidates_array.shape(2), H = stoch_noise_array.shape(1);
    require_shape("noise.candidates", candidates_array, {I, N, G, P, Z}, "[I, N, G, P, Z]");
    if (I < 1) throw py::value_error(describe("noise.candidates", candidates_array) + " is empty");
    call.shared_noise = stoch_noise_array.shape(2) == N;
    require_steps(H);
    const auto rows = call.shared_noise ? N : N * G;
    require_shape("noise.stoch", stoch_noise_array, {I, H, rows, S}, "[I, H, N * G, S]");
    call.iterations = I;
    call.candidates = G;
    call.steps = H;
    candidate_noise = dense<float>("noise.candidates", candidates_array);
    stoch_noise = dense<float>("noise.stoch", stoch_noise_array);
    call.candidate_noise = candidate_noise.data();
    call.stoch_noise = stoch_noise.data();
    if (!noise[2].is_none() && net.has_actor) {
      const auto array = as_array("noise.action", noise[2]);
      require_shape("noise.action", array, {I, H, rows, net.action}, "[I, H, rows of noise.stoch, A]");
      action_noise = dense<float>("noise.action", array);
      call.action_noise = action_noise.data();
      call.sample = true;
    }
  } else {
    throw py::value_error("noise must be lsp_fast.ops.types.PlanNoise or PlanKey");
  }
  if (call.iterations < 1) throw py::value_error("noise.iterations must be at least 1");
  if (num_elites < 1 || num_elites > call.candidates) {
    throw py::value_error("num_elites = " + std::to_string(num_elites) + " must lie in 1 .. " +
                          std::to_string(call.candidates) + ", the number of candidates");
  }
  if (skill_length < 1) throw py::value_error("skill_length must be at least 1");
  if (!(clip > 0)) throw py::value_error("clip must be positive");
  const std::size_t least = has_value ? 2 : 1;
  if (heads.size() < least || heads.size() > least + 1) {
    throw py::value_error("a plan's heads are reward, perhaps value, and perhaps discount");
  }
  if (!has_value && !sum) throw py::value_error("a lambda-return needs a value head; score by the sum without one");
  const auto stoch = dense<float>("stoch", stoch_array), deter = dense<float>("deter", deter_array);
  pack_networks(packer, net, prior, actor, heads);

  const auto copy = [&](const char* name, const py::object& object) {
    const auto array = as_array(name, object);
    require_shape(name, array, {N, P, Z}, "[N, P, Z]");
    const auto from = dense<float>(name, array);
    py::array_t<float> to(shape_of(array));
    std::copy_n(from.data(), from.size(), to.mutable_data());
    return to;
  };
  auto mean = copy("mean", mean_object), stddev = copy("std", std_object);
  py::array_t<float> values(std::vector<py::ssize_t>{call.iterations, N, call.candidates});
  py::array_t<std::int64_t> chosen(std::vector<py::ssize_t>{call.iterations, N, num_elites});
  Interrupt interrupt;
  call.states = N;
  call.elites = num_elites;
  call.plan_length = P;
  call.skill_length = skill_length;
  call.gamma = gamma;
  call.lam = lam;
  call.floor = floor;
  call.clip = static_cast<float>(clip);
  call.sum = sum;
  call.has_value = has_value;
  call.has_discount = heads.size() > least;
  call.stoch = stoch.data();
  call.deter = deter.data();
  call.mean = mean.mutable_data();
  call.stddev = stddev.mutable_data();
  call.values = values.mutable_data();
  call.chosen = chosen.mutable_data();
  // Python runs handlers on its main thread alone; another one that asks while the process ends would be ended here.
  const auto threading = py::module_::import("threading");
  const py::object main_thread = threading.attr("main_thread")().attr("ident"), here = threading.attr("get_ident")();
  if (main_thread.equal(here)) {
    call.stop = [&interrupt] { return interrupt(); };
  }
  bool done = false;
  {
    py::gil_scoped_release release;
    done = lsp_fast::plan(kernels, net, call, std::max<std::int64_t>(threads, 1));
  }
  if (!done) throw py::error_already_set();  // KeyboardInterrupt, say
  return py::make_tuple(mean, stddev, values, chosen);
}

// [steps, columns, rows]
py::array_t<float> philox_normals(const py::tuple& key, std::int64_t stream, std::int64_t first_step,
                                  std::int64_t steps, std::int64_t rows, std::int64_t columns, std::int64_t threads,
                                  const std::string& isa) {
  const auto& kernels = kernels_of(isa);
  const auto philox = philox_of(key);
  if (stream < 0 || stream >= kWords || first_step < 0 || steps < 0 || steps > kWords || first_step > kWords - steps || rows < 0 ||
      rows > kWords || columns < 0 || columns > kWords) {
    throw py::value_error("stream, steps, rows and columns must lie in 0 .. 2**32");
  }
  py::array_t<float> numbers(std::vector<py::ssize_t>{steps, columns, rows});
  float* out = numbers.mutable_data();
  {
    py::gil_scoped_release release;
    lsp_fast::parallel(std::max<std::int64_t>(threads, 1), steps, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t step = first; step < last; ++step) {
        kernels.normals(philox, static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(first_step + step), 0,
                        rows, 1, columns, out + step * columns * rows);
      }
    });
  }
  return numbers;
}

// Operations a second of that many threads which do nothing but multiply and add in registers, over some milliseconds.
double peak(const std::string& precision, std::int64_t threads, const std::string& isa) {
  const auto& kernels = kernels_of(isa);
  const auto of = precision_of(precision);
  constexpr std::int64_t kRounds = 200'000;
  std::atomic<std::int64_t> operations{0};
  const py::gil_scoped_release release;
  const auto began = std::chrono::steady_clock::now();
  lsp_fast::parallel(threads, threads, [&](std::int64_t first, std::int64_t last) {
    for (auto i = first; i < last; ++i) operations += static_cast<std::int64_t>(kernels.multiply_add(of, kRounds));
  });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
  return static_cast<double>(operations) / seconds.count();
}

// The instruction sets whose kernels this processor runs, the best one first.
py::tuple instruction_sets() {
  py::list names;
  for (const char* name : {"avx512bf16", "avx512", "avx2", "portable"}) {
    if (lsp_fast::find_kernels(name)) names.append(name);
  }
  return py::tuple(names);
}

// The data of an argument of lambda_return, which is not copied: an array, dense, of dtype T and the shape wanted.
template <typename T>
const T* flat(const char* name, const py::object& object, std::initializer_list<py::ssize_t> wanted) {
  if (!py::isinstance<py::array>(object)) throw py::value_error(std::string(name) + " must be an array");
  const auto array = py::reinterpret_borrow<py::array>(object);
  if (!py::isinstance<py::array_t<T>>(array) || !(array.flags() & py::array::c_style)) {
    throw py::value_error(describe(name, array) + " must be dense " + std::string(py::str(py::dtype::of<T>())));
  }
  require_shape(name, array, wanted, wanted.size() == 1 ? "[C]" : "[T, C]");
  return static_cast<const T*>(array.data());
}

// The same for an output.
template <typename T>
T* flat_output(const char* name, const py::object& object, std::initializer_list<py::ssize_t> wanted) {
  flat<T>(name, object, wanted);
  auto array = py::reinterpret_borrow<py::array>(object);
  if (!array.writeable()) throw py::value_error(describe(name, array) + " must be writable");
  return static_cast<T*>(array.mutable_data());
}

// The first argument of lambda_return or of its backward: [T, C], T >= 1.
py::array steps_and_columns(const char* name, const py::object& object) {
  const auto array = as_array(name, object);
  require_dims(name, array, 2, "[T, C]");
  if (array.shape(0) < 1) throw py::value_error(describe(name, array) + " must have at least one step, T >= 1");
  return array;
}

template <typename T>
void run_lambda_return(const py::array& rewards, const py::object& values, const py::object& discounts,
                       const py::object& bootstrap, double lam, const py::object& returns) {
  const auto steps = rewards.shape(0), columns = rewards.shape(1);
  const T* r = flat<T>("rewards", rewards, {steps, columns});
  const T* v = flat<T>("values", values, {steps, columns});
  const T* d = flat<T>("discounts", discounts, {steps, columns});
  const T* b = flat<T>("bootstrap", bootstrap, {columns});
  T* out = flat_output<T>("returns", returns, {steps, columns});
  py::gil_scoped_release release;
  lsp_fast::lambda_return<T>(steps, columns, columns, r, v, d, b, lam, out);
}

void lambda_return(const py::object& rewards_object, const py::object& values, const py::object& discounts,
                   const py::object& bootstrap, double lam, const py::object& returns) {
  const auto rewards = steps_and_columns("rewards", rewards_object);
  if (py::isinstance<py::array_t<float>>(rewards)) {
    run_lambda_return<float>(rewards, values, discounts, bootstrap, lam, returns);
  } else {
    run_lambda_return<double>(rewards, values, discounts, bootstrap, lam, returns);
  }
}

template <typename T>
void run_lambda_return_backward(const py::array& grad, const py::object& values, const py::object& discounts,
                                const py::object& bootstrap, const py::object& returns, double lam,
                                const py::object& d_rewards, const py::object& d_values,
                                const py::object& d_discounts, const py::object& d_bootstrap) {
  const auto steps = grad.shape(0), columns = grad.shape(1);
  const T* g = flat<T>("grad", grad, {steps, columns});
  const T* v = flat<T>("values", values, {steps, columns});
  const T* d = flat<T>("discounts", discounts, {steps, columns});
  const T* b = flat<T>("bootstrap", bootstrap, {columns});
  const T* r = flat<T>("returns", returns, {steps, columns});
  T* dr = flat_output<T>("d_rewards", d_rewards, {steps, columns});
  T* dv = flat_output<T>("d_values", d_values, {steps, columns});
  T* dd = flat_output<T>("d_discounts", d_discounts, {steps, columns});
  T* db = flat_output<T>("d_bootstrap", d_bootstrap, {columns});
  py::gil_scoped_release release;
  lsp_fast::lambda_return_backward<T>(steps, columns, g, v, d, b, r, lam, dr, dv, dd, db);
}

void lambda_return_backward(const py::object& grad_object, const py::object& values, const py::object& discounts,
                            const py::object& bootstrap, const py::object& returns, double lam,
                            const py::object& d_rewards, const py::object& d_values, const py::object& d_discounts,
                            const py::object& d_bootstrap) {
  const auto grad = steps_and_columns("grad", grad_object);
  const auto run =
      py::isinstance<py::array_t<float>>(grad) ? run_lambda_return_backward<float> : run_lambda_return_backward<double>;
  run(grad, values, discounts, bootstrap, returns, lam, d_rewards, d_values, d_discounts, d_bootstrap);
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "Native operations of lsp_fast; lsp_fast.native wraps them for torch tensors.";
  module.def("select_elites", &select_elites, py::arg("values"), py::arg("plans"), py::arg("num_elites"),
             py::arg("mean"), py::arg("std"), py::arg("floor") = 1e-6,
             "values[N,G], plans[N,G,P,Z], num_elites, mean[N,P,Z], std[N,P,Z], floor -> mean, std, indices[N,M]");
  module.def("lambda_return", &lambda_return, py::arg("rewards"), py::arg("values"), py::arg("discounts"),
             py::arg("bootstrap"), py::arg("lam"), py::arg("returns"),
             "rewards, values, discounts [T,C], bootstrap[C], lam; writes returns[T,C]");
  module.def("lambda_return_backward", &lambda_return_backward, py::arg("grad"), py::arg("values"),
             py::arg("discounts"), py::arg("bootstrap"), py::arg("returns"), py::arg("lam"), py::arg("d_rewards"),
             py::arg("d_values"), py::arg("d_discounts"), py::arg("d_bootstrap"),
             "grad, values, discounts [T,C], bootstrap[C], returns[T,C], lam; writes the gradients");
  module.def("imagine_heads", &imagine_heads, py::arg("stoch"), py::arg("deter"), py::arg("prior"), py::arg("actor"),
             py::arg("skills"), py::arg("skill_length"), py::arg("stoch_noise"), py::arg("action_noise"),
             py::arg("heads"), py::arg("precision"), py::arg("threads"), py::arg("isa") = "auto",
             "stoch[R,S], deter[R,D], weights, skills[P,R,Z] or None, K, noise[H,R,S], noise[H,R,A] or None, heads, "
             "precision, threads, isa -> [heads,H,R]; isa is auto or one of instruction_sets()");
  module.def("plan", &plan, py::arg("stoch"), py::arg("deter"), py::arg("prior"), py::arg("actor"), py::arg("heads"),
             py::arg("mean"), py::arg("std"), py::arg("noise"), py::arg("num_elites"), py::arg("skill_length"),
             py::arg("gamma"), py::arg("lam"), py::arg("sum"), py::arg("floor"), py::arg("clip"), py::arg("has_value"),
             py::arg("precision"), py::arg("threads"), py::arg("isa") = "auto",
             "stoch[N,S], deter[N,D], weights, heads, mean, std [N,P,Z], noise, M, K, gamma, lam, sum, floor, clip, "
             "has_value, precision, threads, isa -> mean, std, values[I,N,G], elites[I,N,M]");
  module.def("philox_normals", &philox_normals, py::arg("key"), py::arg("stream"), py::arg("first_step"),
             py::arg("steps"), py::arg("rows"), py::arg("columns"), py::arg("threads"), py::arg("isa") = "auto",
             "key (two words), stream, step, sizes, threads, isa -> [steps,columns,rows]");
  module.def("peak", &peak, py::arg("precision"), py::arg("threads"), py::arg("isa") = "auto",
             "precision, threads, isa -> operations a second of multiply-adds in registers");
  module.def("instruction_sets", &instruction_sets, "names of the kernels that this processor runs, the best one first");
}
