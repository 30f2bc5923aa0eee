// Normal numbers that follow from a key, the same bits for every instruction set; ops/imagine_heads_kernels.inl includes
// this.

namespace lsp_fast {
namespace {

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

}  // namespace
}  // namespace lsp_fast
