// lambda_return and its gradients, of float32 or float64 arrays that are not copied.
#include <initializer_list>
#include <string>

#include "bindings/bindings.hpp"
#include "bindings/checks.hpp"
#include "bindings/gil.hpp"
#include "ops/lambda_return.hpp"

namespace lsp_fast::bindings {

namespace {

// The data of an argument of lambda_return, which is not copied: an array, dense, of dtype T and the shape wanted.
template <typename T>
const T* flat(const char* name, const py::object& object, std::initializer_list<py::ssize_t> wanted) {
  if (!py::isinstance<py::array>(object)) throw py::value_error(std::string(name) + " must be an array");
  const auto array = py::reinterpret_borrow<py::array>(object);
  if (!py::isinstance<py::array_t<T>>(array) || !(array.flags() & py::array::c_style)) {
    throw py::value_error(describe(name, array) + " must be dense " + dtype_name(py::dtype::of<T>()));
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
  without_gil([&](ReleasedGil&) { lsp_fast::lambda_return<T>(steps, columns, columns, r, v, d, b, lam, out); });
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
  without_gil([&](ReleasedGil&) {
    lsp_fast::lambda_return_backward<T>(steps, columns, g, v, d, b, r, lam, dr, dv, dd, db);
  });
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

void bind_lambda_return(py::module_& module) {
  module.def("lambda_return", &lambda_return, py::arg("rewards"), py::arg("values"), py::arg("discounts"),
             py::arg("bootstrap"), py::arg("lam"), py::arg("returns"),
             "rewards, values, discounts [T,C], bootstrap[C], lam; writes returns[T,C]");
  module.def("lambda_return_backward", &lambda_return_backward, py::arg("grad"), py::arg("values"),
             py::arg("discounts"), py::arg("bootstrap"), py::arg("returns"), py::arg("lam"), py::arg("d_rewards"),
             py::arg("d_values"), py::arg("d_discounts"), py::arg("d_bootstrap"),
             "grad, values, discounts [T,C], bootstrap[C], returns[T,C], lam; writes the gradients");
}

}  // namespace lsp_fast::bindings
