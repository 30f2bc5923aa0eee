#include "ops/select_elites.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "clones.hpp"

namespace lsp_fast {

namespace {

// Up to so many candidates comparing every pair is faster than sorting, as no branch depends on the values.
constexpr std::int64_t kPaired = 64;
constexpr std::int64_t kLanes = 16;

// Writes the (at most M) best of a row's candidates, best first, and returns how many there are.
template <typename T>
LSP_CLONES std::int64_t rank_elites(const T* row, std::int64_t candidates, std::int64_t elites,
                                    std::int64_t* best) {
  T padded[kPaired];
  const std::int64_t lanes = (candidates + kLanes - 1) / kLanes * kLanes;
  std::copy_n(row, candidates, padded);
  std::fill(padded + candidates, padded + lanes, std::numeric_limits<T>::quiet_NaN());  // better than nobody
  std::int64_t at_rank[kPaired + 1];
  std::int64_t count = 0;
  for (std::int64_t g = 0; g < candidates; ++g) {
    const T value = row[g];
    std::int32_t rank = 0;  // how many are better; of equals the one that comes first
    for (std::int64_t j = 0; j < lanes; j += kLanes) {
      const auto before = static_cast<std::int32_t>(g - j);
      for (std::int32_t lane = 0; lane < kLanes; ++lane) {
        rank += (padded[j + lane] > value) | ((padded[j + lane] == value) & (lane < before));
      }
    }
    const bool number = value == value;
    at_rank[number ? rank : kPaired] = g;
    count += number;
  }
  count = std::min(count, elites);
  std::copy_n(at_rank, count, best);
  return count;
}

// The same for any number of candidates; `order` is scratch.
template <typename T>
std::int64_t sort_elites(const T* row, std::int64_t candidates, std::int64_t elites, std::int64_t* best,
                         std::vector<std::int64_t>& order) {
  order.clear();
  for (std::int64_t g = 0; g < candidates; ++g) {
    if (!std::isnan(row[g])) order.push_back(g);
  }
  const auto count = std::min<std::int64_t>(elites, static_cast<std::int64_t>(order.size()));
  // NaNs are gone, so that this is a strict weak ordering; the index makes it total.
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [row](std::int64_t a, std::int64_t b) {
    return row[a] > row[b] || (row[a] == row[b] && a < b);
  });
  std::copy_n(order.begin(), count, best);
  return count;
}

}  // namespace

template <typename T>
void select_elites(const EliteSizes& sizes, const T* values, const T* plans, const T* mean, const T* stddev,
                   double floor, T* new_mean, T* new_std, std::int64_t* indices) {
  const auto [states, candidates, plan_size, elites] = sizes;
  std::vector<std::int64_t> order;
  for (std::int64_t n = 0; n < states; ++n) {
    const T* row = values + n * candidates;
    const T* row_plans = plans + n * candidates * plan_size;
    T* out_mean = new_mean + n * plan_size;
    T* out_std = new_std + n * plan_size;
    std::int64_t* out_indices = indices + n * elites;

    const auto count = candidates <= kPaired ? rank_elites(row, candidates, elites, out_indices)
                                             : sort_elites(row, candidates, elites, out_indices, order);
    std::fill(out_indices + count, out_indices + elites, std::int64_t{-1});

    if (count == 0) {
      if (new_mean != mean) std::copy_n(mean + n * plan_size, plan_size, out_mean);
      if (new_std != stddev) std::copy_n(stddev + n * plan_size, plan_size, out_std);
      continue;
    }

    // One coordinate after the other, so that its sums stay in registers; in double whatever T is, so that float32
    // rounds only once.
    const auto number = static_cast<double>(count);
    for (std::int64_t i = 0; i < plan_size; ++i) {
      double center = 0.0, variance = 0.0;
      for (std::int64_t m = 0; m < count; ++m) center += row_plans[out_indices[m] * plan_size + i];
      center /= number;
      for (std::int64_t m = 0; m < count; ++m) {
        const double deviation = row_plans[out_indices[m] * plan_size + i] - center;
        variance += deviation * deviation;
      }
      out_mean[i] = static_cast<T>(center);
      out_std[i] = static_cast<T>(std::sqrt(variance / number + floor));
    }
  }
}

template void select_elites<float>(const EliteSizes&, const float*, const float*, const float*, const float*, double,
                                   float*, float*, std::int64_t*);
template void select_elites<double>(const EliteSizes&, const double*, const double*, const double*, const double*,
                                    double, double*, double*, std::int64_t*);

}  // namespace lsp_fast
