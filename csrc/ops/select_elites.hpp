#pragma once

#include <cstdint>

namespace lsp_fast {

// Sizes of one call: N states, each with G candidate plans of P * Z numbers, of which the best M are kept.
struct EliteSizes {
  std::int64_t states;      // N
  std::int64_t candidates;  // G
  std::int64_t plan_size;   // P * Z
  std::int64_t elites;      // M, 1 <= M <= G
};

// Keep the M best plans of every state and refit a diagonal normal to them. All arrays are row-major and dense:
// values [N, G], plans [N, G, P * Z], mean, stddev, new_mean and new_std [N, P * Z], indices [N, M].
//
// Elites come best first, ties go to the lower index, infinities are ordinary values and a NaN value is never an elite.
// With fewer than M candidates that are not NaN those there are count and the rest of a row of indices is -1; with none
// the row keeps the given mean and stddev. new_std = sqrt(variance + floor), the population's variance, in two passes.
template <typename T>
void select_elites(const EliteSizes& sizes, const T* values, const T* plans, const T* mean, const T* stddev,
                   double floor, T* new_mean, T* new_std, std::int64_t* indices);

}  // namespace lsp_fast
