#include "ops/densities.hpp"

#include <algorithm>

#include "parallel.hpp"

namespace lsp_fast {

// Calls work(first row, rows, first number) for every thread's part.
template <typename Work>
void Densities::each(const Work& work) const {
  constexpr std::int64_t kWorthwhile = 4096;  // numbers that take as long as waking a thread
  const auto parts = std::clamp<std::int64_t>(rows * width / kWorthwhile, 1, threads);
  parallel(parts, rows, [&](std::int64_t first, std::int64_t last) { work(first, last - first, first * width); });
}

namespace {

float* at(float* p, std::int64_t offset) { return p ? p + offset : nullptr; }

}  // namespace

void Densities::log_prob(const float* raw, const float* x, float low, float high, float* out, float* d_raw) const {
  each([&](std::int64_t row, std::int64_t count, std::int64_t i) {
    kernels.log_prob(count, width, raw + 2 * i, x + i, low, high, out + row, at(d_raw, 2 * i));
  });
}

void Densities::kl_divergence(const float* p_mean, const float* p_std, const float* q_mean, const float* q_std, float* out,
                              float* d_p_mean, float* d_p_std, float* d_q_std) const {
  each([&](std::int64_t row, std::int64_t count, std::int64_t i) {
    kernels.kl_divergence(count, width, p_mean + i, p_std + i, q_mean + i, q_std + i, out + row, at(d_p_mean, i),
                          at(d_p_std, i), at(d_q_std, i));
  });
}

void Densities::entropy(const float* mean, const float* std, const float* noise, float* out, float* d_mean,
                        float* d_std) const {
  each([&](std::int64_t row, std::int64_t count, std::int64_t i) {
    kernels.entropy(count, width, mean + i, std + i, noise + i, out + row, at(d_mean, i), at(d_std, i));
  });
}

}  // namespace lsp_fast
