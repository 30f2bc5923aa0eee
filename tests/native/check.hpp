// What the engine's tests say when something does not hold, and what they compare.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace lsp_fast {

struct Kernels;

}

namespace lsp_fast::tests {

inline std::string context;  // what is being tested
inline std::atomic<int> checks{0}, failures{0};  // threads check, too

#define CHECK(condition) check(condition, #condition, __LINE__)
inline void check(bool held, const char* condition, int line) {
  ++checks;
  if (held) return;
  ++failures;
  std::printf("FAILED line %d, %s: %s\n", line, context.c_str(), condition);
}

inline void group(const std::string& name, const std::function<void()>& test) {
  const int checked = checks, failed = failures;
  context = name;
  test();
  std::printf("%-36s %s, %d checks\n", name.c_str(), failures == failed ? "ok" : "FAILED", checks - checked);
  std::fflush(stdout);
}

template <typename T>
std::vector<T> numbers(int64_t count, double scale = 1.0) {
  static std::mt19937 generator(1);
  std::normal_distribution<double> normal(0.0, scale);
  std::vector<T> drawn(static_cast<std::size_t>(count));
  for (auto& x : drawn) x = static_cast<T>(normal(generator));
  return drawn;
}

// To the bit.
template <typename T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// The learner's operations, with every instruction set.
void learner();
void adam();
void pool();
// What plans are made of.
void ops(const std::vector<const Kernels*>& all);

}  // namespace lsp_fast::tests
