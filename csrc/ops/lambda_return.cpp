#include "ops/lambda_return.hpp"

#include <algorithm>

#include "clones.hpp"

namespace lsp_fast {

namespace {

// Columns that walk through time together: a row of each array fits into the first level of cache beside the others',
// and what one step leaves the next one finds there.
constexpr std::int64_t kBlock = 512;

}  // namespace

template <typename T>
LSP_CLONES void lambda_return(std::int64_t steps, std::int64_t columns, std::int64_t stride, const T* rewards, const T* values,
                   const T* discounts, const T* bootstrap, double lam, T* returns) {
  const T one_step = static_cast<T>(1.0 - lam), further = static_cast<T>(lam);
  for (std::int64_t first = 0; first < columns; first += kBlock) {
    const std::int64_t count = std::min(kBlock, columns - first);
    const T* __restrict next_value = bootstrap + first;
    const T* next_return = bootstrap + first;
    for (std::int64_t t = steps - 1; t >= 0; --t) {
      const std::int64_t at = t * stride + first;
      const T* __restrict reward = rewards + at;
      const T* __restrict discount = discounts + at;
      const T* __restrict future = next_return;
      T* __restrict out = returns + at;
      for (std::int64_t c = 0; c < count; ++c) {
        const T target = reward[c] + discount[c] * one_step * next_value[c];
        out[c] = target + discount[c] * further * future[c];
      }
      next_value = values + at;
      next_return = out;
    }
  }
}

template <typename T>
LSP_CLONES void lambda_return_backward(std::int64_t steps, std::int64_t columns, const T* grad, const T* values,
                            const T* discounts, const T* bootstrap, const T* returns, double lam, T* d_rewards,
                            T* d_values, T* d_discounts, T* d_bootstrap) {
  const T one_step = static_cast<T>(1.0 - lam), further = static_cast<T>(lam);
  for (std::int64_t first = 0; first < columns; first += kBlock) {
    const std::int64_t count = std::min(kBlock, columns - first);
    // dL/dR_t in full, which is dL/dr_t: its own gradient and what R_{t-1} passes on.
    std::copy_n(grad + first, count, d_rewards + first);
    std::fill_n(d_values + first, count, T{0});  // no return bootstraps from the first value
    for (std::int64_t t = 0; t < steps; ++t) {
      const std::int64_t at = t * columns + first;
      const bool last = t + 1 == steps;
      const T* __restrict total = d_rewards + at;
      const T* __restrict discount = discounts + at;
      const T* __restrict next_value = last ? bootstrap + first : values + at + columns;
      const T* __restrict next_return = last ? bootstrap + first : returns + at + columns;
      T* __restrict d_discount = d_discounts + at;
      for (std::int64_t c = 0; c < count; ++c) {
        d_discount[c] = total[c] * next_value[c] * one_step + total[c] * next_return[c] * further;
      }
      if (last) {
        T* __restrict d_last = d_bootstrap + first;
        for (std::int64_t c = 0; c < count; ++c) {
          d_last[c] = total[c] * (discount[c] * one_step) + total[c] * (discount[c] * further);
        }
        break;
      }
      const T* __restrict next_grad = grad + at + columns;
      T* __restrict d_next_value = d_values + at + columns;
      T* __restrict next_total = d_rewards + at + columns;
      for (std::int64_t c = 0; c < count; ++c) {
        d_next_value[c] = total[c] * (discount[c] * one_step);
        next_total[c] = next_grad[c] + total[c] * (discount[c] * further);
      }
    }
  }
}

#define LSP_INSTANTIATE(T)                                                                                          \
  template void lambda_return<T>(std::int64_t, std::int64_t, std::int64_t, const T*, const T*, const T*, const T*,  \
                                 double, T*);                                                                       \
  template void lambda_return_backward<T>(std::int64_t, std::int64_t, const T*, const T*, const T*, const T*,       \
                                          const T*, double, T*, T*, T*, T*);
LSP_INSTANTIATE(float)
LSP_INSTANTIATE(double)
#undef LSP_INSTANTIATE

}  // namespace lsp_fast
