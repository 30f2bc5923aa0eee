// What this processor is and can do at most.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

#include "bindings/bindings.hpp"
#include "bindings/gil.hpp"
#include "bindings/weights.hpp"
#include "parallel.hpp"

namespace lsp_fast::bindings {

namespace {

// Operations a second of that many threads which do nothing but multiply and add in registers, over some milliseconds.
double peak(const std::string& precision, std::int64_t threads, const std::string& isa) {
  const auto& kernels = kernels_of(isa);
  const auto of = precision_of(precision);
  constexpr std::int64_t kRounds = 200'000;
  std::atomic<std::int64_t> operations{0};
  std::chrono::duration<double> seconds{};
  without_gil([&](ReleasedGil&) {
    const auto began = std::chrono::steady_clock::now();
    lsp_fast::parallel(threads, threads, [&](std::int64_t first, std::int64_t last) {
      for (auto i = first; i < last; ++i) operations += static_cast<std::int64_t>(kernels.multiply_add(of, kRounds));
    });
    seconds = std::chrono::steady_clock::now() - began;
  });
  return static_cast<double>(operations) / seconds.count();
}

// The instruction sets whose kernels this processor runs, the best one first.
py::tuple instruction_sets() {
  py::list names;
  for (const char* name : {"avx512bf16", "avx512", "avx2", "portable"}) {
    if (lsp_fast::find_kernels(name)) names.append(name);
  }
  return py::tuple(names);
}

}  // namespace

void bind_machine(py::module_& module) {
  module.def("peak", &peak, py::arg("precision"), py::arg("threads"), py::arg("isa") = "auto",
             "precision, threads, isa -> operations a second of multiply-adds in registers");
  module.def("limit_threads", &lsp_fast::limit_threads, py::arg("most"), "threads that work at a time, at most");
  module.def("instruction_sets", &instruction_sets, "names of the kernels that this processor runs, the best one first");
}

}  // namespace lsp_fast::bindings
