#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "ops/imagine_heads.hpp"

namespace lsp_fast {

// One whole plan: I iterations of the cross-entropy method over G candidates from each of N start states, each rolled
// out H steps. A candidate is P skills, or where the networks have no actor P actions, of W numbers. Row-major and dense;
// a state's candidates lie side by side, R = N * G.
struct PlanCall {
  std::int64_t states, candidates, elites, plan_length, iterations, steps, skill_length;
  double gamma, lam, floor;
  float std_min;                  // of a refit's standard deviation, 0 without one
  float clip;                     // bound of a candidate's numbers, infinite without one
  bool sum;                       // of discounted rewards and the last value; else the lambda-return at the first state
  bool has_value, has_discount;   // the heads are reward, value where there is one, discount where there is one
  bool sample;                    // actions; else tanh(mean)
  bool means;                     // for latents and, instead of samples, actions: rollouts then have no noise
  const float *stoch, *deter;     // [N, S], [N, D]
  bool shared_noise;              // by a state's candidates: the rollouts' noise then has N rows instead of R
  const float* candidate_noise;   // [I, N, G, P, W]
  const float* stoch_noise;       // [I, H, R, S]
  const float* action_noise;      // [I, H, R, A], where actions are sampled
  const Philox* philox;           // where not null, all noise is this generator's
  float *mean, *stddev;           // [N, P, W], the distribution to start from; the last one afterwards
  float* values;                  // [I, N, G]
  std::int64_t* chosen;           // [I, N, M], best first, -1 where absent
  std::function<bool()> stop;     // asked by the calling thread now and then; true ends the plan early
  std::shared_ptr<const void> weights;  // what the networks' layers point to; without it no team plans
};

// Start states are planned side by side, each on one thread from beginning to end, so that threads never wait for each
// other; where there are too few of them the threads share the rollouts of an iteration, and those of a single tile
// (acting) the outputs of every layer: a team, without which the caller goes on where a member is not there in time. Results do not depend on the threads' number. They equal those of the parts
// (imagine_heads, lambda_return, select_elites) to the bit where a candidate's value is its lambda-return and the discount
// is a constant, and closely elsewhere. Returns false where it was stopped.
bool plan(const Kernels& kernels, const Networks& networks, const PlanCall& call, std::int64_t threads);

}  // namespace lsp_fast
