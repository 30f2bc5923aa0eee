// The kernels of one instruction set. A translation unit defines LSP_WIDTH (floats in a vector register), LSP_OUTPUTS
// (outputs of a panel computed together), LSP_OUTPUTS_1 (the same where a tile is one vector), LSP_NAME and LSP_KERNELS (the
// names of what it exports), and includes this file. Nothing here may instantiate a library template: the linker could pick
// that copy for processors that lack the instructions.
//
// Rollouts lie in vector lanes and features follow one another: an activation is [features][tile], so that all of the
// elementwise work is vectorised too.
#include "ops/imagine_heads.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "simd/vectors.inl"
#include "simd/layers.inl"
#include "simd/normals.inl"

namespace lsp_fast {
namespace {

// States are every member's own: what is not a matrix product all compute alike, which costs less than meeting.
// Where the team comes apart it ends at once, without another look at what is shared, and returns false.
template <typename P, std::int64_t kVectors>
bool run_tile(const Networks& net, const Rollouts& call, std::int64_t row, std::int64_t count, float* scratch,
              const Team& team) {
  constexpr std::int64_t kTile = kVectors * LSP_WIDTH;
  const std::int64_t S = net.stoch, D = net.deter, A = net.action, Z = net.skill;
  const std::int64_t noise_rows = call.rows / call.noise_group;
  const bool means = !call.philox && !call.stoch_noise;
  float* action = scratch;  // [a, s, h, z]
  float* stoch = action + A * kTile;
  float* deter = stoch + S * kTile;
  float* skill = deter + D * kTile;
  float* noise = skill + Z * kTile;  // as wide as s or a
  // The same as layers take it.
  const auto units = [](std::int64_t width) { return P::kPairs ? (width + 1) / 2 : width; };
  float* action_in = P::kPairs ? noise + (S > A ? S : A) * kTile : action;
  float* stoch_in = action_in + units(A) * kTile;
  float* deter_in = stoch_in + units(S) * kTile;
  float* skill_in = deter_in + units(D) * kTile;
  const auto convert = [](const float* from, std::int64_t width, float* to) {
    if constexpr (P::kPairs) {
      for (std::int64_t j = 0; j < width; j += 2) {
        for (std::int64_t i = 0; i < kTile; i += LSP_WIDTH) {
          const V second = j + 1 < width ? load(from + (j + 1) * kTile + i) : V{};
          store(to + j / 2 * kTile + i, P::pair(load(from + j * kTile + i), second));
        }
      }
    }
  };
  const auto draw_noise = [&](const float* numbers, std::uint32_t stream, std::int64_t t, std::int64_t width) {
    if (call.philox) {
      draw<kTile>(*call.philox, stream, static_cast<std::uint32_t>(call.first_step + t), row, call.noise_group, 0,
                  width, noise);
    } else {
      transpose_in<kTile>(numbers + t * noise_rows * width, width, row, count, noise, call.noise_group);
    }
  };
  Ring ring{team, net.widest * kTile, 0};

  transpose_in<kTile>(call.stoch, S, row, count, stoch, call.group);
  transpose_in<kTile>(call.deter, D, row, count, deter, call.group);
  convert(stoch, S, stoch_in);
  convert(deter, D, deter_in);
  for (std::int64_t t = 0; t < call.steps; ++t) {
    if (net.plan_width() > 0 && t % call.skill_length == 0 && t / call.skill_length < call.plan_length) {
      const std::int64_t width = net.plan_width();
      float* to = net.has_actor ? skill : action;
      transpose_in<kTile>(call.plans + t / call.skill_length * call.rows * width, width, row, count, to);
      convert(to, width, net.has_actor ? skill_in : action_in);
    }
    if (net.has_actor) {
      const float* policy = mlp<P, kVectors>(net.actor, stoch_in, ring);
      if (!policy) return false;
      if (call.sample) draw_noise(call.action_noise, kActionStream, t, A);
      for (std::int64_t i = 0; i < A * kTile; i += LSP_WIDTH) {
        V mean = net.actor_mean_scale * tanh(load(policy + i) / net.actor_mean_scale);
        if (call.sample) {
          const V std = softplus(load(policy + A * kTile + i) + net.actor_std_shift) + net.actor_min_std;
          mean = mean + std * load(noise + i);
        }
        store(action + i, tanh(mean));
      }
      convert(action, A, action_in);
    }
    const float* input = layer_of<P, kVectors, true>(net.prior_in, action_in, ring);
    if (!input) return false;
    float* b = ring.next();
    float* c = ring.next();
    dense<P, kVectors, false>(net.gru_input, input, b, team);
    dense<P, kVectors, false>(net.gru_hidden, deter_in, c, team);
    if (!ring.meet()) return false;
    for (std::int64_t i = 0; i < D * kTile; i += LSP_WIDTH) {
      const V reset = sigmoid(load(b + i) + load(c + i));
      const V update = sigmoid(load(b + D * kTile + i) + load(c + D * kTile + i));
      const V fresh = tanh(load(b + 2 * D * kTile + i) + reset * load(c + 2 * D * kTile + i));
      store(deter + i, fresh + update * (load(deter + i) - fresh));
    }
    convert(deter, D, deter_in);
    const float* hidden = layer_of<P, kVectors, true>(net.prior_hidden, deter_in, ring);
    if (!hidden) return false;
    const float* prior = layer_of<P, kVectors, false>(net.prior_out, hidden, ring);
    if (!prior) return false;
    if (!means) draw_noise(call.stoch_noise, kStochStream, t, S);
    for (std::int64_t i = 0; i < S * kTile; i += LSP_WIDTH) {
      V latent = load(prior + i);
      if (!means) {
        const V std = softplus(load(prior + S * kTile + i)) + net.prior_min_std;
        latent = latent + std * load(noise + i);
      }
      store(stoch + i, latent);
    }
    convert(stoch, S, stoch_in);
    for (std::int64_t head = 0; head < net.head_count; ++head) {
      const float* y = mlp<P, kVectors>(net.heads[head], stoch_in, ring);
      if (!y) return false;
      float* out = call.outputs + (head * call.steps + t) * call.rows + row;
      if (team.member == 0) {
        for (std::int64_t i = 0; i < count; ++i) out[i] = y[i];
      }
    }
  }
  return ring.meet();  // the next tile begins the ring anew
}

template <typename P>
bool run_tiles(const Networks& net, const Rollouts& call, std::int64_t first, std::int64_t last, float* scratch,
               const Team& team) {
  for (std::int64_t row = first; row < last;) {
    const std::int64_t left = last - row, most = kMaxVectors * LSP_WIDTH, count = left < most ? left : most;
    const auto tile = count <= LSP_WIDTH       ? run_tile<P, 1>
                      : count <= 2 * LSP_WIDTH ? run_tile<P, 2>
                                               : run_tile<P, kMaxVectors>;
    if (!tile(net, call, row, count, scratch, team)) return false;
    row += count;
  }
  return true;
}

bool run(const Networks& net, const Rollouts& call, std::int64_t first, std::int64_t last, float* scratch,
         const Team& team) {
  return (net.precision == Precision::bf16 ? run_tiles<Bf16> : run_tiles<Fp32>)(net, call, first, last, scratch, team);
}

template <typename P>
double multiply_add_of(std::int64_t rounds) {
  constexpr int kSums = 12;  // enough to hide the latency
  V sum[kSums];
  for (int i = 0; i < kSums; ++i) sum[i] = all(1e-30f * static_cast<float>(i));
  const V x = rounded(all(0.0f));  // which hides that it is zero
  float w = 0.0f;
  asm("" : "+m"(w));
  for (std::int64_t round = 0; round < rounds; ++round) {
    for (int repeat = 0; repeat < 5; ++repeat) {
      for (int i = 0; i < kSums; ++i) sum[i] = rounded(P::multiply_add(sum[i], w, x));
    }
  }
  for (int i = 1; i < kSums; ++i) sum[0] = sum[0] + sum[i];
  asm volatile("" : : "m"(sum[0]));  // it is wanted
  return static_cast<double>(rounds) * 5 * kSums * LSP_WIDTH * (P::kPairs ? 4 : 2);
}

double multiply_add(Precision precision, std::int64_t rounds) {
  return (precision == Precision::bf16 ? multiply_add_of<Bf16> : multiply_add_of<Fp32>)(rounds);
}

}  // namespace

extern const Kernels LSP_KERNELS;
const Kernels LSP_KERNELS{LSP_NAME, kMaxVectors * LSP_WIDTH, run, normals, multiply_add};

}  // namespace lsp_fast
