// Keys of Philox4x32-10 as Python hands them over.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "philox.hpp"

namespace lsp_fast::bindings {

namespace py = pybind11;

inline constexpr std::int64_t kWords = std::int64_t{1} << 32;

inline lsp_fast::Philox philox_of(const py::tuple& key) {
  if (key.size() != 2) throw py::value_error("a Philox key has two words");
  lsp_fast::Philox philox{};
  for (std::size_t i = 0; i < 2; ++i) {
    const auto word = py::cast<std::int64_t>(key[i]);
    if (word < 0 || word > 0xffffffff) throw py::value_error("a Philox key's words must lie in 0 .. 2**32 - 1");
    philox.key[i] = static_cast<std::uint32_t>(word);
  }
  return philox;
}

}  // namespace lsp_fast::bindings
