// Vectors of one instruction set's width, and elementwise functions of them; ops/imagine_heads_kernels.inl includes this.

namespace lsp_fast {
namespace {

typedef float V __attribute__((vector_size(4 * LSP_WIDTH), may_alias));
typedef std::int32_t I __attribute__((vector_size(4 * LSP_WIDTH), may_alias));
typedef std::uint32_t U __attribute__((vector_size(4 * LSP_WIDTH), may_alias));

inline V load(const float* p) { return *reinterpret_cast<const V*>(p); }
inline void store(float* p, V x) { *reinterpret_cast<V*>(p) = x; }
inline V all(float x) { return x - V{}; }
inline U all(std::uint32_t x) { return x + U{}; }
inline U words(V x) { return reinterpret_cast<U>(x); }
inline V floats(U x) { return reinterpret_cast<V>(x); }

// The larger one, the smaller one; `x` where it is NaN.
#if defined(__AVX512F__)
inline V at_least(float bound, V x) { return reinterpret_cast<V>(_mm512_max_ps(_mm512_set1_ps(bound), reinterpret_cast<__m512>(x))); }
inline V at_most(float bound, V x) { return reinterpret_cast<V>(_mm512_min_ps(_mm512_set1_ps(bound), reinterpret_cast<__m512>(x))); }
#elif defined(__AVX2__)
inline V at_least(float bound, V x) { return reinterpret_cast<V>(_mm256_max_ps(_mm256_set1_ps(bound), reinterpret_cast<__m256>(x))); }
inline V at_most(float bound, V x) { return reinterpret_cast<V>(_mm256_min_ps(_mm256_set1_ps(bound), reinterpret_cast<__m256>(x))); }
#else
inline V at_least(float bound, V x) { return x < all(bound) ? all(bound) : x; }
inline V at_most(float bound, V x) { return x > all(bound) ? all(bound) : x; }
#endif

// e^x = 2^n (1 + q) with |q| < 0.42, of x up to 88. NaN stays NaN.
struct Power {
  V scale, q;
};
template <bool Rough = false>
inline Power power(V x) {
  x = at_least(-87.0f, x);
  const float round = 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer
  const V shifted = x * 1.44269504f + round;
  const V n = shifted - round;
  V r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;  // log 2 in two parts
  V p = all(4.1665795894e-2f);
  if constexpr (!Rough) {
    p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
  }
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const I exponent = (reinterpret_cast<I>(shifted) << 23) + 0x3f800000;
  return {reinterpret_cast<V>(exponent), p * r * r + r};
}

// To about 1 unit in the last place; e^x - 1 also near 0.
inline V exp(V x) {
  const Power e = power(at_most(88.0f, x));
  return e.scale * (e.q + 1.0f);
}
inline V expm1(V x) {
  const Power e = power(at_most(88.0f, x));
  return e.scale * e.q + (e.scale - 1.0f);
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

// Rough: to 2e-4 of itself, where a number will be rounded to bf16.
template <bool Rough = false>
inline V elu(V x) {
  const Power e = power<Rough>(x);
  return x > V{} ? x : e.scale * e.q + (e.scale - 1.0f);
}
inline V sigmoid(V x) { return 1.0f / (1.0f + exp(-x)); }
inline V tanh(V x) {
  const V e = expm1(x + x);
  return e / (e + 2.0f);
}
inline V softplus(V x) {
  const V magnitude = x < V{} ? -x : x;
  return (x > V{} ? x : V{}) + log1p_unit(exp(-magnitude));
}

}  // namespace
}  // namespace lsp_fast
