// The only file that knows pybind11: shapes and dtypes in, ValueError out. The work itself is plain C++ under ops/.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "ops/select_elites.hpp"

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
Dense<T> dense(const char* name, const py::array& array) {
  if (!py::isinstance<py::array_t<T>>(array)) {
    throw py::value_error(describe(name, array) + " must be " + std::string(py::str(py::dtype::of<T>())) +
                          ", the dtype of values");
  }
  return Dense<T>::ensure(array);
}

template <typename T>
py::tuple run_select_elites(const lsp_fast::EliteSizes& sizes, const py::array& values, const py::array& plans,
                            const py::array& mean, const py::array& stddev, double floor) {
  const auto v = dense<T>("values", values);
  const auto p = dense<T>("plans", plans);
  const auto m = dense<T>("mean", mean);
  const auto s = dense<T>("std", stddev);
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

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "Native operations of lsp_fast; lsp_fast.native wraps them for torch tensors.";
  module.def("select_elites", &select_elites, py::arg("values"), py::arg("plans"), py::arg("num_elites"),
             py::arg("mean"), py::arg("std"), py::arg("floor") = 1e-6,
             "values[N,G], plans[N,G,P,Z], num_elites, mean[N,P,Z], std[N,P,Z], floor -> mean, std, indices[N,M]");
}
