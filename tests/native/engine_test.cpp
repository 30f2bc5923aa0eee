// The engine without Python, so that it runs under sanitizers (`make sanitize`). Whether its numbers are right the tests in
// tests/ops say; here they are compared with each other: whatever shares the work, the bits are the same. Every array is a
// vector of exactly the numbers that it must have.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "networks.hpp"
#include "ops/imagine_heads.hpp"
#include "ops/plan.hpp"
#include "parallel.hpp"

using namespace lsp_fast;
using namespace lsp_fast::tests;

namespace {

using lsp_fast::tests::same;  // Result's would hide it

using std::int64_t;
using Floats = std::vector<float>;

constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kUnwritten = -7.0f;

// What a test may change of the usual sizes.
struct Setup {
  explicit Setup(Precision which = Precision::fp32) : precision(which) {
    call.states = 3, call.candidates = 6, call.elites = 2, call.plan_length = 2, call.iterations = 2, call.steps = 4;
    call.skill_length = 2, call.gamma = 0.99, call.lam = 0.95, call.floor = 1e-6, call.clip = kInfinity;
    call.has_value = call.sample = true;
  }

  Precision precision;
  int64_t stoch = 5, deter = 13, action = 3, skill = 2, hidden = 19, units = 11, layers = 2, heads = 2;
  bool actor = true, philox = false;
  double weight = 1.0;  // times one of the transition's weights
  PlanCall call{};
};

// One state, and enough weights for a team in either precision.
void team(Setup& s) {
  s.stoch = 7, s.deter = 181, s.hidden = s.units = 421;
  s.call.states = s.call.plan_length = 1, s.call.steps = 2;
}

// Random networks.
struct Model {
  explicit Model(const Setup& s) : packer(s.precision) {
    const auto S = net.stoch = s.stoch, D = net.deter = s.deter, A = net.action = s.action;
    net.precision = s.precision;
    net.skill = s.actor ? s.skill : 0;
    net.prior_in = layer(S + A, s.hidden, {{S, A}, {0, S}}, s.weight);
    net.gru_input = layer(s.hidden, 3 * D, {{0, s.hidden}});
    net.gru_hidden = layer(D, 3 * D, {{0, D}});
    net.prior_hidden = layer(D, s.hidden, {{0, D}});
    net.prior_out = layer(s.hidden, 2 * S, {{0, s.hidden}});
    net.prior_min_std = net.actor_min_std = 0.1f;
    net.has_actor = s.actor;
    net.actor_mean_scale = 5.0f;
    if (s.actor) net.actor = mlp(s, {{0, S}, {S, D}, {S + D, net.skill}}, 2 * A);
    for (net.head_count = 0; net.head_count < s.heads;) net.heads[net.head_count++] = mlp(s, {{0, S}, {S, D}}, 1);
    net.widest = packer.widest();
    net.weights = packer.weights();
    link(net);
  }

  Layer layer(int64_t in, int64_t out, const std::vector<Packer::Part>& parts, double first = 1.0) {
    auto weight = numbers<float>(in * out, 1.0 / std::sqrt(static_cast<double>(in)));
    weight[0] *= static_cast<float>(first);
    return packer.pack(weight.data(), numbers<float>(out, 0.3).data(), in, out, parts);
  }

  Mlp mlp(const Setup& s, std::vector<Packer::Part> parts, int64_t out) {
    Mlp net{};
    int64_t in = 0;
    for (const auto& part : parts) in += part.width;
    for (; net.count < s.layers; parts = {{0, in = s.units}}) net.layers[net.count++] = layer(in, s.units, parts);
    net.layers[net.count++] = layer(in, out, parts);
    return net;
  }

  Packer packer;
  Networks net{};
};

struct Result {
  Floats mean, stddev, values;
  std::vector<int64_t> chosen;
  bool done;
};

bool same(const Result& a, const Result& b) {
  return same(a.mean, b.mean) && same(a.stddev, b.stddev) && same(a.values, b.values) && same(a.chosen, b.chosen);
}

bool written(const Floats& numbers) {
  return std::all_of(numbers.begin(), numbers.end(), [](float x) { return std::isfinite(x) && x != kUnwritten; });
}

// A plan's networks and arrays.
struct Problem {
  explicit Problem(const Setup& s) : owned(std::make_shared<Model>(s)), model(*owned), call(s.call), drawn(s.philox) {
    const auto N = call.states, G = call.candidates, width = call.plan_length * model.net.plan_width();
    const auto steps = call.iterations * call.steps * (call.shared_noise ? N : N * G);
    stoch = numbers<float>(N * s.stoch);
    deter = numbers<float>(N * s.deter, 0.5);
    mean = numbers<float>(N * width);
    stddev = Floats(mean.size(), 0.5f);
    if (drawn) return;
    candidate_noise = numbers<float>(call.iterations * N * G * width);
    stoch_noise = numbers<float>(steps * s.stoch);
    if (call.sample) action_noise = numbers<float>(steps * s.action);
  }

  Result solve(const Kernels& kernels, int64_t threads) const {
    const auto N = call.states, I = call.iterations;
    Result result{mean, stddev, Floats(static_cast<std::size_t>(I * N * call.candidates), kUnwritten),
                  std::vector<int64_t>(static_cast<std::size_t>(I * N * call.elites), -7), false};
    PlanCall whole = call;
    whole.weights = owned;
    whole.stoch = stoch.data(), whole.deter = deter.data();
    whole.candidate_noise = candidate_noise.data(), whole.stoch_noise = stoch_noise.data();
    whole.action_noise = call.sample ? action_noise.data() : nullptr;
    whole.philox = drawn ? &philox : nullptr;
    whole.mean = result.mean.data(), whole.stddev = result.stddev.data();
    whole.values = result.values.data(), whole.chosen = result.chosen.data();
    result.done = plan(kernels, model.net, whole, threads);
    return result;
  }

  std::shared_ptr<Model> owned;
  Model& model;
  PlanCall call;
  bool drawn;  // by Philox, that is
  Philox philox{{7, 0xffffffffu}};
  Floats stoch, deter, mean, stddev, candidate_noise, stoch_noise, action_noise;
};

const struct {
  const char* name;
  void (*change)(Setup&);
} kCases[] = {
    {"as usual", [](Setup&) {}},
    {"no states", [](Setup& s) { s.call.states = 0; }},
    {"seventeen states", [](Setup& s) { s.call.states = 17; }},
    {"seventeen rows", [](Setup& s) { s.call.states = 1, s.call.candidates = 17; }},
    {"one candidate", [](Setup& s) { s.call.candidates = s.call.elites = 1; }},
    {"H not a multiple of K", [](Setup& s) { s.call.steps = 7, s.call.skill_length = 3, s.call.plan_length = 3; }},
    {"K = 1", [](Setup& s) { s.call.skill_length = 1, s.call.plan_length = 4; }},
    {"the last skill held to the end", [](Setup& s) { s.call.plan_length = 1; }},
    {"tanh(mean)", [](Setup& s) { s.call.sample = false; }},
    {"no hidden layers", [](Setup& s) { s.layers = 0; }},
    {"actions, clipped", [](Setup& s) { s.actor = s.call.sample = false, s.call.clip = 0.5f; }},
    {"one head", [](Setup& s) { s.heads = 1, s.call.has_value = false, s.call.sum = true; }},
    {"one step", [](Setup& s) { s.call.sum = true, s.call.steps = s.call.plan_length = 1; }},
    {"three heads", [](Setup& s) { s.heads = 3, s.call.has_discount = true; }},
    {"three heads, summed", [](Setup& s) { s.heads = 3, s.call.has_discount = s.call.sum = true; }},
    {"shared noise", [](Setup& s) { s.call.shared_noise = true; }},
    {"Philox", [](Setup& s) { s.philox = true; }},
    {"Philox, shared noise", [](Setup& s) { s.philox = s.call.shared_noise = true, s.call.candidates = 13; }},
    {"means", [](Setup& s) { s.call.means = true; }},
    {"means, Philox", [](Setup& s) { s.call.means = s.philox = true, s.call.states = 17; }},
    {"the least spread", [](Setup& s) { s.call.std_min = 0.3f; }},
    {"Philox, actions", [](Setup& s) { s.philox = true, s.actor = s.call.sample = false; }},
    {"many candidates", [](Setup& s) { s.call.states = 1, s.call.candidates = 100; }},
    {"many candidates twice, Philox", [](Setup& s) { s.call.states = 2, s.call.candidates = 101, s.philox = true; }},
    {"a team", team},
    {"a team without noise", [](Setup& s) { team(s), s.call.means = true; }},
    {"a team's tile is full", [](Setup& s) { team(s), s.call.candidates = 48, s.philox = true; }},
};

void plans(const Kernels& kernels, Precision precision) {
  const auto name = context;
  for (const auto& example : kCases) {
    context = name + ", " + example.name;
    Setup setup(precision);
    example.change(setup);
    const Problem problem(setup);
    CHECK(example.change != team || problem.model.net.weights >= 500'000);
    const auto alone = problem.solve(kernels, 1);
    CHECK(alone.done && written(alone.values));
    for (const auto x : alone.mean) CHECK(std::abs(x) <= setup.call.clip);
    for (const auto index : alone.chosen) CHECK(index >= 0 && index < setup.call.candidates);
    for (const int64_t threads : {2, 3, 5, 2, 3}) CHECK(same(problem.solve(kernels, threads), alone));
  }
}

void not_finite(const Kernels& kernels, Precision precision) {
  Setup setup(precision);
  setup.call.states = 4, setup.call.iterations = 1;
  Problem problem(setup);
  const auto clean = problem.solve(kernels, 1);
  for (const float bad : {kInfinity, -kInfinity, kNaN}) {
    problem.stoch[2 * 5] = bad;
    for (const int64_t threads : {1, 2}) {
      const auto spoiled = problem.solve(kernels, threads);
      const auto kept = [](const auto& a, const auto& b) {
        const auto size = a.size() / 4;  // a state's numbers
        return std::equal(a.begin(), a.begin() + 2 * size, b.begin()) && std::equal(a.end() - size, a.end(), b.end() - size);
      };
      CHECK(kept(spoiled.mean, clean.mean) && kept(spoiled.stddev, clean.stddev));
      CHECK(kept(spoiled.values, clean.values) && kept(spoiled.chosen, clean.chosen));
    }
  }
  setup.weight = kNaN;
  const Problem nothing(setup);
  const auto result = nothing.solve(kernels, 3);
  CHECK(same(result.mean, nothing.mean) && same(result.stddev, nothing.stddev));
  CHECK(std::all_of(result.values.begin(), result.values.end(), [](float x) { return std::isnan(x); }));
  CHECK(std::count(result.chosen.begin(), result.chosen.end(), -1) == 4 * 2);
}

void stops(const Kernels& kernels, Precision precision) {
  Setup setups[] = {Setup(precision), Setup(precision), Setup(precision)};  // by states, by rows, by outputs
  setups[1].call.states = 1, setups[1].call.candidates = 100;
  team(setups[2]);
  for (auto& setup : setups) {
    setup.call.iterations = 4;
    Problem problem(setup);
    for (const int64_t threads : {1, 2, 3}) {
      for (const int enough : {1, 2}) {
        int asked = 0;
        problem.call.stop = [&] { return ++asked >= enough; };
        // The others may leave the calling thread nothing to do, and then it does not ask.
        CHECK(problem.solve(kernels, threads).done == (asked < enough));
        CHECK(threads > 1 || asked == enough);
      }
    }
  }
}

// [heads, H, R], on threads of the pool, or by a team of as many members, which surely comes together.
Floats imagine(const Kernels& kernels, const Networks& net, Rollouts call, int64_t threads, bool team = false) {
  Floats outputs(static_cast<std::size_t>(net.head_count * call.steps * call.rows), kUnwritten);
  call.outputs = outputs.data();
  if (!team) {
    imagine_heads(kernels, net, call, threads);
    return outputs;
  }
  const auto buffers = buffers_of(net, kernels);
  Barrier barrier(threads);
  std::vector<std::thread> members;
  for (int64_t i = 0; i < threads; ++i) {
    members.emplace_back([&, i] {
      const auto scratch = scratch_of(net, kernels);
      kernels.run(net, call, 0, call.rows, scratch.data(), {i, threads, Barrier::wait_at, &barrier, buffers.data()});
    });
  }
  for (auto& member : members) member.join();
  return outputs;
}

void imagined(const Kernels& kernels, Precision precision) {
  const Philox philox{{1, 2}};
  constexpr int64_t kMost = 70, kSteps = 3;
  Setup setup(precision);
  setup.call.states = kMost, setup.call.plan_length = 1;
  const Problem problem(setup);
  Floats whole;  // 70 rows, of which Philox' first ones are the same whatever their number
  for (const int64_t rows : {kMost, int64_t{0}, int64_t{1}, int64_t{17}, int64_t{49}}) {
    const auto cut = [rows](const Floats& all) { return Floats(all.begin(), all.begin() + all.size() / kMost * rows); };
    const Floats stoch = cut(problem.stoch), deter = cut(problem.deter), skills = cut(problem.mean);
    const Floats noise = numbers<float>(kSteps * rows * setup.stoch), action = numbers<float>(kSteps * rows * setup.action);
    Rollouts call{rows, kSteps, 1, 2, 1, 1, true, stoch.data(), deter.data(), skills.data(), noise.data(), action.data(),
                  nullptr, 0, nullptr};
    for (const bool drawn : {false, true}) {
      if (drawn) call.stoch_noise = call.action_noise = nullptr, call.philox = &philox;
      const auto alone = imagine(kernels, problem.model.net, call, 1);
      CHECK(written(alone));
      for (const int64_t threads : {2, 3, 5}) {
        for (const bool team : {false, true}) {
          CHECK(same(imagine(kernels, problem.model.net, call, threads, team), alone));
        }
      }
      if (drawn && rows == kMost) whole = alone;
      for (int64_t i = 0; drawn && i < setup.heads * kSteps * rows; ++i) {
        CHECK(alone[i] == whole[i / rows * kMost + i % rows]);
      }
    }
  }
  CHECK(kernels.multiply_add(precision, 3) > 0);
}

void at_the_same_time(const Kernels& kernels) {
  Setup setups[2];
  setups[0].call.states = 9;
  team(setups[1]);
  const Problem problems[] = {Problem(setups[0]), Problem(setups[1])};
  const Result wanted[] = {problems[0].solve(kernels, 1), problems[1].solve(kernels, 1)};
  for (int round = 0; round < 3; ++round) {
    Result got[2];
    std::thread other([&] { got[1] = problems[1].solve(kernels, 2); });
    got[0] = problems[0].solve(kernels, 3);
    other.join();
    CHECK(same(got[0], wanted[0]) && same(got[1], wanted[1]));
  }
}

// Kernels whose members other than the caller are taken away for a while, as a scheduler may do.
std::atomic<int> late{0}, back{0};
const Kernels* late_kernels = nullptr;
bool run_late(const Networks& net, const Rollouts& call, int64_t first, int64_t last, float* scratch, const Team& team) {
  if (team.member != 0) {
    ++late;
    std::this_thread::sleep_for(std::chrono::milliseconds(1000));
  }
  const bool together = late_kernels->run(net, call, first, last, scratch, team);
  if (team.member != 0) ++back;
  return together;
}

void member_taken_away(const Kernels& kernels) {
  static Kernels sleepy;  // for whoever comes back later
  late_kernels = &kernels;
  sleepy = kernels;
  sleepy.run = run_late;
  patience.meeting = std::chrono::milliseconds(20);
  Setup setup;
  team(setup);
  bool without = false;
  {
    const Problem problem(setup);
    const auto wanted = problem.solve(kernels, 1);
    for (int round = 0; round < 300 && !without; ++round) {  // teams may rest for 64
      const auto got = problem.solve(sleepy, 2);
      without = late > back;  // it returned while the member was away
      CHECK(got.done && same(got, wanted));
    }
  }
  CHECK(without);
  // The problem and its weights are gone when the member comes back.
  for (int round = 0; round < 1000 && back < late; ++round) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  CHECK(back == late);
  patience.meeting = std::chrono::seconds(60);
}

void forked(const Kernels& kernels) {
#if defined(__SANITIZE_THREAD__)
  (void)kernels;  // ThreadSanitizer lets no child of several threads make threads
#else
  const Problem problem{Setup()};
  const auto wanted = problem.solve(kernels, 3);  // our threads are there now; a child has none of them
  const auto child = fork();
  if (child == 0) _exit(same(problem.solve(kernels, 3), wanted) ? 0 : 1);
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
#endif
}

}  // namespace

int main() {
  limit_threads(4);  // whatever this machine has
  patience.gathering = patience.meeting = std::chrono::seconds(60);  // however busy it is
  std::vector<const Kernels*> all;
  for (const char* name : {"avx512bf16", "avx512", "avx2", "portable"}) {
    if (const auto* kernels = find_kernels(name)) all.push_back(kernels);
  }
  for (const auto* kernels : all) {
    for (const auto precision : {Precision::fp32, Precision::bf16}) {
      const auto name = std::string(kernels->name) + (precision == Precision::fp32 ? " fp32: " : " bf16: ");
      group(name + "plans", [&] { plans(*kernels, precision); });
      group(name + "NaN and infinities", [&] { not_finite(*kernels, precision); });
      group(name + "stopping", [&] { stops(*kernels, precision); });
      group(name + "rollouts", [&] { imagined(*kernels, precision); });
    }
  }
  ops(all);
  group("two plans at the same time", [&] { at_the_same_time(*all[0]); });
  group("a member taken away", [&] { member_taken_away(*all[0]); });
  pool();
  learner();
  adam();
  group("a forked child", [&] { forked(*all[0]); });
  return failures ? 1 : 0;
}
