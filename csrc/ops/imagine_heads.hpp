#pragma once

#include <cstdint>
#include <memory>

namespace lsp_fast {

// A linear layer packed for the kernels: panels of 8 outputs, [ceil(out / 8)][in][8], zeros where outputs are missing.
struct Layer {
  const float* weight;
  const float* bias;  // [ceil(out / 8) * 8]
  std::int64_t in;
  std::int64_t out;
};

constexpr std::int64_t kPanel = 8;
constexpr std::int64_t kMaxLayers = 16;

// Hidden layers with ELU, then a linear one.
struct Mlp {
  Layer layers[kMaxLayers];
  std::int64_t count;
};

constexpr std::int64_t kMaxHeads = 4;

// Everything a rollout computes with. A state lies as [a, s, h, z], so that every concatenation is a view: the columns of
// prior_in are [a, s], those of the actor [s, h, z], those of a head [s, h].
struct Networks {
  std::int64_t stoch, deter, action, skill;
  Layer prior_in, gru_input, gru_hidden, prior_hidden, prior_out;
  float prior_min_std;
  Mlp actor;
  float actor_mean_scale, actor_std_shift, actor_min_std;
  Mlp heads[kMaxHeads];
  std::int64_t head_count;
  std::int64_t widest;   // outputs of the widest layer, padded to whole panels
  std::int64_t weights;  // numbers in all layers
};

// One call: R rollouts of H steps, `group` of which start in the same state and `noise_group` of which share their noise.
// Row-major and dense: stoch [R / group, S], deter [R / group, D], skills [P, R, Z] (each held `skill_length` steps, the
// last one to the end), stoch_noise [H, R / noise_group, S], action_noise [H, R / noise_group, A] or null for tanh(mean);
// outputs [heads, H, R].
struct Rollouts {
  std::int64_t rows, steps, plan_length, skill_length, group, noise_group;
  const float *stoch, *deter, *skills, *stoch_noise, *action_noise;
  float* outputs;
};

// Threads that roll the same rows out together, each computing a share of every layer's outputs. They meet after each
// layer in `wait`; a thread alone has none. `buffers` holds kBuffers blocks of widest * rows_per_tile floats, one after
// the other used for a layer's output: what one thread still reads is at least two meetings old when it is written anew.
struct Team {
  std::int64_t member, members;
  void (*wait)(void*);
  void* barrier;
  float* buffers;
};

constexpr std::int64_t kBuffers = 4;

// One instruction set's kernels, which roll out rows [first, last), `rows_per_tile` of them at a time. A row's results
// depend neither on which others it shares a tile with nor on the size of the team.
struct Kernels {
  const char* name;
  std::int64_t rows_per_tile;
  void (*run)(const Networks&, const Rollouts&, std::int64_t first, std::int64_t last, float* scratch, const Team&);
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
  return Block((net.action + net.stoch + net.deter + net.skill + widest) * kernels.rows_per_tile);
}
inline Block buffers_of(const Networks& net, const Kernels& kernels) {
  return Block(kBuffers * net.widest * kernels.rows_per_tile);
}

// The best kernels that this processor runs, or those of that name (avx512, avx2, portable); null where it has none.
const Kernels* find_kernels(const char* name);

// Imagine without gradients and apply every head at every step, on up to `threads` threads.
void imagine_heads(const Kernels& kernels, const Networks& networks, const Rollouts& rollouts, std::int64_t threads);

}  // namespace lsp_fast
