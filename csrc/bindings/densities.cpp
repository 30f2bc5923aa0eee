// Densities of normals with their slopes.
#include <algorithm>
#include <cstdint>
#include <string>

#include "bindings/bindings.hpp"
#include "bindings/checks.hpp"
#include "bindings/gil.hpp"
#include "bindings/layers.hpp"
#include "ops/densities.hpp"

namespace lsp_fast::bindings {

namespace {

lsp_fast::Densities densities(const char* name, const py::array& rows, std::int64_t threads, const std::string& isa) {
  require_dims(name, rows, 2, "[rows, width]");
  return {learner_kernels_of(isa), rows.shape(0), rows.shape(1), std::max<std::int64_t>(threads, 1)};
}

// An array for slopes, or None and no data.
py::object slopes(bool wanted, float*& data, std::int64_t rows, std::int64_t width) {
  if (!wanted) return py::none();
  return new_array(data, {rows, width});
}

py::tuple log_prob(const py::object& raw_object, const py::object& x_object, float low, float high, bool with_slopes,
                   std::int64_t threads, const std::string& isa) {
  const auto x_array = as_array("x", x_object);
  const auto work = densities("x", x_array, threads, isa);
  OptionalArrays given;
  const float *raw = given.require("raw", raw_object, {work.rows, 2 * work.width}), *x = given.add("x", x_array, {work.rows, work.width});
  float *out, *d_raw = nullptr;
  auto sums = new_array(out, {work.rows});
  auto slope = slopes(with_slopes, d_raw, work.rows, 2 * work.width);
  without_gil([&](ReleasedGil&) { work.log_prob(raw, x, low, high, out, d_raw); });
  return py::make_tuple(sums, slope);
}

py::tuple kl_divergence(const py::object& p_mean_object, const py::object& p_std_object, const py::object& q_mean_object,
                        const py::object& q_std_object, bool with_slopes, std::int64_t threads, const std::string& isa) {
  const auto array = as_array("p.mean", p_mean_object);
  const auto work = densities("p.mean", array, threads, isa);
  OptionalArrays given;
  const auto take = [&](const char* name, const py::object& object) {
    return given.require(name, object, {work.rows, work.width});
  };
  const float *p_mean = take("p.mean", array), *p_std = take("p.std", p_std_object);
  const float *q_mean = take("q.mean", q_mean_object), *q_std = take("q.std", q_std_object);
  float *out, *d_mean = nullptr, *d_p_std = nullptr, *d_q_std = nullptr;
  auto sums = new_array(out, {work.rows});
  auto of_mean = slopes(with_slopes, d_mean, work.rows, work.width);
  auto of_p = slopes(with_slopes, d_p_std, work.rows, work.width), of_q = slopes(with_slopes, d_q_std, work.rows, work.width);
  without_gil([&](ReleasedGil&) { work.kl_divergence(p_mean, p_std, q_mean, q_std, out, d_mean, d_p_std, d_q_std); });
  return py::make_tuple(sums, of_mean, of_p, of_q);
}

py::tuple entropy(const py::object& mean_object, const py::object& std_object, const py::object& noise_object,
                  bool with_slopes, std::int64_t threads, const std::string& isa) {
  const auto array = as_array("mean", mean_object);
  const auto work = densities("mean", array, threads, isa);
  OptionalArrays given;
  const float* mean = given.add("mean", array, {work.rows, work.width});
  const float *std = given.require("std", std_object, {work.rows, work.width}),
              *noise = given.require("noise", noise_object, {work.rows, work.width});
  float *out, *d_mean = nullptr, *d_std = nullptr;
  auto sums = new_array(out, {work.rows});
  auto of_mean = slopes(with_slopes, d_mean, work.rows, work.width), of_std = slopes(with_slopes, d_std, work.rows, work.width);
  without_gil([&](ReleasedGil&) { work.entropy(mean, std, noise, out, d_mean, d_std); });
  return py::make_tuple(sums, of_mean, of_std);
}

}  // namespace

void bind_densities(py::module_& module) {
  module.def("log_prob", &log_prob, py::arg("raw"), py::arg("x"), py::arg("low"), py::arg("high"),
             py::arg("with_slopes"), py::arg("threads"), py::arg("isa") = "auto",
             "raw[rows,2 D], x[rows,D], bounds of the log variance -> [rows], slope of raw or None");
  module.def("kl_divergence", &kl_divergence, py::arg("p_mean"), py::arg("p_std"), py::arg("q_mean"), py::arg("q_std"),
             py::arg("with_slopes"), py::arg("threads"), py::arg("isa") = "auto",
             "four [rows,D] -> [rows], slopes of p's mean, p's std and q's std or None");
  module.def("entropy", &entropy, py::arg("mean"), py::arg("std"), py::arg("noise"), py::arg("with_slopes"),
             py::arg("threads"), py::arg("isa") = "auto", "three [rows,D] -> [rows], slopes of mean and std or None");
}

}  // namespace lsp_fast::bindings
