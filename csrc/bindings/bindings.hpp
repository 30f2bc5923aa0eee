// What each file here adds to the module.
#pragma once

#include <pybind11/pybind11.h>

namespace lsp_fast::bindings {

void bind_select_elites(pybind11::module_& module);
void bind_lambda_return(pybind11::module_& module);
void bind_imagine_heads(pybind11::module_& module);
void bind_imagine(pybind11::module_& module);
void bind_mlp(pybind11::module_& module);
void bind_densities(pybind11::module_& module);
void bind_observe(pybind11::module_& module);
void bind_behavior(pybind11::module_& module);
void bind_world_model(pybind11::module_& module);
void bind_adam(pybind11::module_& module);
void bind_plan(pybind11::module_& module);
void bind_philox(pybind11::module_& module);
void bind_machine(pybind11::module_& module);

}  // namespace lsp_fast::bindings
