// The threads that plan and learner share.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <thread>

#include "check.hpp"
#include "parallel.hpp"

namespace lsp_fast::tests {

using std::int64_t;

namespace {

// Waits for what was begun, and for nobody who has not begun.
void tasks_are_waited_for() {
  for (int round = 0; round < 200; ++round) {
    std::atomic<int> sum{0};
    one_by_one(4, 50, [&](bool, const auto& next) {
      for (int64_t i; (i = next()) < 50;) sum += static_cast<int>(i);
    });
    CHECK(sum == 1225);
  }
  bool thrown = false;
  try {
    one_by_one(3, 9, [](bool, const auto& next) {
      while (next() < 9) throw std::runtime_error("so");
    });
  } catch (const std::runtime_error&) {
    thrown = true;
  }
  CHECK(thrown);
  CHECK(team_members(1) == 1 && team_members(1'000'000) <= most_threads());
  std::atomic<int> workers{0};
  run_together(1'000'000, [&](int64_t worker) { workers += worker < most_threads() ? 1 : 1000; });
  CHECK(workers <= most_threads());
}

#if defined(__x86_64__)
// Workers were made before the mode was changed.
void floating_point_modes() {
  const auto own = __builtin_ia32_stmxcsr();
  for (const unsigned mode : {own | 0x8040u, own}) {
    __builtin_ia32_ldmxcsr(mode);
    std::atomic<int> came{0}, differ{0};
    run_together(2, [&](int64_t worker) {
      if ((__builtin_ia32_stmxcsr() & 0xffc0u) != (mode & 0xffc0u)) ++differ;
      ++came;
      const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(5);
      while (worker == 0 && came < 2 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    });
    CHECK(came == 2 && differ == 0);
  }
}
#endif

}  // namespace

void pool() {
  group("tasks are waited for", tasks_are_waited_for);
#if defined(__x86_64__)
  group("floating-point modes", floating_point_modes);
#endif
}

}  // namespace lsp_fast::tests
