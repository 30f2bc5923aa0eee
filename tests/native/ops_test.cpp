// What plans are made of, by itself, under sanitizers: normal numbers, lambda-returns and elites.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "check.hpp"
#include "ops/imagine_heads.hpp"
#include "ops/lambda_return.hpp"
#include "ops/select_elites.hpp"

namespace lsp_fast::tests {

namespace {

using std::int64_t;
using Floats = std::vector<float>;

constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kUnwritten = -7.0f;

// The same with every instruction set that this machine has.
void normal(const std::vector<const Kernels*>& all) {
  const auto draw = [](const Kernels& kernels, int64_t rows, int64_t columns, int64_t group) {
    Floats drawn(static_cast<std::size_t>(rows * columns), kUnwritten);
    kernels.normals({{3, 0x80000000u}}, kActionStream, 0xfffffff0u, 5, rows, group, columns, drawn.data());
    return drawn;
  };
  const auto many = draw(*all[0], 301, 103, 1);
  const auto count = static_cast<double>(many.size());
  double sum = 0.0, squares = 0.0;
  std::uint64_t checksum = 14695981039346656037u;  // FNV-1a of the bits, which are the same on every machine
  for (const float x : many) {
    sum += x, squares += static_cast<double>(x) * x;
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    checksum = (checksum ^ bits) * 1099511628211u;
  }
  CHECK(std::abs(sum / count) < 0.02 && std::abs(std::sqrt(squares / count) - 1.0) < 0.02);
  CHECK(checksum == 0x1c90c9fd82c8c48bu);
  for (const auto* kernels : all) {
    CHECK(same(draw(*kernels, 301, 103, 1), many));
    for (const int64_t rows : {0, 1, 3, 17}) {
      for (const int64_t columns : {0, 1, 6, 33}) {  // 32 are drawn at a time
        CHECK(same(draw(*kernels, rows, columns, 3), draw(*all[0], rows, columns, 3)));
      }
    }
  }
}

template <typename T>
T dot(const std::vector<T>& a, const std::vector<T>& b) {
  T sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

template <typename T>
void returns(double tolerance) {
  constexpr double kLam = 0.9;
  for (const int64_t H : {1, 7}) {
    for (const int64_t C : {0, 1, 17, 513}) {
      const auto rewards = numbers<T>(H * C), values = numbers<T>(H * C), discounts = numbers<T>(H * C, 0.5);
      const auto bootstrap = numbers<T>(C), grad = numbers<T>(H * C);
      std::vector<T> out(rewards.size()), d_rewards(out), d_values(out), d_discounts(out), d_bootstrap(bootstrap.size());
      lambda_return<T>(H, C, C, rewards.data(), values.data(), discounts.data(), bootstrap.data(), kLam, out.data());
      lambda_return_backward<T>(H, C, grad.data(), values.data(), discounts.data(), bootstrap.data(), out.data(), kLam,
                                d_rewards.data(), d_values.data(), d_discounts.data(), d_bootstrap.data());
      // Returns are linear in everything but the discounts.
      const auto linear = dot(d_rewards, rewards) + dot(d_values, values) + dot(d_bootstrap, bootstrap);
      CHECK(std::abs(linear - dot(grad, out)) <= tolerance * std::sqrt(dot(grad, grad) * dot(out, out)));

      // Columns of a wider array, which ends with them.
      const auto whole = numbers<T>((H - 1) * (C + 3) + C);
      auto wide = whole;
      lambda_return<T>(H, C, C + 3, whole.data(), whole.data(), whole.data(), bootstrap.data(), kLam, wide.data());
      for (std::size_t i = 0; i < wide.size(); ++i) {
        CHECK((wide[i] == whole[i]) == (static_cast<int64_t>(i) % (C + 3) >= C));
      }
    }
  }
}

template <typename T>
void elites() {
  const T odd[] = {static_cast<T>(kNaN), static_cast<T>(kInfinity), static_cast<T>(-kInfinity), T{0}, T{1}, T{1}};
  for (const int64_t G : {1, 5, 16, 63, 64, 65, 100}) {
    for (const int64_t M : {int64_t{1}, (G + 1) / 2, G}) {
      constexpr int64_t kStates = 3, kWidth = 5;
      auto values = numbers<T>(kStates * G);
      for (std::size_t i = 0; i < values.size(); i += 2) values[i] = odd[i / 2 % 6];
      std::fill(values.end() - G, values.end(), odd[0]);  // the last state has none
      const auto plans = numbers<T>(kStates * G * kWidth), mean = numbers<T>(kStates * kWidth);
      auto new_mean = mean, new_std = mean;
      std::vector<int64_t> indices(static_cast<std::size_t>(kStates * M), -7);
      select_elites<T>({kStates, G, kWidth, M}, values.data(), plans.data(), new_mean.data(), new_std.data(), 0.25,
                       new_mean.data(), new_std.data(), indices.data());
      for (int64_t n = 0; n < kStates; ++n) {
        std::vector<int64_t> best;
        for (int64_t g = 0; g < G; ++g) {
          if (!std::isnan(values[n * G + g])) best.push_back(g);
        }
        std::stable_sort(best.begin(), best.end(), [&](auto a, auto b) { return values[n * G + a] > values[n * G + b]; });
        best.resize(static_cast<std::size_t>(M), -1);
        for (int64_t m = 0; m < M; ++m) CHECK(indices[n * M + m] == best[m]);
        for (int64_t i = n * kWidth; i < (n + 1) * kWidth; ++i) {
          CHECK(best[0] < 0 ? new_mean[i] == mean[i] && new_std[i] == mean[i] : new_std[i] >= T{0.5});
        }
      }
    }
  }
}

}  // namespace

void ops(const std::vector<const Kernels*>& all) {
  group("normal numbers", [&] { normal(all); });
  group("lambda-returns", [] { returns<float>(1e-4), returns<double>(1e-10); });
  group("elites", [] { elites<float>(), elites<double>(); });
}

}  // namespace lsp_fast::tests
