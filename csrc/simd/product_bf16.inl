// The products of product.inl with factors rounded to bf16 and sums in fp32, for processors that multiply pairs of them;
// simd/learner_kernels.inl includes this. A unit holds the numbers of two neighbouring depths (or rows), the first one below.

namespace lsp_fast {
namespace {

constexpr std::int64_t kUnits = kDepth / 2;            // of a span of depths
constexpr std::int64_t kUnitStride = kUnits + 16;      // a line more, so that rows spread over the cache's sets
constexpr std::int64_t kWidestOuter = 144;             // outputs of `outer` at most, in whole registers
constexpr std::int64_t kPairs = (kSpan + 1) / 2;

inline __m512 fp32(V x) { return reinterpret_cast<__m512>(x); }

// Units of the lanes of two registers.
inline __m512i paired(V first, V second) {
  // [second | first] in 16 bits each, and then in turns.
  alignas(64) static constexpr std::int16_t kTurns[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                          8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const auto both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(fp32(second), fp32(first)));
  return _mm512_permutexvar_epi16(_mm512_load_si512(kTurns), both);
}

// In place: row k of units takes the place of the panel's rows 2 k and 2 k + 1.
void round_panel(std::int64_t depth, std::int64_t width, float* panel) {
  for (std::int64_t k = 0; k < depth; k += 2) {
    for (std::int64_t j = 0; j < width; j += LSP_WIDTH) {
      const float* from = panel + k * width + j;
      const auto units = paired(load(from), load(from + width));
      _mm512_store_si512(panel + k / 2 * width + j, units);
    }
  }
}

inline __m512bh as_bf16(__m512i x) { return reinterpret_cast<__m512bh>(x); }

template <int kRows, int kVectors>
__attribute__((noinline)) void product_tile_bf16(const std::uint32_t* a, const float* b, std::int64_t units, Rows start,
                                                 Rows c, End end, Rows value) {
  __m512 sum[kRows][kVectors];
#pragma GCC unroll 12
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) sum[m][v] = fp32(start.data ? load(start.row(m) + v * LSP_WIDTH) : V{});
  }
#pragma GCC unroll 2
  for (std::int64_t k = 0; k < units; ++k) {
    __m512bh column[kVectors];
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) column[v] = as_bf16(_mm512_load_si512(b + (k * kVectors + v) * LSP_WIDTH));
#pragma GCC unroll 12
    for (int m = 0; m < kRows; ++m) {
      const auto x = as_bf16(_mm512_set1_epi32(static_cast<int>(a[m * kUnitStride + k])));
#pragma GCC unroll 12
      for (int v = 0; v < kVectors; ++v) sum[m][v] = _mm512_dpbf16_ps(sum[m][v], column[v], x);
    }
  }
#pragma GCC unroll 12
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) {
      V y = reinterpret_cast<V>(sum[m][v]);
      if (end == End::kElu) y = elu(y);
      if (end == End::kEluSlope) y = y * elu_slope(load(value.row(m) + v * LSP_WIDTH));
      store(c.row(m) + v * LSP_WIDTH, y);
    }
  }
}

template <int kOutputs, int kVectors>
__attribute__((noinline)) void outer_tile_bf16(const std::uint32_t* dy, const std::uint32_t* x, std::int64_t pairs, float* c) {
  __m512 sum[kOutputs][kVectors];
#pragma GCC unroll 12
  for (int m = 0; m < kOutputs; ++m) {
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) sum[m][v] = fp32(load(c + (m * 2 + v) * LSP_WIDTH));
  }
#pragma GCC unroll 2
  for (std::int64_t r = 0; r < pairs; ++r) {
    __m512bh row[kVectors];
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) row[v] = as_bf16(_mm512_load_si512(x + (r * 2 + v) * LSP_WIDTH));
#pragma GCC unroll 12
    for (int m = 0; m < kOutputs; ++m) {
      const auto y = as_bf16(_mm512_set1_epi32(static_cast<int>(dy[r * kWidestOuter + m])));
#pragma GCC unroll 12
      for (int v = 0; v < kVectors; ++v) sum[m][v] = _mm512_dpbf16_ps(sum[m][v], row[v], y);
    }
  }
#pragma GCC unroll 12
  for (int m = 0; m < kOutputs; ++m) {
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) store(c + (m * 2 + v) * LSP_WIDTH, reinterpret_cast<V>(sum[m][v]));
  }
}

typedef void (*ProductTileBf16)(const std::uint32_t*, const float*, std::int64_t, Rows, Rows, End, Rows);
typedef void (*OuterTileBf16)(const std::uint32_t*, const std::uint32_t*, std::int64_t, float*);
const ProductTileBf16 product_tiles_bf16[2][kTileRows + 1] = {LSP_TILES(product_tile_bf16, 1), LSP_TILES(product_tile_bf16, 2)};
const OuterTileBf16 outer_tiles_bf16[2][kTileRows + 1] = {LSP_TILES(outer_tile_bf16, 1), LSP_TILES(outer_tile_bf16, 2)};

void product_bf16(std::int64_t count, Rows a, const float* packed, std::int64_t packed_depth, std::int64_t width,
                  std::int64_t depth_first, std::int64_t depth, std::int64_t first, std::int64_t columns, Rows start, Rows c,
                  End end, Rows value) {
  constexpr std::int64_t kPanelColumns = 2 * LSP_WIDTH;
  alignas(64) std::uint32_t rounded[kChunk * kUnitStride];
  for (std::int64_t chunk = 0; chunk < count; chunk += kChunk) {
    const std::int64_t rows = count - chunk < kChunk ? count - chunk : kChunk;
    const std::int64_t tiles = (rows + kTileRows - 1) / kTileRows;
    for (std::int64_t from = 0; from < depth; from += kDepth) {
      const std::int64_t span = depth - from < kDepth ? depth - from : kDepth;
      for (std::int64_t i = 0; i < rows; ++i) {
        const float* x = a.row(chunk + i) + from;
        for (std::int64_t k = 0; k < span; k += LSP_WIDTH) {
          const auto half = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(fp32(load(x + k))));
          _mm256_store_si256(reinterpret_cast<__m256i*>(rounded + i * kUnitStride + k / 2), half);
        }
      }
      for (std::int64_t n = first; n < first + columns; n += kPanelColumns) {
        const int vectors = n + kPanelColumns <= width ? 2 : 1;
        const float* b = packed + n * packed_depth + (depth_first + from) / 2 * vectors * LSP_WIDTH;
        for (std::int64_t tile = 0; tile < tiles; ++tile) {
          const std::int64_t row = rows * tile / tiles, next = rows * (tile + 1) / tiles;
          const Rows out = c.at(chunk + row, n - first);
          const Rows begin = from ? out : start.data ? start.at(chunk + row, n - first) : start;
          product_tiles_bf16[vectors - 1][next - row](rounded + row * kUnitStride, b, span / 2, begin, out,
                                                      from + span == depth ? end : End::kLinear,
                                                      value.data ? value.at(chunk + row, n - first) : value);
        }
      }
    }
  }
}

// `columns` numbers of row r and of the next one, zeros where there is none, as units.
void pair_rows(Rows rows, std::int64_t r, bool next, std::int64_t columns, std::uint32_t* to) {
  for (std::int64_t k = 0; k < columns; k += LSP_WIDTH) {
    const auto left = columns - k;
    const auto mask = static_cast<__mmask16>(left < LSP_WIDTH ? (1u << left) - 1u : 0xffffu);
    const auto some = [&](std::int64_t row) { return reinterpret_cast<V>(_mm512_maskz_loadu_ps(mask, rows.row(row) + k)); };
    _mm512_store_si512(to + k, paired(some(r), next ? some(r + 1) : V{}));
  }
}

void outer_bf16(std::int64_t rows, Rows dy, std::int64_t outputs, Rows x, std::int64_t columns, float* c) {
  alignas(64) std::uint32_t of_dy[kPairs * kWidestOuter], of_x[kPairs * 2 * LSP_WIDTH];
  const int vectors = columns > LSP_WIDTH ? 2 : 1;
  for (std::int64_t i = 0; i < outputs * 2 * LSP_WIDTH; i += LSP_WIDTH) store(c + i, V{});
  const std::int64_t tiles = (outputs + kTileRows - 1) / kTileRows;
  for (std::int64_t row = 0; row < rows; row += kSpan) {
    const std::int64_t count = rows - row < kSpan ? rows - row : kSpan, pairs = (count + 1) / 2;
    for (std::int64_t p = 0; p < pairs; ++p) {
      pair_rows(dy, row + 2 * p, 2 * p + 1 < count, outputs, of_dy + p * kWidestOuter);
      pair_rows(x, row + 2 * p, 2 * p + 1 < count, columns, of_x + p * 2 * LSP_WIDTH);
    }
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      const std::int64_t o = outputs * tile / tiles, next = outputs * (tile + 1) / tiles;
      outer_tiles_bf16[vectors - 1][next - o](of_dy + o, of_x, pairs, c + o * 2 * LSP_WIDTH);
    }
  }
}

}  // namespace
}  // namespace lsp_fast
