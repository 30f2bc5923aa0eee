// Adam over arrays that it is given once and changes in place. Only gradients come with every step: as addresses, since an
// array of each would take longer than its share of the step.
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/checks.hpp"
#include "bindings/gil.hpp"
#include "ops/adam.hpp"

namespace lsp_fast::bindings {

namespace {

class HeldAdam {
 public:
  // (parameter, average of the gradient, of its square, steps [1]) of every tensor.
  explicit HeldAdam(const py::tuple& tensors) : adam_(take(tensors)) {}

  float step(const py::tuple& addresses, double learning_rate, double beta1, double beta2, double eps, double max_norm,
             std::int64_t threads) {
    if (addresses.size() != adam_.tensors().size()) {
      throw py::value_error("gradients: " + std::to_string(addresses.size()) + " addresses for " +
                            std::to_string(adam_.tensors().size()) + " tensors");
    }
    std::vector<const float*> gradients;
    gradients.reserve(addresses.size());
    for (const auto& address : addresses) {
      gradients.push_back(reinterpret_cast<const float*>(py::cast<std::uintptr_t>(address)));
    }
    float norm = 0.0f;
    without_gil([&](ReleasedGil&) {
      norm = adam_.step(gradients, {learning_rate, beta1, beta2, eps, max_norm}, std::max<std::int64_t>(threads, 1));
    });
    return norm;
  }

 private:
  std::vector<lsp_fast::AdamTensor> take(const py::tuple& tensors) {
    std::vector<lsp_fast::AdamTensor> taken;
    for (const auto& tensor : tensors) {
      const auto arrays = as_tuple("tensors", tensor);
      if (arrays.size() != 4) throw py::value_error("a tensor must have a parameter, two averages and its steps");
      const auto size = as_array("parameter", arrays[0]).size();
      taken.push_back({numbers("parameter", arrays[0], size), numbers("exp_avg", arrays[1], size),
                       numbers("exp_avg_sq", arrays[2], size), numbers("step", arrays[3], 1), size});
    }
    return taken;
  }

  float* numbers(const char* name, const py::handle& object, py::ssize_t size) {
    if (!py::isinstance<py::array>(object)) throw py::value_error(std::string(name) + " must be an array");
    auto array = py::reinterpret_borrow<py::array>(object);
    if (!py::isinstance<py::array_t<float>>(array) || !(array.flags() & py::array::c_style) || !array.writeable()) {
      throw py::value_error(describe(name, array) + " must be dense, writable " + dtype_name(py::dtype::of<float>()));
    }
    if (array.size() != size) {
      throw py::value_error(describe(name, array) + " must have the parameter's size, a step that of 1: " +
                            std::to_string(size));
    }
    kept_.push_back(array);
    return static_cast<float*>(array.mutable_data());
  }

  std::vector<py::array> kept_;
  lsp_fast::Adam adam_;
};

}  // namespace

void bind_adam(py::module_& module) {
  py::class_<HeldAdam>(module, "Adam", "Adam over arrays that it changes in place, with the gradient's norm clipped.")
      .def(py::init<const py::tuple&>(), py::arg("tensors"), "((parameter, exp_avg, exp_avg_sq, step), ...)")
      .def("step", &HeldAdam::step, py::arg("gradients"), py::arg("learning_rate"), py::arg("beta1"), py::arg("beta2"),
           py::arg("eps"), py::arg("max_norm"), py::arg("threads"),
           "addresses of dense float32 gradients, one of each parameter's size -> their norm before clipping");
}

}  // namespace lsp_fast::bindings
