// The extension lsp_fast._native. Only the files of this folder know pybind11: shapes and dtypes in, ValueError out.
// The work itself is plain C++ under ops/.
#include "bindings/bindings.hpp"

PYBIND11_MODULE(_native_of_main, module) {
  using namespace lsp_fast::bindings;
  module.doc() = "Native operations of lsp_fast; lsp_fast.backends.cpp wraps them for torch tensors.";
  bind_select_elites(module);
  bind_lambda_return(module);
  bind_imagine_heads(module);
  bind_imagine(module);
  bind_mlp(module);
  bind_densities(module);
  bind_observe(module);
  bind_behavior(module);
  bind_world_model(module);
  bind_adam(module);
  bind_plan(module);
  bind_philox(module);
  bind_machine(module);
}

// What Python calls. In an interpreter beside the main one pybind11 would wait for a lock for ever, before it looks whether
// a module may be there.
extern "C" PYBIND11_EXPORT PyObject* PyInit__native() {
  if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
    PyErr_SetString(PyExc_ImportError, "lsp_fast._native is for Python's main interpreter alone");
    return nullptr;
  }
  return PyInit__native_of_main();
}
