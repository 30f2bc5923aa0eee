// Layers one after the other, with the gradients of input and weights.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/checks.hpp"
#include "bindings/gil.hpp"
#include "bindings/layers.hpp"
#include "ops/mlp.hpp"

namespace lsp_fast::bindings {

namespace {

using Pass = std::shared_ptr<lsp_fast::MlpPass>;

py::tuple forward(const py::object& x_object, const py::tuple& layers, bool linear_out, bool with_backward,
                  std::int64_t threads, const std::string& isa) {
  const auto& kernels = learner_kernels_of(isa);
  const auto x_array = as_array("x", x_object);
  require_dims("x", x_array, 2, "[rows, in]");
  const auto rows = x_array.shape(0);
  const auto x = dense<float>("x", x_array);
  TorchLayers given;
  const auto sizes = torch_mlp(given, "mlp", layers, x_array.shape(1));
  auto pass = std::make_shared<lsp_fast::MlpPass>(kernels, sizes, linear_out, rows, with_backward);
  py::array_t<float> y(std::vector<py::ssize_t>{rows, pass->out()});
  float* to = y.mutable_data();
  if (rows > 0) {
    without_gil([&](ReleasedGil&) { pass->forward(x.data(), to, std::max<std::int64_t>(threads, 1)); });
  }
  return py::make_tuple(y, pass);
}

py::tuple backward(const Pass& pass, const py::object& dy_object, bool want_x, bool want_weights, std::int64_t threads) {
  const auto dy_array = as_array("dy", dy_object);
  require_shape("dy", dy_array, {pass->rows(), pass->out()}, "[rows, out]");
  const auto dy = dense<float>("dy", dy_array);
  py::object dx = py::none();
  float* to = nullptr;
  if (want_x) {
    py::array_t<float> array(std::vector<py::ssize_t>{pass->rows(), pass->in()});
    to = array.mutable_data();
    dx = array;
  }
  py::list arrays;
  std::vector<lsp_fast::TorchGradient> gradients;
  if (want_weights) gradients = new_gradients(arrays, pass->layers());
  without_gil([&](ReleasedGil&) { pass->backward(dy.data(), to, gradients, std::max<std::int64_t>(threads, 1)); });
  return py::make_tuple(dx, arrays);
}

}  // namespace

void bind_mlp(py::module_& module) {
  py::class_<lsp_fast::MlpPass, Pass>(module, "MlpPass", "What an mlp keeps for its gradient.");
  module.def("mlp_forward", &forward, py::arg("x"), py::arg("layers"), py::arg("linear_out"), py::arg("with_backward"),
             py::arg("threads"), py::arg("isa") = "auto",
             "x[rows,in], ((weight, bias), ...) -> y[rows,out], what is kept");
  module.def("mlp_backward", &backward, py::arg("kept"), py::arg("dy"), py::arg("want_x"), py::arg("want_weights"),
             py::arg("threads"), "-> dx or None, [dweight, dbias, ...]");
}

}  // namespace lsp_fast::bindings
