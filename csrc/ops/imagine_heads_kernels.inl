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

namespace lsp_fast {
namespace {

typedef float V __attribute__((vector_size(4 * LSP_WIDTH), may_alias));
typedef std::int32_t I __attribute__((vector_size(4 * LSP_WIDTH), may_alias));
typedef std::uint32_t U __attribute__((vector_size(4 * LSP_WIDTH), may_alias));

constexpr std::int64_t kPrefetch = 64;   // inputs ahead that weights are asked for, an even number
constexpr std::int64_t kMaxVectors = 3;  // vectors of rollouts in a tile; a last tile has as many as it needs

inline V load(const float* p) { return *reinterpret_cast<const V*>(p); }
inline void store(float* p, V x) { *reinterpret_cast<V*>(p) = x; }
inline V all(float x) { return x - V{}; }
inline U all(std::uint32_t x) { return x + U{}; }
inline U words(V x) { return reinterpret_cast<U>(x); }
inline V floats(U x) { return reinterpret_cast<V>(x); }

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

// What a layer multiplies, in units of 32 bits (networks.hpp).
struct Fp32 {
  static constexpr bool kPairs = false;
  static V multiply_add(V sum, float w, V x) { return sum + w * x; }
};

struct Bf16 {
  static constexpr bool kPairs = true;
#if defined(__AVX512BF16__)
  static V multiply_add(V sum, float w, V x) {
    return reinterpret_cast<V>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(all(w)),
                                                reinterpret_cast<__m512bh>(x)));
  }
  // Two features as one: rounded to the nearest, ties to even.
  static V pair(V low, V high) {
    const auto half = [](V x) {
      return reinterpret_cast<U>(
          _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(x)))));
    };
    return floats(half(low) | half(high) << 16);
  }
#else
  // The same numbers' products in fp32, which is exact: slower, and differing only in how sums are rounded.
  static V multiply_add(V sum, float w, V x) {
    const U weight = words(all(w)), input = words(x);
    sum = sum + floats(weight << 16) * floats(input << 16);
    return sum + floats(weight & 0xffff0000u) * floats(input & 0xffff0000u);
  }
  static V pair(V low, V high) {
    const auto rounded = [](V x) {
      const U bits = words(x);
      return x == x ? bits + 0x7fffu + (bits >> 16 & 1u) : bits | 0x400000u;
    };
    return floats(rounded(low) >> 16 | (rounded(high) & 0xffff0000u));
  }
#endif
};

// Panels that lie one after the other, and the size of one.
struct Panels {
  const float* weight;
  std::int64_t size;
};

// `kOutputs` outputs from the panel `w` on (half of it, all, or the one after it too); `after` is what comes next. ELU's
// go on as the next layer's inputs, linear ones as fp32.
template <typename P, std::int64_t kVectors, std::int64_t kOutputs, bool Elu>
inline void outputs(const float* w, std::int64_t panel, const float* bias, std::int64_t units, const float* x, float* y,
                    const Panels& after) {
  constexpr std::int64_t kTile = kVectors * LSP_WIDTH;
  V sum[kOutputs][kVectors];
  for (std::int64_t o = 0; o < kOutputs; ++o) {
    for (std::int64_t v = 0; v < kVectors; ++v) sum[o][v] = all(bias[o]);
  }
  const auto multiply = [&](std::int64_t k) __attribute__((always_inline)) {
    V input[kVectors];
    for (std::int64_t v = 0; v < kVectors; ++v) input[v] = load(x + k * kTile + v * LSP_WIDTH);
    for (std::int64_t o = 0; o < kOutputs; ++o) {
      const float weight = w[o / kPanel * panel + k * kPanel + o % kPanel];
      for (std::int64_t v = 0; v < kVectors; ++v) sum[o][v] = P::multiply_add(sum[o][v], weight, input[v]);
    }
  };
  // Two inputs' weights are a line of the cache: those of some inputs ahead are asked for, and in the end those that
  // are multiplied next.
  const auto ask = [](const float* weight, std::int64_t size) __attribute__((always_inline)) {
    for (std::int64_t o = 0; o < kOutputs; o += kPanel) __builtin_prefetch(weight + o / kPanel * size);
  };
  std::int64_t k = 0;
  for (; k + kPrefetch < units; k += 2) {
    ask(w + (k + kPrefetch) * kPanel, panel);
    multiply(k);
    multiply(k + 1);
  }
  for (; k + 1 < units; k += 2) {
    ask(after.weight + (k + kPrefetch - units) * kPanel, after.size);
    multiply(k);
    multiply(k + 1);
  }
  if (k < units) multiply(k);
  for (std::int64_t o = 0; o < kOutputs; ++o) {
    for (std::int64_t v = 0; v < kVectors; ++v) {
      const std::int64_t at = v * LSP_WIDTH;
      if constexpr (Elu && P::kPairs) {
        if (o % 2 == 0) store(y + o / 2 * kTile + at, P::pair(elu(sum[o][v]), elu(sum[o + 1][v])));
      } else {
        store(y + o * kTile + at, Elu ? elu(sum[o][v]) : sum[o][v]);
      }
    }
  }
}

// The member's share of a layer's outputs.
template <typename P, std::int64_t kVectors, bool Elu>
void dense(const Layer& layer, const float* x, float* y, const Team& team) {
  constexpr std::int64_t kTile = kVectors * LSP_WIDTH;
  constexpr std::int64_t kOutputs = kVectors == 1 ? LSP_OUTPUTS_1 : LSP_OUTPUTS;
  const std::int64_t panels = (layer.out + kPanel - 1) / kPanel, panel = layer.units * kPanel;
  const std::int64_t end = panels * (team.member + 1) / team.members;
  const std::int64_t next_first = layer.next_panels * team.member / team.members;
  const Panels next_layer{layer.next_weight + next_first * layer.next_units * kPanel, layer.next_units * kPanel};
  for (std::int64_t i = panels * team.member / team.members; i < end;) {
    const float* w = layer.weight + i * panel;
    const auto after = [&](std::int64_t next) { return next < end ? Panels{layer.weight + next * panel, panel} : next_layer; };
    const float* bias = layer.bias + i * kPanel;
    float* to = y + i * kPanel * kTile / (Elu && P::kPairs ? 2 : 1);
    if (kOutputs > kPanel && i + 1 < end) {
      outputs<P, kVectors, kOutputs, Elu>(w, panel, bias, layer.units, x, to, after(i + 2));
      i += 2;
      continue;
    }
    constexpr std::int64_t kPart = kOutputs < kPanel ? kOutputs : kPanel;
    for (std::int64_t o = 0; o < kPanel; o += kPart) {
      outputs<P, kVectors, kPart, Elu>(w + o, panel, bias + o, layer.units, x,
                                       to + o * kTile / (Elu && P::kPairs ? 2 : 1), after(i + 1));
    }
    ++i;
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
template <typename P, std::int64_t kVectors, bool Elu>
const float* layer_of(const Layer& layer, const float* x, Ring& ring) {
  float* y = ring.next();
  dense<P, kVectors, Elu>(layer, x, y, ring.team);
  ring.meet();
  return y;
}

template <typename P, std::int64_t kVectors>
const float* mlp(const Mlp& net, const float* x, Ring& ring) {
  for (std::int64_t i = 0; i + 1 < net.count; ++i) x = layer_of<P, kVectors, true>(net.layers[i], x, ring);
  return layer_of<P, kVectors, false>(net.layers[net.count - 1], x, ring);
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

// The 64-bit products of every lane with one number.
inline void multiply_wide(U a, std::uint32_t b, U& low, U& high) {
#if LSP_WIDTH == 16 && defined(__AVX512F__)
  const auto x = reinterpret_cast<__m512i>(a), y = _mm512_set1_epi32(static_cast<int>(b));
  const auto even = _mm512_mul_epu32(x, y), odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), y);
  low = reinterpret_cast<U>(_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32)));
  high = reinterpret_cast<U>(_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd));
#elif LSP_WIDTH == 8 && defined(__AVX2__)
  const auto x = reinterpret_cast<__m256i>(a), y = _mm256_set1_epi32(static_cast<int>(b));
  const auto even = _mm256_mul_epu32(x, y), odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), y);
  low = reinterpret_cast<U>(_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa));
  high = reinterpret_cast<U>(_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa));
#else
  for (int i = 0; i < LSP_WIDTH; ++i) {
    const std::uint64_t product = static_cast<std::uint64_t>(a[i]) * b;
    low[i] = static_cast<std::uint32_t>(product);
    high[i] = static_cast<std::uint32_t>(product >> 32);
  }
#endif
}

inline V square_root(V x) {
#if LSP_WIDTH == 16 && defined(__AVX512F__)
  return reinterpret_cast<V>(_mm512_sqrt_ps(reinterpret_cast<__m512>(x)));
#elif LSP_WIDTH == 8 && defined(__AVX2__)
  return reinterpret_cast<V>(_mm256_sqrt_ps(reinterpret_cast<__m256>(x)));
#elif LSP_WIDTH == 4 && defined(__SSE2__)
  return reinterpret_cast<V>(_mm_sqrt_ps(reinterpret_cast<__m128>(x)));
#else
  for (int i = 0; i < LSP_WIDTH; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

// A product as it is when rounded: the compiler can no longer fuse it into a sum, so that normal numbers are the same to
// the bit whatever computes them.
inline V rounded(V x) {
#if defined(__AVX512F__)
  asm("" : "+v"(x));
#elif defined(__x86_64__)
  asm("" : "+x"(x));
#elif defined(__aarch64__)
  asm("" : "+w"(x));
#else
  asm("" : "+m"(x));
#endif
  return x;
}

inline V horner(V x, V sum, float c) { return rounded(sum * x) + c; }

// Two words each of 24 bits that count -> two normal numbers (Box, Muller 1958): sqrt(-2 log u) (cos, sin)(2 pi t), with
// u in (0, 1] and t in [0, 1). The polynomials are those of Cephes' logf, sinf and cosf.
inline void box_muller(U a, U b, V& cosine, V& sine) {
  const V u = __builtin_convertvector(reinterpret_cast<I>((a >> 8) + 1u), V);  // times 2^-24
  U exponent = words(u) >> 23;
  V m = floats((words(u) & 0x7fffffu) | 0x3f800000u);  // [1, 2)
  const I large = m > all(1.41421356f);
  m = large ? m * 0.5f : m;
  exponent = exponent - reinterpret_cast<U>(large);  // a true lane is -1
  const V e = __builtin_convertvector(reinterpret_cast<I>(exponent) - (127 + 24), V);
  const V x = m - 1.0f, z = rounded(x * x);
  V p = all(7.0376836292e-2f);
  p = horner(x, p, -1.1514610310e-1f);
  p = horner(x, p, 1.1676998740e-1f);
  p = horner(x, p, -1.2420140846e-1f);
  p = horner(x, p, 1.4249322787e-1f);
  p = horner(x, p, -1.6668057665e-1f);
  p = horner(x, p, 2.0000714765e-1f);
  p = horner(x, p, -2.4999993993e-1f);
  p = horner(x, p, 3.3333331174e-1f);
  p = rounded(rounded(p * x) * z) + rounded(e * -2.12194440e-4f);
  p = p - rounded(z * 0.5f);
  const V log = rounded(e * 0.693359375f) + (x + p);
  const V radius = square_root(log * -2.0f);

  const U word = b >> 8, quarter = (word + 0x200000u) >> 22;  // 0 .. 4 quarters of a turn and at most half a one
  const V part = __builtin_convertvector(reinterpret_cast<I>(word - (quarter << 22)), V) * 2.384185791015625e-7f;
  const V angle = rounded(part * 1.57079632679f), w = rounded(angle * angle);
  V s = horner(w, all(-1.9515295891e-4f), 8.3321608736e-3f);
  s = horner(w, s, -1.6666654611e-1f);
  s = rounded(rounded(s * w) * angle) + angle;
  V c = horner(w, all(2.443315711809948e-5f), -1.388731625493765e-3f);
  c = horner(w, c, 4.166664568298827e-2f);
  c = rounded(rounded(c * w) * w) - rounded(w * 0.5f) + 1.0f;
  const I turned = reinterpret_cast<I>(quarter << 31) >> 31;
  const U cosine_sign = ((quarter + 1u) & 2u) << 30, sine_sign = (quarter & 2u) << 30;
  cosine = radius * floats(words(turned ? s : c) ^ cosine_sign);
  sine = radius * floats(words(turned ? c : s) ^ sine_sign);
}

// Normal numbers of `kTile` rows from row `first` on, `group` of which share theirs: [columns][kTile], from `column` on,
// which is a multiple of 4.
template <std::int64_t kTile>
void draw(const Philox& philox, std::uint32_t stream, std::uint32_t step, std::int64_t first, std::int64_t group,
          std::int64_t from, std::int64_t columns, float* features) {
  for (std::int64_t at = 0; at < kTile; at += LSP_WIDTH) {
    U row;
    for (int i = 0; i < LSP_WIDTH; ++i) row[i] = static_cast<std::uint32_t>((first + at + i) / group);
    for (std::int64_t column = 0; column < columns; column += 4) {
      U c0 = all(static_cast<std::uint32_t>((from + column) / 4)), c1 = row, c2 = all(step), c3 = all(stream);
      std::uint32_t k0 = philox.key[0], k1 = philox.key[1];
      for (int round = 0; round < kPhiloxRounds; ++round) {
        U low0, high0, low1, high1;
        multiply_wide(c0, kPhiloxMultipliers[0], low0, high0);
        multiply_wide(c2, kPhiloxMultipliers[1], low1, high1);
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += kPhiloxWeyl[0];
        k1 += kPhiloxWeyl[1];
      }
      V numbers[4];
      box_muller(c0, c1, numbers[0], numbers[1]);
      box_muller(c2, c3, numbers[2], numbers[3]);
      for (std::int64_t i = 0; i < 4 && column + i < columns; ++i) store(features + (column + i) * kTile + at, numbers[i]);
    }
  }
}

void normals(const Philox& philox, std::uint32_t stream, std::uint32_t step, std::int64_t first, std::int64_t count,
             std::int64_t group, std::int64_t columns, float* numbers) {
  constexpr std::int64_t kBlock = 32;  // columns at a time
  alignas(64) float block[kBlock * LSP_WIDTH];
  for (std::int64_t row = 0; row < count; row += LSP_WIDTH) {
    const std::int64_t rows = count - row < LSP_WIDTH ? count - row : LSP_WIDTH;
    for (std::int64_t from = 0; from < columns; from += kBlock) {
      const std::int64_t width = columns - from < kBlock ? columns - from : kBlock;
      draw<LSP_WIDTH>(philox, stream, step, first + row, group, from, width, block);
      for (std::int64_t j = 0; j < width; ++j) {
        __builtin_memcpy(numbers + (from + j) * count + row, block + j * LSP_WIDTH, sizeof(float) * rows);
      }
    }
  }
}

// States are every member's own: what is not a matrix product all compute alike, which costs less than meeting.
template <typename P, std::int64_t kVectors>
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
    float* b = ring.next();
    float* c = ring.next();
    dense<P, kVectors, false>(net.gru_input, input, b, team);
    dense<P, kVectors, false>(net.gru_hidden, deter_in, c, team);
    ring.meet();
    for (std::int64_t i = 0; i < D * kTile; i += LSP_WIDTH) {
      const V reset = sigmoid(load(b + i) + load(c + i));
      const V update = sigmoid(load(b + D * kTile + i) + load(c + D * kTile + i));
      const V fresh = tanh(load(b + 2 * D * kTile + i) + reset * load(c + 2 * D * kTile + i));
      store(deter + i, fresh + update * (load(deter + i) - fresh));
    }
    convert(deter, D, deter_in);
    const float* hidden = layer_of<P, kVectors, true>(net.prior_hidden, deter_in, ring);
    const float* prior = layer_of<P, kVectors, false>(net.prior_out, hidden, ring);
    draw_noise(call.stoch_noise, kStochStream, t, S);
    for (std::int64_t i = 0; i < S * kTile; i += LSP_WIDTH) {
      const V std = softplus(load(prior + S * kTile + i)) + net.prior_min_std;
      store(stoch + i, load(prior + i) + std * load(noise + i));
    }
    convert(stoch, S, stoch_in);
    for (std::int64_t head = 0; head < net.head_count; ++head) {
      const float* y = mlp<P, kVectors>(net.heads[head], stoch_in, ring);
      float* out = call.outputs + (head * call.steps + t) * call.rows + row;
      if (team.member == 0) {
        for (std::int64_t i = 0; i < count; ++i) out[i] = y[i];
      }
    }
  }
  ring.meet();  // the next tile begins the ring anew
}

template <typename P>
void run_tiles(const Networks& net, const Rollouts& call, std::int64_t first, std::int64_t last, float* scratch,
               const Team& team) {
  for (std::int64_t row = first; row < last;) {
    const std::int64_t left = last - row, most = kMaxVectors * LSP_WIDTH, count = left < most ? left : most;
    if (count <= LSP_WIDTH) {
      run_tile<P, 1>(net, call, row, count, scratch, team);
    } else if (count <= 2 * LSP_WIDTH) {
      run_tile<P, 2>(net, call, row, count, scratch, team);
    } else {
      run_tile<P, kMaxVectors>(net, call, row, count, scratch, team);
    }
    row += count;
  }
}

void run(const Networks& net, const Rollouts& call, std::int64_t first, std::int64_t last, float* scratch,
         const Team& team) {
  (net.precision == Precision::bf16 ? run_tiles<Bf16> : run_tiles<Fp32>)(net, call, first, last, scratch, team);
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
