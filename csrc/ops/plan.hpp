#pragma once

#include <cstdint>

#include "ops/imagine_heads.hpp"

namespace lsp_fast {

// One whole plan: I iterations of the cross-entropy method over G candidates from each of N start states, each rolled
// out H steps. Row-major and dense; a state's candidates lie side by side, R = N * G.
struct PlanCall {
  std::int64_t states, candidates, elites, plan_length, iterations, steps, skill_length;
  double gamma, lam, floor;
  bool sum;                       // of discounted rewards and the last value; else the lambda-return at the first state
  const float *stoch, *deter;     // [N, S], [N, D]
  const float* candidate_noise;   // [I, N, G, P, Z]
  bool shared_noise;              // by a state's candidates: the rollouts' noise then has N rows instead of R
  const float* stoch_noise;       // [I, H, R, S]
  const float* action_noise;      // [I, H, R, A], or null for tanh(mean)
  float *mean, *stddev;           // [N, P, Z], the distribution to start from; the last one afterwards
  float* values;                  // [I, N, G]
  std::int64_t* chosen;           // [I, N, M], best first, -1 where absent
};

// The networks' heads are reward, value and, where there is one, discount. Everything of a start state happens on one
// thread, so that threads never wait for each other; a single state (acting) is planned by all threads together. Results
// do not depend on their number. They equal those of the
// parts (imagine_heads, lambda_return, select_elites) to the bit where a candidate's value is its lambda-return and the
// discount is a constant, and closely elsewhere.
void plan(const Kernels& kernels, const Networks& networks, const PlanCall& call, std::int64_t threads);

}  // namespace lsp_fast
