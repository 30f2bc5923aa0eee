// A state's two parts beside each other, [s, h], as all heads see it; torch's rows, without padding.
#pragma once

#include <algorithm>
#include <cstdint>

#include "parallel.hpp"

namespace lsp_fast {

struct Features {
  std::int64_t rows, stoch, deter, threads;

  std::int64_t width() const { return stoch + deter; }

  void join(const float* s, const float* h, float* feature) const {
    parallel(threads, rows, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) {
        std::copy_n(s + i * stoch, stoch, feature + i * width());
        std::copy_n(h + i * deter, deter, feature + i * width() + stoch);
      }
    });
  }

  // The sum of two gradients, taken apart.
  void split(const float* a, const float* b, float* s, float* h) const {
    parallel(threads, rows, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) {
        const float *x = a + i * width(), *y = b + i * width();
        for (std::int64_t k = 0; k < stoch; ++k) s[i * stoch + k] = x[k] + y[k];
        for (std::int64_t k = 0; k < deter; ++k) h[i * deter + k] = x[stoch + k] + y[stoch + k];
      }
    });
  }
};

}  // namespace lsp_fast
