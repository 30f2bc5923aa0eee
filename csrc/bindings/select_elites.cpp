// select_elites of float32 or float64 arrays.
#include <cstdint>
#include <string>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/checks.hpp"
#include "bindings/gil.hpp"
#include "ops/select_elites.hpp"

namespace lsp_fast::bindings {

namespace {

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
  without_gil([&](ReleasedGil&) {
    lsp_fast::select_elites<T>(sizes, v_data, p_data, m_data, s_data, floor, mean_data, std_data, index_data);
  });
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

}  // namespace

void bind_select_elites(py::module_& module) {
  module.def("select_elites", &select_elites, py::arg("values"), py::arg("plans"), py::arg("num_elites"),
             py::arg("mean"), py::arg("std"), py::arg("floor") = 1e-6,
             "values[N,G], plans[N,G,P,Z], num_elites, mean[N,P,Z], std[N,P,Z], floor -> mean, std, indices[N,M]");
}

}  // namespace lsp_fast::bindings
