// Densities of normals with their slopes; simd/learner_kernels.inl includes this. Rows are torch's own, without padding.

namespace lsp_fast {
namespace {

// log x for any x, about 1 unit in the last place where |log x| is large and 1e-7 where it is small.
inline V log(V x) {
  const I tiny = x < all(1.17549435e-38f);
  const V normal = tiny ? x * 8388608.0f : x;  // 2^23
  // m in [1, 2), and log(1 + y) knows [0, 1].
  const I exponent = (reinterpret_cast<I>(normal) >> 23) - 127;
  const V m = floats((words(normal) & 0x007fffffu) | 0x3f800000u);
  const V e = __builtin_convertvector(exponent, V) - (tiny ? all(23.0f) : V{});
  V y = e * 0.69314718f + log1p_unit(m - 1.0f);
  const float infinity = __builtin_inff();
  y = x < all(infinity) ? y : x;  // infinity and NaN stay
  y = x == V{} ? all(-infinity) : y;
  return x < V{} ? all(__builtin_nanf("")) : y;
}

// The `count` numbers at p, ones behind them: neither a logarithm nor a quotient complains.
inline V load_some(const float* p, std::int64_t count) {
  if (count >= LSP_WIDTH) {
    V x;
    __builtin_memcpy(&x, p, sizeof(V));
    return x;
  }
  float some[LSP_WIDTH];
  for (std::int64_t i = 0; i < LSP_WIDTH; ++i) some[i] = i < count ? p[i] : 1.0f;
  V x;
  __builtin_memcpy(&x, some, sizeof(V));
  return x;
}

inline void store_some(float* p, V x, std::int64_t count) {
  __builtin_memcpy(p, &x, sizeof(float) * static_cast<std::size_t>(count < LSP_WIDTH ? count : LSP_WIDTH));
}

// Sums a row's terms: those of one register place first, then the places.
struct Sum {
  V places{};

  void add(V x, std::int64_t count) {
    if (count < LSP_WIDTH) {
      for (std::int64_t i = count; i < LSP_WIDTH; ++i) x[i] = 0.0f;
    }
    places = places + x;
  }
  float total() const {
    float sum = 0.0f;
    for (int i = 0; i < LSP_WIDTH; ++i) sum += places[i];
    return sum;
  }
};

constexpr float kHalfLogTwoPi = 0.918938533f, kLogTwo = 0.693147181f;

void log_prob(std::int64_t count, std::int64_t width, const float* raw, const float* x, float low, float high, float* out,
              float* d_raw) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float *mean = raw + 2 * i * width, *raw_std = mean + width, *at = x + i * width;
    Sum sum;
    for (std::int64_t k = 0; k < width; k += LSP_WIDTH) {
      const auto n = width - k;
      // Of the log variance, as are the bounds.
      const V below = high - 2.0f * load_some(raw_std + k, n);
      const V above = high - softplus(below) - low;
      const V log_std = 0.5f * (low + softplus(above)), inverse = exp(-log_std);
      const V z = (load_some(at + k, n) - load_some(mean + k, n)) * inverse;
      sum.add(-0.5f * z * z - log_std - kHalfLogTwoPi, n);
      if (!d_raw) continue;
      float* d = d_raw + 2 * i * width + k;
      store_some(d, z * inverse, n);
      store_some(d + width, (z * z - 1.0f) * sigmoid(above) * sigmoid(below), n);
    }
    out[i] = sum.total();
  }
}

void kl_divergence(std::int64_t count, std::int64_t width, const float* p_mean, const float* p_std, const float* q_mean,
                   const float* q_std, float* out, float* d_mean, float* d_p_std, float* d_q_std) {
  for (std::int64_t i = 0; i < count; ++i) {
    const auto row = i * width;
    Sum sum;
    for (std::int64_t k = row; k < row + width; k += LSP_WIDTH) {
      const auto n = row + width - k;
      const V p = load_some(p_std + k, n), q = load_some(q_std + k, n), ratio = p / q, square = ratio * ratio;
      const V apart = (load_some(p_mean + k, n) - load_some(q_mean + k, n)) / q;
      sum.add(0.5f * (square + apart * apart - 1.0f - log(square)), n);
      if (!d_mean) continue;
      store_some(d_mean + k, apart / q, n);
      store_some(d_p_std + k, (ratio - q / p) / q, n);
      store_some(d_q_std + k, (1.0f - square - apart * apart) / q, n);
    }
    out[i] = sum.total();
  }
}

void entropy(std::int64_t count, std::int64_t width, const float* mean, const float* std, const float* noise, float* out,
             float* d_mean, float* d_std) {
  for (std::int64_t i = 0; i < count; ++i) {
    const auto row = i * width;
    Sum sum;
    for (std::int64_t k = row; k < row + width; k += LSP_WIDTH) {
      const auto n = row + width - k;
      const V s = load_some(std + k, n), e = load_some(noise + k, n), x = load_some(mean + k, n) + s * e;
      const V log_slope = 2.0f * (kLogTwo - x - softplus(-2.0f * x));
      sum.add(0.5f * e * e + log(s) + kHalfLogTwoPi + log_slope, n);
      if (!d_mean) continue;
      const V d = -2.0f * tanh(x);
      store_some(d_mean + k, d, n);
      store_some(d_std + k, 1.0f / s + d * e, n);
    }
    out[i] = sum.total();
  }
}

}  // namespace
}  // namespace lsp_fast
