#include "ops/plan.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "ops/lambda_return.hpp"
#include "ops/select_elites.hpp"
#include "parallel.hpp"

namespace lsp_fast {

namespace {

// Weights (2 MB) from which on a state is worth a team: they no longer fit beside a core, so that sharing them pays for
// meeting some hundred times a plan, now and then on a core that is not free.
constexpr std::int64_t kTeamWeights = 500'000;

// Of one iteration. `plans` [N, G, P, Z] and `skills` [P, R, Z] are the same numbers
// in two orders; `outputs` [heads, H, R] is what the rollouts said; `discounts` and `returns` [H, R] are scratch.
struct Buffers {
  std::vector<float> plans, skills, outputs, discounts, returns;
};

void draw(const PlanCall& call, std::int64_t width, std::int64_t first, std::int64_t last, const float* noise,
          Buffers& buffers) {
  const auto G = call.candidates, P = call.plan_length, rows = call.states * G;
  for (std::int64_t n = first; n < last; ++n) {
    const float* mean = call.mean + n * P * width;
    const float* stddev = call.stddev + n * P * width;
    for (std::int64_t row = n * G; row < (n + 1) * G; ++row) {
      for (std::int64_t p = 0; p < P; ++p) {
        for (std::int64_t z = 0; z < width; ++z) {
          const auto at = p * width + z;
          const float number = mean[at] + stddev[at] * noise[row * P * width + at];
          buffers.plans[static_cast<std::size_t>(row * P * width + at)] = number;
          buffers.skills[static_cast<std::size_t>((p * rows + row) * width + z)] = number;
        }
      }
    }
  }
}

// What rows [first, last) are worth.
void evaluate(const PlanCall& call, bool discount_head, std::int64_t first, std::int64_t last, Buffers& buffers,
              float* values) {
  const auto H = call.steps, rows = call.states * call.candidates, count = last - first;
  const float* reward = buffers.outputs.data() + first;
  const float* value = reward + H * rows;
  float* discount = buffers.discounts.data() + first;
  for (std::int64_t t = 0; t < H; ++t) {
    const float* logit = value + (H + t) * rows;
    for (std::int64_t i = 0; i < count; ++i) {
      discount[t * rows + i] =
          discount_head ? 1.0f / (1.0f + std::exp(-logit[i])) : static_cast<float>(call.gamma);
    }
  }
  const float* last_value = value + (H - 1) * rows;
  if (!call.sum) {
    float* returns = buffers.returns.data() + first;
    lambda_return<float>(H - 1, count, rows, reward, value, discount, last_value, call.lam, returns);
    std::copy_n(returns, count, values + first);
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    float weight = 1.0f, total = 0.0f;
    for (std::int64_t t = 0; t < H; ++t) {
      total += weight * reward[t * rows + i];
      weight *= discount[t * rows + i];
    }
    values[first + i] = total + weight * last_value[i];
  }
}

}  // namespace

void plan(const Kernels& kernels, const Networks& networks, const PlanCall& call, std::int64_t threads) {
  const auto N = call.states, G = call.candidates, H = call.steps, R = N * G, P = call.plan_length;
  const auto S = networks.stoch, A = networks.action, Z = networks.skill;
  const auto size = [](std::int64_t count) { return static_cast<std::size_t>(count); };
  Buffers buffers;
  buffers.plans.resize(size(R * P * Z));
  buffers.skills.resize(size(R * P * Z));
  buffers.outputs.resize(size(networks.head_count * H * R));
  buffers.discounts.resize(size(H * R));
  buffers.returns.resize(size(H * R));

  // States [first, last) from beginning to end, by one thread or by the members of a team.
  const auto work = [&](std::int64_t first, std::int64_t last, const Team& team, float* scratch) {
    const auto meet = [&team] {
      if (team.members > 1) team.wait(team.barrier);
    };
    for (std::int64_t i = 0; i < call.iterations; ++i) {
      if (team.member == 0) draw(call, Z, first, last, call.candidate_noise + i * R * P * Z, buffers);
      meet();
      Rollouts rollouts{};
      rollouts.rows = R;
      rollouts.steps = H;
      rollouts.plan_length = P;
      rollouts.skill_length = call.skill_length;
      rollouts.group = G;
      rollouts.stoch = call.stoch;
      rollouts.deter = call.deter;
      rollouts.skills = buffers.skills.data();
      rollouts.noise_group = call.shared_noise ? G : 1;
      const auto noise_rows = R / rollouts.noise_group;
      rollouts.stoch_noise = call.stoch_noise + i * H * noise_rows * S;
      rollouts.action_noise = call.action_noise ? call.action_noise + i * H * noise_rows * A : nullptr;
      rollouts.outputs = buffers.outputs.data();
      kernels.run(networks, rollouts, first * G, last * G, scratch, team);
      if (team.member != 0) continue;  // the run ended with a meeting
      float* values = call.values + i * R;
      evaluate(call, networks.head_count > 2, first * G, last * G, buffers, values);
      float* mean = call.mean + first * P * Z;
      float* stddev = call.stddev + first * P * Z;
      // A state's distribution is read before it is written.
      select_elites<float>({last - first, G, P * Z, call.elites}, values + first * G,
                           buffers.plans.data() + first * G * P * Z, mean, stddev, call.floor, mean, stddev,
                           call.chosen + (i * N + first) * call.elites);
    }
  };

  if (N == 1 && threads > 1 && networks.weights >= kTeamWeights) {  // acting: each thread has a share of every layer
    const auto shared = buffers_of(networks, kernels);
    std::vector<Block> scratch;
    for (std::int64_t i = 0; i < threads; ++i) scratch.push_back(scratch_of(networks, kernels));
    std::int64_t count = 1;
    std::unique_ptr<Barrier> barrier;
    run_team(
        threads,
        [&](std::int64_t members) {
          count = members;
          barrier = std::make_unique<Barrier>(members);
        },
        [&](std::int64_t member) {
          const Team team{member, count, Barrier::wait_at, barrier.get(), shared.data()};
          work(0, 1, team, scratch[size(member)].data());
        });
    return;
  }
  parallel(threads, N, [&](std::int64_t first, std::int64_t last) {
    const auto scratch = scratch_of(networks, kernels), own = buffers_of(networks, kernels);
    work(first, last, Team{0, 1, nullptr, nullptr, own.data()}, scratch.data());
  });
}

}  // namespace lsp_fast
