// Shapes and dtypes of what comes in; what does not fit is a ValueError that names the argument.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <new>
#include <string>
#include <vector>

#include "bindings/gil.hpp"

namespace lsp_fast::bindings {

namespace py = pybind11;

template <typename T>
using Dense = py::array_t<T, py::array::c_style>;

inline std::string shape_text(const std::vector<py::ssize_t>& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

inline std::vector<py::ssize_t> shape_of(const py::array& array) {
  return {array.shape(), array.shape() + array.ndim()};
}

// NumPy's names of dtypes are code in Python.
inline std::string dtype_name(const py::dtype& dtype) {
  return stay_if_ended([&] { return py::str(dtype); });
}

// What the errors call an argument: its name, dtype and shape.
inline std::string describe(const char* name, const py::array& array) {
  return std::string(name) + " (" + dtype_name(array.dtype()) + ", shape " + shape_text(shape_of(array)) + ")";
}

// An object's __array__ is code in Python.
inline py::array as_array(const char* name, const py::object& object) {
  const auto array = stay_if_ended([&] { return py::array::ensure(object); });
  if (!array) throw py::value_error(std::string(name) + ": not a numeric array");
  return array;
}

// Checked, as pybind11 reads the items of what it takes for a tuple unchecked.
inline py::tuple as_tuple(const char* name, const py::handle& object) {
  if (!py::isinstance<py::tuple>(object)) throw py::value_error(std::string(name) + " must be a tuple");
  return py::reinterpret_borrow<py::tuple>(object);
}

inline void require_dims(const char* name, const py::array& array, py::ssize_t dims, const char* wanted) {
  if (array.ndim() != dims) throw py::value_error(describe(name, array) + " must have shape " + wanted);
}

inline void require_shape(const char* name, const py::array& array, std::initializer_list<py::ssize_t> wanted,
                          const char* names) {
  if (shape_of(array) != std::vector<py::ssize_t>(wanted)) {
    throw py::value_error(describe(name, array) + " must have shape " + names + " = " + shape_text(wanted));
  }
}

// A dense array of exactly this dtype; strides are copied away, but a dtype is never converted behind the caller's back.
template <typename T>
Dense<T> dense(const char* name, const py::array& array, const char* why = "") {
  if (!py::isinstance<py::array_t<T>>(array)) {
    throw py::value_error(describe(name, array) + " must be " + dtype_name(py::dtype::of<T>()) + why);
  }
  const auto copy = stay_if_ended([&] { return Dense<T>::ensure(array); });  // NumPy copies without the lock
  if (!copy) throw std::bad_alloc();
  if (reinterpret_cast<std::uintptr_t>(copy.data()) % alignof(T) == 0) return copy;
  Dense<T> aligned(shape_of(array));  // a view into bytes may begin anywhere
  std::memcpy(aligned.mutable_data(), copy.data(), static_cast<std::size_t>(copy.nbytes()));
  return aligned;
}

inline double as_number(const char* name, const py::handle& object) {
  try {
    return py::cast<double>(object);
  } catch (const py::cast_error&) {
    throw py::value_error(std::string(name) + " must be a number");
  }
}

// A, from the transition's first layer.
inline std::int64_t action_width(const py::tuple& prior, std::int64_t stoch) {
  if (prior.size() != 5) throw py::value_error("prior must be lsp_fast.ops.types.PriorWeights");
  const auto weight = as_array("prior.inp", as_tuple("prior.inp", prior[0])[0]);
  require_dims("prior.inp", weight, 2, "[hidden, S + A]");
  if (weight.shape(1) <= stoch) throw py::value_error(describe("prior.inp", weight) + " leaves no room for an action");
  return weight.shape(1) - stoch;
}

// A linear layer (weight [out, in], bias [out]); `out` -1 takes what the weight has.
struct CheckedLayer {
  Dense<float> weight, bias;
  py::ssize_t out;
};
inline CheckedLayer checked_layer(const char* name, const py::handle& layer, py::ssize_t in, py::ssize_t out) {
  const auto pair = as_tuple(name, layer);
  if (pair.size() != 2) throw py::value_error(std::string(name) + " must be a weight and a bias");
  const auto weight = as_array(name, pair[0]), bias = as_array(name, pair[1]);
  if (out < 0 && weight.ndim() == 2) out = weight.shape(0);
  require_shape(name, weight, {out, in}, "[out, in]");
  require_shape(name, bias, {out}, "[out]");
  return {dense<float>(name, weight), dense<float>(name, bias), out};
}

}  // namespace lsp_fast::bindings
