// The kernels of one instruction set. A translation unit defines LSP_WIDTH (floats in a vector register), LSP_OUTPUTS
// (outputs of a panel computed together) and LSP_KERNELS (the name of what it exports), and includes this file. Nothing
// here may instantiate a library template: the linker could pick that copy for processors that lack the instructions.
//
// Rollouts lie in vector lanes and features follow one another: an activation is [features][tile], so that all of the
// elementwise work is vectorised too.
#include "ops/imagine_heads.hpp"

namespace lsp_fast {
namespace {

typedef float V __attribute__((vector_size(4 * LSP_WIDTH), may_alias));
typedef std::int32_t I __attribute__((vector_size(4 * LSP_WIDTH)));

constexpr std::int64_t kPrefetch = 64;   // inputs ahead that weights are asked for; measured, 32 and 128 are slower
constexpr std::int64_t kMaxVectors = 2;  // vectors of rollouts in a tile; a last tile that fits one has one

inline V load(const float* p) { return *reinterpret_cast<const V*>(p); }
inline void store(float* p, V x) { *reinterpret_cast<V*>(p) = x; }
inline V all(float x) { return x - V{}; }

// e^x to about 1 unit in the last place; NaN stays NaN, as every comparison with it is false.
inline V exp(V x) {
  x = x > all(88.0f) ? all(88.0f) : x;
  x = x < all(-87.0f) ? all(-87.0f) : x;
  const float round = 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer
  const V shifted = x * 1.44269504f + round;
  const V n = shifted - round;
  V r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;  // log 2 in two parts
  V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const I exponent = (reinterpret_cast<I>(shifted) << 23) + 0x3f800000;
  return p * reinterpret_cast<V>(exponent);
}

// log(1 + y) for y in [0, 1], absolute error below 1e-7: atanh's series after halving where 1 + y exceeds sqrt 2.
inline V log1p_unit(V y) {
  const I large = y > all(0.41421356f);
  const V u = large ? (y - 1.0f) * 0.5f : y;  // 1 + u in [0.707, 1.414]
  const V s = u / (u + 2.0f);
  const V s2 = s * s;
  V p = s2 * 0.22222222f + 0.28571429f;
  p = p * s2 + 0.4f;
  p = p * s2 + 0.66666667f;
  p = p * s2 + 2.0f;
  return p * s + (large ? all(0.69314718f) : V{});
}

inline V elu(V x) { return x > V{} ? x : exp(x) - 1.0f; }
inline V sigmoid(V x) { return 1.0f / (1.0f + exp(-x)); }
inline V tanh(V x) { return 1.0f - 2.0f / (exp(x + x) + 1.0f); }
inline V softplus(V x) {
  const V magnitude = x < V{} ? -x : x;
  return (x > V{} ? x : V{}) + log1p_unit(exp(-magnitude));
}

// The member's share of a layer's outputs.
template <std::int64_t kVectors, bool Elu>
void dense(const Layer& layer, const float* x, float* y, const Team& team) {
  constexpr std::int64_t kTile = kVectors * LSP_WIDTH;
  const std::int64_t groups = (layer.out + LSP_OUTPUTS - 1) / LSP_OUTPUTS;
  const std::int64_t end = groups * (team.member + 1) / team.members * LSP_OUTPUTS;
  for (std::int64_t first = groups * team.member / team.members * LSP_OUTPUTS; first < end; first += LSP_OUTPUTS) {
    const float* w = layer.weight + first / kPanel * layer.in * kPanel + first % kPanel;
    V sum[LSP_OUTPUTS][kVectors];
    for (std::int64_t o = 0; o < LSP_OUTPUTS; ++o) {
      for (std::int64_t v = 0; v < kVectors; ++v) sum[o][v] = all(layer.bias[first + o]);
    }
    for (std::int64_t k = 0; k < layer.in; ++k) {
      V input[kVectors];
      __builtin_prefetch(w + (k + kPrefetch) * kPanel);
      for (std::int64_t v = 0; v < kVectors; ++v) input[v] = load(x + k * kTile + v * LSP_WIDTH);
      for (std::int64_t o = 0; o < LSP_OUTPUTS; ++o) {
        for (std::int64_t v = 0; v < kVectors; ++v) sum[o][v] += w[k * kPanel + o] * input[v];
      }
    }
    for (std::int64_t o = 0; o < LSP_OUTPUTS; ++o) {
      for (std::int64_t v = 0; v < kVectors; ++v) {
        store(y + (first + o) * kTile + v * LSP_WIDTH, Elu ? elu(sum[o][v]) : sum[o][v]);
      }
    }
  }
}

// One thread's way through the team's buffers; all take the same.
struct Ring {
  const Team& team;
  std::int64_t size;
  std::int64_t turn;

  float* next() { return team.buffers + turn++ % kBuffers * size; }
  void meet() const {
    if (team.members > 1) team.wait(team.barrier);
  }
};

// A layer's whole output, once every member has done its share.
template <std::int64_t kVectors, bool Elu>
const float* layer_of(const Layer& layer, const float* x, Ring& ring) {
  float* y = ring.next();
  dense<kVectors, Elu>(layer, x, y, ring.team);
  ring.meet();
  return y;
}

template <std::int64_t kVectors>
const float* mlp(const Mlp& net, const float* x, Ring& ring) {
  for (std::int64_t i = 0; i + 1 < net.count; ++i) x = layer_of<kVectors, true>(net.layers[i], x, ring);
  return layer_of<kVectors, false>(net.layers[net.count - 1], x, ring);
}

// rows [R, width] from row `first` on -> features [width][tile]; missing rows are zeros. Each of `rows` counts `group`
// times.
template <std::int64_t kTile>
void transpose_in(const float* rows, std::int64_t width, std::int64_t first, std::int64_t count, float* features,
                  std::int64_t group = 1) {
  const float* from[kTile];
  for (std::int64_t i = 0; i < count; ++i) from[i] = rows + (first + i) / group * width;
  for (std::int64_t j = 0; j < width; ++j) {
    for (std::int64_t i = 0; i < count; ++i) features[j * kTile + i] = from[i][j];
    for (std::int64_t i = count; i < kTile; ++i) features[j * kTile + i] = 0.0f;
  }
}

// States are every member's own: what is not a matrix product all compute alike, which costs less than meeting.
template <std::int64_t kVectors>
void run_tile(const Networks& net, const Rollouts& call, std::int64_t row, std::int64_t count, float* scratch,
              const Team& team) {
  constexpr std::int64_t kTile = kVectors * LSP_WIDTH;
  const std::int64_t S = net.stoch, D = net.deter, A = net.action, Z = net.skill;
  const std::int64_t noise_rows = call.rows / call.noise_group;
  float* action = scratch;  // [a, s, h, z]
  float* stoch = action + A * kTile;
  float* deter = stoch + S * kTile;
  float* skill = deter + D * kTile;
  float* noise = skill + Z * kTile;  // as wide as s or a
  Ring ring{team, net.widest * kTile, 0};

  transpose_in<kTile>(call.stoch, S, row, count, stoch, call.group);
  transpose_in<kTile>(call.deter, D, row, count, deter, call.group);
  for (std::int64_t t = 0; t < call.steps; ++t) {
    if (Z > 0 && t % call.skill_length == 0 && t / call.skill_length < call.plan_length) {
      transpose_in<kTile>(call.skills + t / call.skill_length * call.rows * Z, Z, row, count, skill);
    }
    const float* policy = mlp<kVectors>(net.actor, stoch, ring);
    if (call.action_noise) transpose_in<kTile>(call.action_noise + t * noise_rows * A, A, row, count, noise, call.noise_group);
    for (std::int64_t i = 0; i < A * kTile; i += LSP_WIDTH) {
      V mean = net.actor_mean_scale * tanh(load(policy + i) / net.actor_mean_scale);
      if (call.action_noise) {
        const V std = softplus(load(policy + A * kTile + i) + net.actor_std_shift) + net.actor_min_std;
        mean = mean + std * load(noise + i);
      }
      store(action + i, tanh(mean));
    }
    const float* input = layer_of<kVectors, true>(net.prior_in, action, ring);
    float* b = ring.next();
    float* c = ring.next();
    dense<kVectors, false>(net.gru_input, input, b, team);
    dense<kVectors, false>(net.gru_hidden, deter, c, team);
    ring.meet();
    for (std::int64_t i = 0; i < D * kTile; i += LSP_WIDTH) {
      const V reset = sigmoid(load(b + i) + load(c + i));
      const V update = sigmoid(load(b + D * kTile + i) + load(c + D * kTile + i));
      const V fresh = tanh(load(b + 2 * D * kTile + i) + reset * load(c + 2 * D * kTile + i));
      store(deter + i, fresh + update * (load(deter + i) - fresh));
    }
    const float* hidden = layer_of<kVectors, true>(net.prior_hidden, deter, ring);
    const float* prior = layer_of<kVectors, false>(net.prior_out, hidden, ring);
    transpose_in<kTile>(call.stoch_noise + t * noise_rows * S, S, row, count, noise, call.noise_group);
    for (std::int64_t i = 0; i < S * kTile; i += LSP_WIDTH) {
      const V std = softplus(load(prior + S * kTile + i)) + net.prior_min_std;
      store(stoch + i, load(prior + i) + std * load(noise + i));
    }
    for (std::int64_t head = 0; head < net.head_count; ++head) {
      const float* y = mlp<kVectors>(net.heads[head], stoch, ring);
      float* out = call.outputs + (head * call.steps + t) * call.rows + row;
      if (team.member == 0) {
        for (std::int64_t i = 0; i < count; ++i) out[i] = y[i];
      }
    }
  }
  ring.meet();  // the next tile begins the ring anew
}

void run(const Networks& net, const Rollouts& call, std::int64_t first, std::int64_t last, float* scratch,
         const Team& team) {
  for (std::int64_t row = first; row < last;) {
    const std::int64_t left = last - row;
    if (left <= LSP_WIDTH) {
      run_tile<1>(net, call, row, left, scratch, team);
      return;
    }
    const std::int64_t count = left < kMaxVectors * LSP_WIDTH ? left : kMaxVectors * LSP_WIDTH;
    run_tile<kMaxVectors>(net, call, row, count, scratch, team);
    row += count;
  }
}

}  // namespace

extern const Kernels LSP_KERNELS;
const Kernels LSP_KERNELS{LSP_NAME, kMaxVectors * LSP_WIDTH, run};

}  // namespace lsp_fast
