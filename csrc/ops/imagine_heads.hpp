#pragma once

#include <cstdint>
#include <memory>

#include "networks.hpp"
#include "philox.hpp"

namespace lsp_fast {

// One call: R rollouts of H steps, `group` of which start in the same state and `noise_group` of which share their noise.
// Row-major and dense: stoch [R / group, S], deter [R / group, D], plans [P, R, W] of skills or actions (each held
// `skill_length` steps, the last one to the end); outputs [heads, H, R]. The noise is stoch_noise [H, R / noise_group, S]
// and action_noise [H, R / noise_group, A], or where `philox` is not null that generator's, from step `first_step` on; with
// neither, latents are the prior's means. An action is a sample, or tanh(mean).
struct Rollouts {
  std::int64_t rows, steps, plan_length, skill_length, group, noise_group;
  bool sample;
  const float *stoch, *deter, *plans, *stoch_noise, *action_noise;
  const Philox* philox;
  std::int64_t first_step;
  float* outputs;
};

// Threads that roll the same rows out together, each computing a share of every layer's outputs. They meet after each
// layer in `wait`, which says whether all have come; a thread alone has none. `buffers` holds kBuffers blocks of widest * rows_per_tile floats, one after
// the other used for a layer's output: what one thread still reads is at least two meetings old when it is written anew.
struct Team {
  std::int64_t member, members;
  bool (*wait)(void*);
  void* barrier;
  float* buffers;
};

constexpr std::int64_t kBuffers = 4;

// One instruction set's kernels, which roll out rows [first, last), `rows_per_tile` of them at a time. A row's results
// depend neither on which others it shares a tile with nor on the size of the team. False where that came apart.
struct Kernels {
  const char* name;
  std::int64_t rows_per_tile;
  bool (*run)(const Networks&, const Rollouts&, std::int64_t first, std::int64_t last, float* scratch, const Team&);

  // Standard normal numbers of one step and stream: [columns][count], of rows first .. first + count - 1, `group` of
  // which share their numbers. The same to the bit on every instruction set.
  void (*normals)(const Philox&, std::uint32_t stream, std::uint32_t step, std::int64_t first, std::int64_t count,
                  std::int64_t group, std::int64_t columns, float* numbers);

  // Multiplies and adds registers again and again, and says how many operations that were: for measuring the
  // processor's peak at that precision.
  double (*multiply_add)(Precision, std::int64_t rounds);
};

// A 64-byte aligned block of floats.
class Block {
 public:
  explicit Block(std::int64_t floats);
  float* data() const { return block_.get(); }

 private:
  struct AlignedFree {
    void operator()(float* p) const;
  };
  std::unique_ptr<float[], AlignedFree> block_;
};

// What a thread's kernels keep to themselves, and what a team shares.
inline Block scratch_of(const Networks& net, const Kernels& kernels) {
  const auto widest = net.stoch > net.action ? net.stoch : net.action;
  const auto state = net.action + net.stoch + net.deter + net.skill;
  const auto rounded = net.precision == Precision::bf16 ? state + 4 : 0;
  return Block((state + widest + rounded) * kernels.rows_per_tile);
}
inline Block buffers_of(const Networks& net, const Kernels& kernels) {
  return Block(kBuffers * net.widest * kernels.rows_per_tile);
}

// Rows to roll out at a time: a tile's, or fewer where that would leave a thread without work.
inline std::int64_t rows_at_a_time(const Kernels& kernels, std::int64_t rows, std::int64_t threads) {
  const auto vector = kernels.rows_per_tile / 3, share = (rows + threads - 1) / threads;
  const auto whole = (share + vector - 1) / vector * vector;
  return whole < kernels.rows_per_tile ? whole : kernels.rows_per_tile;
}

// The best kernels that this processor runs, or those of that name (avx512bf16, avx512, avx2, portable); null where it
// has none.
const Kernels* find_kernels(const char* name);

// Imagine without gradients and apply every head at every step, on up to `threads` threads.
void imagine_heads(const Kernels& kernels, const Networks& networks, const Rollouts& rollouts, std::int64_t threads);

}  // namespace lsp_fast
