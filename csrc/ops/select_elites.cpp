#include "ops/select_elites.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace lsp_fast {

template <typename T>
void select_elites(const EliteSizes& sizes, const T* values, const T* plans, const T* mean, const T* stddev,
                   double floor, T* new_mean, T* new_std, std::int64_t* indices) {
  const auto [states, candidates, plan_size, elites] = sizes;
  std::vector<std::int64_t> order;
  order.reserve(static_cast<std::size_t>(candidates));
  // Sums are kept in double whatever T is: at these sizes it costs nothing, and float32 then rounds only once.
  std::vector<double> center(static_cast<std::size_t>(plan_size));
  std::vector<double> variance(static_cast<std::size_t>(plan_size));

  for (std::int64_t n = 0; n < states; ++n) {
    const T* row = values + n * candidates;
    const T* row_plans = plans + n * candidates * plan_size;
    T* out_mean = new_mean + n * plan_size;
    T* out_std = new_std + n * plan_size;
    std::int64_t* out_indices = indices + n * elites;

    order.clear();
    for (std::int64_t g = 0; g < candidates; ++g) {
      if (!std::isnan(row[g])) order.push_back(g);
    }
    const auto count = std::min<std::int64_t>(elites, static_cast<std::int64_t>(order.size()));
    // NaNs are gone, so that this is a strict weak ordering; the index makes it total.
    std::partial_sort(order.begin(), order.begin() + count, order.end(), [row](std::int64_t a, std::int64_t b) {
      return row[a] > row[b] || (row[a] == row[b] && a < b);
    });
    std::copy_n(order.begin(), count, out_indices);
    std::fill(out_indices + count, out_indices + elites, std::int64_t{-1});

    if (count == 0) {
      std::copy_n(mean + n * plan_size, plan_size, out_mean);
      std::copy_n(stddev + n * plan_size, plan_size, out_std);
      continue;
    }

    std::fill(center.begin(), center.end(), 0.0);
    for (std::int64_t m = 0; m < count; ++m) {
      const T* plan = row_plans + order[m] * plan_size;
      for (std::int64_t i = 0; i < plan_size; ++i) center[i] += plan[i];
    }
    for (double& c : center) c /= static_cast<double>(count);

    std::fill(variance.begin(), variance.end(), 0.0);
    for (std::int64_t m = 0; m < count; ++m) {
      const T* plan = row_plans + order[m] * plan_size;
      for (std::int64_t i = 0; i < plan_size; ++i) {
        const double deviation = plan[i] - center[i];
        variance[i] += deviation * deviation;
      }
    }
    for (std::int64_t i = 0; i < plan_size; ++i) {
      out_mean[i] = static_cast<T>(center[i]);
      out_std[i] = static_cast<T>(std::sqrt(variance[i] / static_cast<double>(count) + floor));
    }
  }
}

template void select_elites<float>(const EliteSizes&, const float*, const float*, const float*, const float*, double,
                                   float*, float*, std::int64_t*);
template void select_elites<double>(const EliteSizes&, const double*, const double*, const double*, const double*,
                                    double, double*, double*, std::int64_t*);

}  // namespace lsp_fast
