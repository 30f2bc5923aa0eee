#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace lsp_fast {

// What matrix products multiply; they are always summed in fp32, in which states and everything elementwise stay too.
enum class Precision { fp32, bf16 };

// Numbers are kept in units of 32 bits: one fp32 number, or two bf16 ones of neighbouring inputs, the first one below. A
// part of the inputs (the actions, the deterministic state ...) begins with a unit of its own.
inline std::int64_t units(Precision precision, std::int64_t width) {
  return precision == Precision::bf16 ? (width + 1) / 2 : width;
}

// A linear layer packed for the kernels: panels of 8 outputs, [ceil(out / 8)][units][8], zeros where an input or output is
// missing.
struct Layer {
  const float* weight;
  const float* bias;  // [ceil(out / 8) * 8]
  std::int64_t units;
  std::int64_t out;
  // The layer that is computed after this one, so that its weights can be asked for in time.
  const float* next_weight;
  std::int64_t next_units, next_panels;
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
  Precision precision;
  std::int64_t stoch, deter, action, skill;
  Layer prior_in, gru_input, gru_hidden, prior_hidden, prior_out;
  float prior_min_std;
  bool has_actor;  // else plans are actions
  Mlp actor;
  float actor_mean_scale, actor_std_shift, actor_min_std;
  Mlp heads[kMaxHeads];
  std::int64_t head_count;
  std::int64_t widest;   // outputs of the widest layer, padded to whole panels
  std::int64_t weights;  // units of all layers

  std::int64_t plan_width() const { return has_actor ? skill : action; }
};

// Tells every layer which one comes after it; the last one's is the next step's first.
void link(Networks& networks);

// Packs layers, and keeps them.
class Packer {
 public:
  explicit Packer(Precision precision) : precision_(precision) {}

  // Columns of a weight that are one part of its inputs.
  struct Part {
    std::int64_t first, width;
  };

  // weight [out, in] and bias [out], row-major; `parts` in the order in which the kernels have them.
  Layer pack(const float* weight, const float* bias, std::int64_t in, std::int64_t out, const std::vector<Part>& parts);

  std::int64_t widest() const { return widest_; }
  std::int64_t weights() const { return weights_; }

 private:
  Precision precision_;
  std::vector<std::unique_ptr<float[]>> blocks_;
  std::int64_t widest_ = 0, weights_ = 0;
};

// Rounded to the nearest, ties to even; NaN stays NaN.
std::uint16_t to_bf16(float x);

}  // namespace lsp_fast
