// Normal numbers that follow from a key.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/gil.hpp"
#include "bindings/philox_key.hpp"
#include "bindings/weights.hpp"
#include "parallel.hpp"

namespace lsp_fast::bindings {

namespace {

// [steps, columns, rows]
py::array_t<float> philox_normals(const py::tuple& key, std::int64_t stream, std::int64_t first_step,
                                  std::int64_t steps, std::int64_t rows, std::int64_t columns, std::int64_t threads,
                                  const std::string& isa) {
  const auto& kernels = kernels_of(isa);
  const auto philox = philox_of(key);
  if (stream < 0 || stream >= kWords || first_step < 0 || steps < 0 || steps > kWords || first_step > kWords - steps || rows < 0 ||
      rows > kWords || columns < 0 || columns > kWords) {
    throw py::value_error("stream, steps, rows and columns must lie in 0 .. 2**32");
  }
  py::array_t<float> numbers(std::vector<py::ssize_t>{steps, columns, rows});
  float* out = numbers.mutable_data();
  without_gil([&](ReleasedGil&) {
    lsp_fast::parallel(std::max<std::int64_t>(threads, 1), steps, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t step = first; step < last; ++step) {
        kernels.normals(philox, static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(first_step + step), 0,
                        rows, 1, columns, out + step * columns * rows);
      }
    });
  });
  return numbers;
}

}  // namespace

void bind_philox(py::module_& module) {
  module.def("philox_normals", &philox_normals, py::arg("key"), py::arg("stream"), py::arg("first_step"),
             py::arg("steps"), py::arg("rows"), py::arg("columns"), py::arg("threads"), py::arg("isa") = "auto",
             "key (two words), stream, step, sizes, threads, isa -> [steps,columns,rows]");
}

}  // namespace lsp_fast::bindings
