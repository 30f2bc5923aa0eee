#pragma once

#include <cstdint>

namespace lsp_fast {

// TD(lambda) returns of `columns` trajectories of `steps` >= 1 steps. Arrays are row-major: [steps, columns], a step
// `stride` numbers after the one before, and bootstrap [columns].
//
//   R_t = r_t + d_t ((1 - lam) v_{t+1} + lam R_{t+1}),   v_T = R_T = bootstrap
//
// Every operation and its order are those of the PyTorch reference, and below of its gradients, so that all results are
// equal to the bit.
template <typename T>
void lambda_return(std::int64_t steps, std::int64_t columns, std::int64_t stride, const T* rewards, const T* values,
                   const T* discounts, const T* bootstrap, double lam, T* returns);

// The gradients of a loss with respect to every input, from `grad`, that of the returns; all dense.
template <typename T>
void lambda_return_backward(std::int64_t steps, std::int64_t columns, const T* grad, const T* values,
                            const T* discounts, const T* bootstrap, const T* returns, double lam, T* d_rewards,
                            T* d_values, T* d_discounts, T* d_bootstrap);

}  // namespace lsp_fast
