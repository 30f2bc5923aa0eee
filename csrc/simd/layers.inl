// Dense layers, alone or shared by a team of threads; ops/imagine_heads_kernels.inl includes this.

namespace lsp_fast {
namespace {

constexpr std::int64_t kPrefetch = 64;   // inputs ahead that weights are asked for, an even number
constexpr std::int64_t kMaxVectors = 3;  // vectors of rollouts in a tile; a last tile has as many as it needs

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
#pragma GCC unroll 16
  for (std::int64_t o = 0; o < kOutputs; ++o) {
#pragma GCC unroll 16
    for (std::int64_t v = 0; v < kVectors; ++v) sum[o][v] = all(bias[o]);
  }
  const auto multiply = [&](std::int64_t k) __attribute__((always_inline)) {
    V input[kVectors];
#pragma GCC unroll 16
    for (std::int64_t v = 0; v < kVectors; ++v) input[v] = load(x + k * kTile + v * LSP_WIDTH);
#pragma GCC unroll 16
    for (std::int64_t o = 0; o < kOutputs; ++o) {
      const float weight = w[o / kPanel * panel + k * kPanel + o % kPanel];
#pragma GCC unroll 16
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
#pragma GCC unroll 16
  for (std::int64_t o = 0; o < kOutputs; ++o) {
#pragma GCC unroll 16
    for (std::int64_t v = 0; v < kVectors; ++v) {
      const std::int64_t at = v * LSP_WIDTH;
      if constexpr (Elu && P::kPairs) {
        if (o % 2 == 0) store(y + o / 2 * kTile + at, P::pair(elu<true>(sum[o][v]), elu<true>(sum[o + 1][v])));
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
  // Whether the team is together still.
  bool meet() const { return team.members < 2 || team.wait(team.barrier); }
};

// A layer's whole output, once every member has done its share; null where the team came apart.
template <typename P, std::int64_t kVectors, bool Elu>
const float* layer_of(const Layer& layer, const float* x, Ring& ring) {
  float* y = ring.next();
  dense<P, kVectors, Elu>(layer, x, y, ring.team);
  return ring.meet() ? y : nullptr;
}

template <typename P, std::int64_t kVectors>
const float* mlp(const Mlp& net, const float* x, Ring& ring) {
  for (std::int64_t i = 0; i + 1 < net.count && x; ++i) x = layer_of<P, kVectors, true>(net.layers[i], x, ring);
  if (!x) return x;
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

}  // namespace
}  // namespace lsp_fast
