#include "ops/plan.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <optional>
#include <vector>

#include "ops/lambda_return.hpp"
#include "ops/select_elites.hpp"
#include "parallel.hpp"

namespace lsp_fast {

namespace {

// Weights from which on a state is worth a team: a plan then takes long enough for waking it and for meeting some hundred
// times, now and then on a core that is not free. Measured at 270,000, it saves a quarter of the time.
constexpr std::int64_t kTeamWeights = 100'000;

// Tiles of one state from which on an iteration takes too long to let a signal wait for its end.
constexpr std::int64_t kLongPiece = 64;

// States that a thread plans at a time: those of a tile, or of several ones where a tile would be left half empty (17
// candidates); and no more than leave something for every thread.
std::int64_t states_together(const Kernels& kernels, std::int64_t candidates, std::int64_t most) {
  const auto vector = kernels.rows_per_tile / 3;
  auto states = std::max<std::int64_t>(1, kernels.rows_per_tile / candidates);
  for (; states < most; ++states) {
    const auto rows = states * candidates, whole = (rows + vector - 1) / vector * vector;
    if (20 * rows >= 19 * whole) break;
  }
  return std::min(states, most);
}

// States [first(i), first(i + 1)) are piece i's: as many as `together` at most, and the larger pieces first. There are more
// pieces than that takes where threads would otherwise get unequal shares (11 pieces, two threads).
class Pieces {
 public:
  Pieces(const Kernels& kernels, std::int64_t states, std::int64_t candidates, std::int64_t together, std::int64_t threads)
      : states_(states), count_((states + together - 1) / together) {
    const auto vector = kernels.rows_per_tile / 3;
    // Vectors of rows that the busiest thread computes.
    const auto busiest = [&](const Pieces& pieces) {
      std::int64_t sum = 0;
      for (std::int64_t i = 0; i < pieces.count_; i += threads) {
        sum += ((pieces.first(i + 1) - pieces.first(i)) * candidates + vector - 1) / vector;
      }
      return sum;
    };
    const Pieces even(states, std::min(states, (count_ + threads - 1) / threads * threads));
    if (busiest(even) < busiest(*this)) *this = even;
  }

  std::int64_t count() const { return count_; }
  std::int64_t first(std::int64_t i) const { return states_ / count_ * i + std::min(i, states_ % count_); }

 private:
  Pieces(std::int64_t states, std::int64_t count) : states_(states), count_(count) {}
  std::int64_t states_, count_;
};

std::size_t size(std::int64_t count) { return static_cast<std::size_t>(count); }

// One call's work, step by step. Of one iteration are: `plans` [N, G, P, W] and `by_step` [P, R, W], the same numbers in
// two orders; `outputs` [heads, H, R], what the rollouts said; `discounts` and `returns` [H, R].
class Plan {
 public:
  Plan(const Kernels& kernels, const Networks& networks, const PlanCall& call)
      : kernels_(kernels),
        networks_(networks),
        call_(call),
        rows_(call.states * call.candidates),
        width_(networks.plan_width()),
        plans_(size(rows_ * call.plan_length * width_)),
        by_step_(plans_.size()),
        outputs_(size(networks.head_count * call.steps * rows_)),
        discounts_(size(call.steps * rows_)),
        returns_(discounts_.size()) {}

  // Room for the noise of one state's candidates, where it is drawn here.
  std::vector<float> room() const {
    return std::vector<float>(call_.philox ? size(call_.plan_length * width_ * call_.candidates) : 0);
  }

  // The candidates of states [first, last).
  void draw(std::int64_t iteration, std::int64_t first, std::int64_t last, std::vector<float>& drawn) {
    const auto G = call_.candidates, P = call_.plan_length, numbers = P * width_;
    for (std::int64_t n = first; n < last; ++n) {
      const float* mean = call_.mean + n * numbers;
      const float* stddev = call_.stddev + n * numbers;
      const float* noise = drawn.data();  // [P W, G] if drawn here, else [G, P W]
      std::int64_t across = 1, down = G;
      if (call_.philox) {
        kernels_.normals(*call_.philox, kCandidateStream, static_cast<std::uint32_t>(iteration), n * G, G, 1, numbers,
                         drawn.data());
      } else {
        noise = call_.candidate_noise + (iteration * rows_ + n * G) * numbers;
        across = numbers;
        down = 1;
      }
      for (std::int64_t g = 0; g < G; ++g) {
        for (std::int64_t p = 0; p < P; ++p) {
          for (std::int64_t w = 0; w < width_; ++w) {
            const auto at = p * width_ + w;
            float number = mean[at] + stddev[at] * noise[g * across + at * down];
            number = number < -call_.clip ? -call_.clip : number > call_.clip ? call_.clip : number;
            plans_[size((n * G + g) * numbers + at)] = number;
            by_step_[size((p * rows_ + n * G + g) * width_ + w)] = number;
          }
        }
      }
    }
  }

  // Rolls rows [first, last) out; whether the team held together.
  bool roll_out(std::int64_t iteration, std::int64_t first, std::int64_t last, float* scratch, const Team& team) {
    const auto H = call_.steps;
    Rollouts rollouts{};
    rollouts.rows = rows_;
    rollouts.steps = H;
    rollouts.plan_length = call_.plan_length;
    rollouts.skill_length = call_.skill_length;
    rollouts.group = call_.candidates;
    rollouts.noise_group = call_.shared_noise ? call_.candidates : 1;
    rollouts.sample = call_.sample && !call_.means;
    rollouts.stoch = call_.stoch;
    rollouts.deter = call_.deter;
    rollouts.plans = by_step_.data();
    rollouts.philox = call_.means ? nullptr : call_.philox;
    rollouts.first_step = iteration * H;
    if (!call_.philox && !call_.means) {
      const auto before = iteration * H * (rows_ / rollouts.noise_group);
      rollouts.stoch_noise = call_.stoch_noise + before * networks_.stoch;
      if (call_.sample) rollouts.action_noise = call_.action_noise + before * networks_.action;
    }
    rollouts.outputs = outputs_.data();
    return kernels_.run(networks_, rollouts, first, last, scratch, team);
  }

  // Value the candidates of states [first, last) and refit their distributions to the elites.
  void refit(std::int64_t iteration, std::int64_t first, std::int64_t last) {
    const auto G = call_.candidates, numbers = call_.plan_length * width_;
    float* values = call_.values + iteration * rows_;
    evaluate(first * G, last * G, values);
    float* mean = call_.mean + first * numbers;
    float* stddev = call_.stddev + first * numbers;
    // A state's distribution is read before it is written.
    select_elites<float>({last - first, G, numbers, call_.elites}, values + first * G,
                         plans_.data() + first * G * numbers, mean, stddev, call_.floor, mean, stddev,
                         call_.chosen + (iteration * call_.states + first) * call_.elites);
    for (float* at = stddev; at < stddev + (last - first) * numbers; ++at) {
      if (*at < call_.std_min) *at = call_.std_min;
    }
  }

 private:
  // What rows [first, last) are worth.
  void evaluate(std::int64_t first, std::int64_t last, float* values) {
    const auto H = call_.steps, count = last - first;
    const float* reward = outputs_.data() + first;
    const float* value = call_.has_value ? reward + H * rows_ : nullptr;
    const float* logits = outputs_.data() + first + (networks_.head_count - 1) * H * rows_;
    float* discount = discounts_.data() + first;
    for (std::int64_t t = 0; t < H; ++t) {
      for (std::int64_t i = t * rows_; i < t * rows_ + count; ++i) {
        discount[i] = call_.has_discount ? 1.0f / (1.0f + std::exp(-logits[i])) : static_cast<float>(call_.gamma);
      }
    }
    const float* last_value = value ? value + (H - 1) * rows_ : nullptr;
    if (!call_.sum) {
      float* returns = returns_.data() + first;
      lambda_return<float>(H - 1, count, rows_, reward, value, discount, last_value, call_.lam, returns);
      std::copy_n(returns, count, values + first);
      return;
    }
    for (std::int64_t i = 0; i < count; ++i) {
      float weight = 1.0f, total = 0.0f;
      for (std::int64_t t = 0; t < H; ++t) {
        total += weight * reward[t * rows_ + i];
        weight *= discount[t * rows_ + i];
      }
      values[first + i] = value ? total + weight * last_value[i] : total;
    }
  }

  const Kernels& kernels_;
  const Networks& networks_;
  const PlanCall& call_;
  const std::int64_t rows_, width_;
  std::vector<float> plans_, by_step_, outputs_, discounts_, returns_;
};

std::vector<float> copied(const float* from, std::int64_t count) {
  return from ? std::vector<float>(from, from + count) : std::vector<float>();
}

// One state's plan by a team, of which one that comes back late may still read and write all that is here: nothing of it
// is the caller's. Only member 0, the caller, touches the distribution and what is told of the plan.
class TeamPlan {
 public:
  TeamPlan(const Kernels& kernels, const Networks& networks, const PlanCall& call, std::int64_t members)
      : networks_(networks),
        call_(call),
        stoch_(copied(call.stoch, networks.stoch)),
        deter_(copied(call.deter, networks.deter)),
        stoch_noise_(copied(call.stoch_noise, rollouts() * networks.stoch)),
        action_noise_(copied(call.action_noise, rollouts() * networks.action)),
        plan_(kernels, networks_, call_),
        drawn_(plan_.room()),
        shared_(buffers_of(networks, kernels)) {
    call_.stoch = stoch_.data();
    call_.deter = deter_.data();
    call_.stoch_noise = stoch_noise_.data();
    call_.action_noise = action_noise_.data();
    call_.stop = nullptr;
    if (call.philox) {
      philox_ = *call.philox;
      call_.philox = &philox_;
    }
    for (std::int64_t i = 0; i < members; ++i) scratch_.push_back(scratch_of(networks, kernels));
  }

  std::int64_t iteration = 0;  // that the caller is at

  void begin(std::int64_t members) {
    members_ = members;
    barrier_.emplace(members);
  }

  // Whether the team held to the end; `stop` is the caller's.
  template <typename Stop>
  bool work(std::int64_t member, const Stop& stop) {
    const Team team{member, members_, Barrier::wait_at, &*barrier_, shared_.data()};
    for (std::int64_t i = 0; i < call_.iterations; ++i) {
      if (member == 0) {
        iteration = i;
        if (stop()) stopped_.store(true, std::memory_order_relaxed);
        plan_.draw(i, 0, 1, drawn_);
      }
      if (!barrier_->wait()) return false;
      if (stopped_.load(std::memory_order_relaxed)) return true;
      if (!plan_.roll_out(i, 0, call_.candidates, scratch_[size(member)].data(), team)) return false;
      if (member == 0) plan_.refit(i, 0, 1);
    }
    return true;
  }

 private:
  // Of all iterations and steps, with noise of their own.
  std::int64_t rollouts() const {
    if (call_.philox || call_.means) return 0;
    return call_.iterations * call_.steps * (call_.shared_noise ? 1 : call_.candidates);
  }

  const Networks networks_;
  PlanCall call_;
  Philox philox_{};
  std::vector<float> stoch_, deter_, stoch_noise_, action_noise_;
  Plan plan_;
  std::vector<float> drawn_;
  Block shared_;
  std::vector<Block> scratch_;
  std::optional<Barrier> barrier_;
  std::int64_t members_ = 1;
  std::atomic<bool> stopped_{false};
};

}  // namespace

bool plan(const Kernels& kernels, const Networks& networks, const PlanCall& call, std::int64_t threads) {
  const auto N = call.states, G = call.candidates, tile = kernels.rows_per_tile;
  Plan work(kernels, networks, call);
  std::atomic<bool> stopped{false};
  const auto ask = [&] {
    if (call.stop && call.stop()) stopped.store(true, std::memory_order_relaxed);
  };

  // What every thread needs is there before one wakes, so that none can fail.
  struct Room {
    Block scratch, buffers;
    std::unique_ptr<std::vector<float>> drawn;
  };
  const auto rooms_for = [&](std::int64_t count) {
    std::vector<Room> rooms;
    for (std::int64_t i = 0; i < std::max<std::int64_t>(1, count); ++i) {
      rooms.push_back({scratch_of(networks, kernels), buffers_of(networks, kernels),
                       std::make_unique<std::vector<float>>(work.room())});
    }
    return rooms;
  };
  std::int64_t begun = 0;  // the iteration from which on the caller goes on alone
  if (N == 1 && G <= tile && call.weights && networks.weights >= kTeamWeights) {
    if (const auto members = team_members(threads); members > 1) {
      const auto job = std::make_shared<TeamPlan>(kernels, networks, call, members);
      const auto held = run_team(
          members, [&job](std::int64_t came) { job->begin(came); },
          [job, ask, &stopped](std::int64_t member) { return job->work(member, [&] { return ask(), stopped.load(); }); });
      if (held) return !stopped;
      begun = job->iteration;
    }
    threads = 1;
  }

  threads = std::min(threads, most_threads());
  const auto together = states_together(kernels, G, std::max<std::int64_t>(1, (N + threads - 1) / threads));
  const Pieces split(kernels, N, G, together, threads);
  const auto pieces = split.count();
  // An iteration's rollouts are shared; also where a piece is so long that a signal would wait for it.
  if ((pieces < threads && N * G > tile) || (pieces <= threads && G > kLongPiece * tile)) {
    auto drawn = work.room();
    const auto rooms = rooms_for(threads);
    const auto rows = rows_at_a_time(kernels, N * G, threads), tiles = (N * G + rows - 1) / rows;
    for (std::int64_t i = 0; i < call.iterations && !stopped; ++i) {
      work.draw(i, 0, N, drawn);
      std::atomic<std::int64_t> taken{0};
      run_together(std::min(threads, tiles), [&](std::int64_t worker) {
        const auto& mine = rooms[size(worker)];
        for (std::int64_t piece; (piece = taken++) < tiles && !stopped;) {
          if (worker == 0) ask();
          work.roll_out(i, piece * rows, std::min((piece + 1) * rows, N * G), mine.scratch.data(),
                        Team{0, 1, nullptr, nullptr, mine.buffers.data()});
        }
      });
      if (!stopped) work.refit(i, 0, N);
    }
    return !stopped;
  }
  const auto rooms = rooms_for(std::min(threads, pieces));
  std::atomic<std::int64_t> taken{0};
  run_together(std::min(threads, pieces), [&](std::int64_t worker) {
    auto& mine = rooms[size(worker)];
    for (std::int64_t piece; (piece = taken++) < pieces;) {
      const auto first = split.first(piece), last = split.first(piece + 1);
      for (std::int64_t i = begun; i < call.iterations; ++i) {
        if (worker == 0) ask();
        if (stopped) return;
        work.draw(i, first, last, *mine.drawn);
        work.roll_out(i, first * G, last * G, mine.scratch.data(), Team{0, 1, nullptr, nullptr, mine.buffers.data()});
        work.refit(i, first, last);
      }
    }
  });
  return !stopped;
}

}  // namespace lsp_fast
