// Adam under sanitizers: the bits are the same whoever shares the work, and they are near what doubles give.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "check.hpp"
#include "ops/adam.hpp"

namespace lsp_fast::tests {

namespace {

using std::int64_t;
using Floats = std::vector<float>;

// Tensors of these sizes, each an array of exactly its numbers.
struct Module {
  std::vector<Floats> parameters, means, squares, steps;

  explicit Module(const std::vector<Floats>& initial) : parameters(initial) {
    for (const auto& x : initial) {
      means.emplace_back(x.size(), 0.0f);
      squares.emplace_back(x.size(), 0.0f);
      steps.emplace_back(1, 0.0f);
    }
  }
  Adam adam() {
    std::vector<AdamTensor> tensors;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      tensors.push_back({parameters[i].data(), means[i].data(), squares[i].data(), steps[i].data(),
                         static_cast<int64_t>(parameters[i].size())});
    }
    return Adam(tensors);
  }
};

std::vector<Floats> drawn(const std::vector<int64_t>& sizes) {
  std::vector<Floats> all;
  for (const auto size : sizes) all.push_back(numbers<float>(size));
  return all;
}

// All numbers after a step along each of the gradients, and the steps' norms.
Floats run(const std::vector<Floats>& initial, const std::vector<std::vector<Floats>>& gradients, const AdamRules& rules,
           int64_t threads) {
  Module module(initial);
  auto adam = module.adam();
  Floats all;
  for (const auto& given : gradients) {
    std::vector<const float*> addresses;
    for (const auto& g : given) addresses.push_back(g.data());
    all.push_back(adam.step(addresses, rules, threads));
  }
  for (const auto* tensors : {&module.parameters, &module.means, &module.squares, &module.steps}) {
    for (const auto& x : *tensors) all.insert(all.end(), x.begin(), x.end());
  }
  return all;
}

void steps() {
  // The second is enough for several threads.
  for (const std::vector<int64_t>& sizes : {std::vector<int64_t>{1, 7, 0, 15, 17}, {4096, 4097, 660'000, 3}}) {
    const auto initial = drawn(sizes);
    std::vector<std::vector<Floats>> gradients{drawn(sizes), drawn(sizes), drawn(sizes)};
    for (const double max_norm : {1e9, 1.0}) {
      const AdamRules rules{1e-2, 0.9, 0.999, 1e-5, max_norm};
      const auto wanted = run(initial, gradients, rules, 1);
      CHECK(std::all_of(wanted.begin(), wanted.end(), [](float x) { return std::isfinite(x); }));
      for (const int64_t threads : {1, 2, 5}) CHECK(same(run(initial, gradients, rules, threads), wanted));
      CHECK(wanted.back() == 3.0f);

      double theta = initial[0][0], m = 0.0, v = 0.0;
      for (std::size_t t = 0; t < gradients.size(); ++t) {
        double squares = 0.0;
        for (const auto& tensor : gradients[t]) {
          for (const double g : tensor) squares += g * g;
        }
        const double norm = std::sqrt(squares), g = gradients[t][0][0] * std::min(1.0, max_norm / (norm + 1e-6));
        CHECK(std::abs(wanted[t] - norm) <= 1e-6 * norm);
        m = 0.9 * m + 0.1 * g;
        v = 0.999 * v + 0.001 * g * g;
        const double n = static_cast<double>(t) + 1.0;
        theta -= 1e-2 * m / (1.0 - std::pow(0.9, n)) / (std::sqrt(v / (1.0 - std::pow(0.999, n))) + 1e-5);
      }
      CHECK(std::abs(wanted[gradients.size()] - theta) <= 1e-6 * (1.0 + std::abs(theta)));
    }
    gradients[1].back().back() = std::numeric_limits<float>::quiet_NaN();
    const auto spoilt = run(initial, gradients, {1e-2, 0.9, 0.999, 1e-5, 1.0}, 2);
    CHECK(std::isfinite(spoilt[0]) && std::isnan(spoilt[1]));
    const auto first = spoilt.begin() + static_cast<std::ptrdiff_t>(gradients.size());
    const auto last = spoilt.end() - static_cast<std::ptrdiff_t>(sizes.size());
    CHECK(std::all_of(first, last, [](float x) { return std::isnan(x); }));
  }
}

}  // namespace

void adam() { group("adam", steps); }

}  // namespace lsp_fast::tests
