// A whole plan.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/checks.hpp"
#include "bindings/gil.hpp"
#include "bindings/philox_key.hpp"
#include "bindings/weights.hpp"
#include "ops/plan.hpp"

namespace lsp_fast::bindings {

namespace {

// Asked by C++ that runs long: has a signal's handler raised an exception? Then it is set.
class Interrupt {
 public:
  explicit Interrupt(ReleasedGil& released) : released_(released) {}

  bool operator()() {
    const auto now = std::chrono::steady_clock::now();
    if (now - asked_ < std::chrono::milliseconds(100)) return false;
    asked_ = now;
    return released_.with_gil([] { return PyErr_CheckSignals() != 0; });
  }

 private:
  ReleasedGil& released_;
  std::chrono::steady_clock::time_point asked_ = std::chrono::steady_clock::now();
};

py::object owned(PyObject* object) {
  if (!object) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(object);
}

// Does Python run handlers on this thread? On the main one alone, and on none where it is about to end.
bool runs_signal_handlers() {
  if (finalizing()) return false;  // nothing can be imported any more
  const auto threading = py::module_::import("threading");
  const auto main = owned(stay_if_ended([&] { return PyObject_CallMethod(threading.ptr(), "main_thread", nullptr); }));
  const auto ident = owned(stay_if_ended([&] { return PyObject_GetAttrString(main.ptr(), "ident"); }));
  return py::cast<unsigned long>(ident) == PyThread_get_thread_ident();
}

// `noise` is (candidates, stoch, action or None), or (key, iterations, candidates, steps, sample, shared, means).
py::tuple plan(const py::object& stoch_object, const py::object& deter_object, const py::tuple& prior,
               const py::object& actor, const py::tuple& heads, const py::object& mean_object,
               const py::object& std_object, const py::tuple& noise, std::int64_t num_elites,
               std::int64_t skill_length, double gamma, double lam, bool sum, double floor, double std_min, double clip,
               bool has_value, const std::string& precision, std::int64_t threads, const std::string& isa) {
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

  auto net = sized_networks(precision, S, D, prior);
  CheckedPacker packer(net.precision);
  set_plan_width(net, "mean", mean_array, !actor.is_none());

  const auto require_steps = [sum](std::int64_t steps) {
    if (steps < (sum ? 1 : 2)) throw py::value_error("noise.stoch has too few steps: " + std::to_string(steps));
  };
  lsp_fast::PlanCall call{};
  Dense<float> candidate_noise, stoch_noise, action_noise;
  lsp_fast::Philox philox{};
  if (noise.size() == 7) {
    philox = philox_of(as_tuple("noise.key", noise[0]));
    call.philox = &philox;
    call.iterations = py::cast<std::int64_t>(noise[1]);
    call.candidates = py::cast<std::int64_t>(noise[2]);
    call.steps = py::cast<std::int64_t>(noise[3]);
    require_steps(call.steps);
    call.sample = py::cast<bool>(noise[4]);
    call.shared_noise = py::cast<bool>(noise[5]);
    call.means = py::cast<bool>(noise[6]);
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
  if (!(floor >= 0)) throw py::value_error("floor must not be negative");
  if (!(std_min >= 0)) throw py::value_error("std_min must not be negative");
  if (std::isnan(gamma) || std::isnan(lam)) throw py::value_error("gamma and lam must be numbers");
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
  call.weights = packer.owner;
  call.states = N;
  call.elites = num_elites;
  call.plan_length = P;
  call.skill_length = skill_length;
  call.gamma = gamma;
  call.lam = lam;
  call.floor = floor;
  call.std_min = static_cast<float>(std_min);
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
  const bool asks = runs_signal_handlers();
  bool done = false;
  without_gil([&](ReleasedGil& released) {
    Interrupt interrupt(released);
    if (asks) call.stop = [&interrupt] { return interrupt(); };
    done = lsp_fast::plan(kernels, net, call, std::max<std::int64_t>(threads, 1));
  });
  if (!done) throw py::error_already_set();  // KeyboardInterrupt, say
  return py::make_tuple(mean, stddev, values, chosen);
}

}  // namespace

void bind_plan(py::module_& module) {
  module.def("plan", &plan, py::arg("stoch"), py::arg("deter"), py::arg("prior"), py::arg("actor"), py::arg("heads"),
             py::arg("mean"), py::arg("std"), py::arg("noise"), py::arg("num_elites"), py::arg("skill_length"),
             py::arg("gamma"), py::arg("lam"), py::arg("sum"), py::arg("floor"), py::arg("std_min"), py::arg("clip"),
             py::arg("has_value"), py::arg("precision"), py::arg("threads"), py::arg("isa") = "auto",
             "stoch[N,S], deter[N,D], weights, heads, mean, std [N,P,Z], noise, M, K, gamma, lam, sum, floor, "
             "std_min, clip, has_value, precision, threads, isa -> mean, std, values[I,N,G], elites[I,N,M]");
}

}  // namespace lsp_fast::bindings
