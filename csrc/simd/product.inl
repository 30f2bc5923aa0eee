// Products of rows with packed matrices, and sums of outer products; simd/learner_kernels.inl includes this.

namespace lsp_fast {
namespace {

// Rows that are computed together, so that sums fill the registers.
#if LSP_WIDTH == 16
constexpr int kTileRows = 12;
#else
constexpr int kTileRows = 6;
#endif
constexpr std::int64_t kChunk = 48;    // rows that stay in the cache while the columns' panels pass
constexpr std::int64_t kDepth = 256;   // of a panel that stays in the first cache
constexpr std::int64_t kSpan = 96;     // rows of a sum of outer products that stay in the first cache

inline V elu_slope(V y) { return 1.0f + (y > V{} ? V{} : y); }  // NaN stays NaN

template <int kRows, int kVectors>
__attribute__((noinline)) void product_tile(const float* a, std::int64_t a_stride, const float* b, std::int64_t depth,
                                            Rows start, Rows c, End end, Rows value) {
  V sum[kRows][kVectors];
#pragma GCC unroll 12
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) sum[m][v] = start.data ? load(start.row(m) + v * LSP_WIDTH) : V{};
  }
  // Rows by threes from a pointer each: an address for every row would take more registers than there are.
  constexpr int kTriples = (kRows + 2) / 3;
  const float* triple[kTriples];
#pragma GCC unroll 12
  for (int i = 0; i < kTriples; ++i) triple[i] = a + 3 * i * a_stride;
#pragma GCC unroll 4
  for (std::int64_t k = 0; k < depth; ++k) {
    V column[kVectors];
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) column[v] = load(b + (k * kVectors + v) * LSP_WIDTH);
#pragma GCC unroll 12
    for (int m = 0; m < kRows; ++m) {
      const float x = triple[m / 3][m % 3 * a_stride];
#pragma GCC unroll 12
      for (int v = 0; v < kVectors; ++v) sum[m][v] = sum[m][v] + x * column[v];
    }
#pragma GCC unroll 12
    for (int i = 0; i < kTriples; ++i) ++triple[i];
  }
#pragma GCC unroll 12
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) {
      V y = sum[m][v];
      if (end == End::kElu) y = elu(y);
      if (end == End::kEluSlope) y = y * elu_slope(load(value.row(m) + v * LSP_WIDTH));
      store(c.row(m) + v * LSP_WIDTH, y);
    }
  }
}

template <int kOutputs, int kVectors>
__attribute__((noinline)) void outer_tile(const float* dy, std::int64_t dy_stride, const float* x, std::int64_t x_stride,
                                          std::int64_t rows, float* c) {
  V sum[kOutputs][kVectors];
#pragma GCC unroll 12
  for (int m = 0; m < kOutputs; ++m) {
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) sum[m][v] = load(c + (m * 2 + v) * LSP_WIDTH);
  }
#pragma GCC unroll 2
  for (std::int64_t r = 0; r < rows; ++r) {
    V row[kVectors];
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) row[v] = load(x + r * x_stride + v * LSP_WIDTH);
#pragma GCC unroll 12
    for (int m = 0; m < kOutputs; ++m) {
      const float y = dy[r * dy_stride + m];
#pragma GCC unroll 12
      for (int v = 0; v < kVectors; ++v) sum[m][v] = sum[m][v] + y * row[v];
    }
  }
#pragma GCC unroll 12
  for (int m = 0; m < kOutputs; ++m) {
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) store(c + (m * 2 + v) * LSP_WIDTH, sum[m][v]);
  }
}

typedef void (*ProductTile)(const float*, std::int64_t, const float*, std::int64_t, Rows, Rows, End, Rows);
typedef void (*OuterTile)(const float*, std::int64_t, const float*, std::int64_t, std::int64_t, float*);

// By rows (or outputs) and by vectors.
#if LSP_WIDTH == 16
#define LSP_TILES(tile, v)                                                                                     \
  {nullptr,      tile<1, v>, tile<2, v>, tile<3, v>, tile<4, v>,  tile<5, v>,  tile<6, v>,                     \
   tile<7, v>, tile<8, v>, tile<9, v>, tile<10, v>, tile<11, v>, tile<12, v>}
#else
#define LSP_TILES(tile, v) {nullptr, tile<1, v>, tile<2, v>, tile<3, v>, tile<4, v>, tile<5, v>, tile<6, v>}
#endif
const ProductTile product_tiles[2][kTileRows + 1] = {LSP_TILES(product_tile, 1), LSP_TILES(product_tile, 2)};
const OuterTile outer_tiles[2][kTileRows + 1] = {LSP_TILES(outer_tile, 1), LSP_TILES(outer_tile, 2)};

[[maybe_unused]] void product(std::int64_t count, Rows a, const float* packed, std::int64_t packed_depth, std::int64_t width,
                              std::int64_t depth_first, std::int64_t depth, std::int64_t first, std::int64_t columns,
                              Rows start, Rows c, End end, Rows value) {
  constexpr std::int64_t kPanelColumns = 2 * LSP_WIDTH;
  const std::int64_t spans = (depth + kDepth - 1) / kDepth;
  for (std::int64_t chunk = 0; chunk < count; chunk += kChunk) {
    const std::int64_t rows = count - chunk < kChunk ? count - chunk : kChunk;
    const std::int64_t tiles = (rows + kTileRows - 1) / kTileRows;
    for (std::int64_t n = first; n < first + columns; n += kPanelColumns) {
      const int vectors = n + kPanelColumns <= width ? 2 : 1;
      for (std::int64_t span = 0; span < spans; ++span) {
        const std::int64_t from = depth * span / spans, to = depth * (span + 1) / spans;
        const float* b = packed + n * packed_depth + (depth_first + from) * vectors * LSP_WIDTH;
        for (std::int64_t tile = 0; tile < tiles; ++tile) {
          const std::int64_t row = chunk + rows * tile / tiles, next = chunk + rows * (tile + 1) / tiles;
          const Rows out = c.at(row, n - first);
          const Rows begin = span ? out : start.data ? start.at(row, n - first) : start;
          product_tiles[vectors - 1][next - row](a.row(row) + from, a.stride, b, to - from, begin, out,
                                                 span + 1 == spans ? end : End::kLinear,
                                                 value.data ? value.at(row, n - first) : value);
        }
      }
    }
  }
}

[[maybe_unused]] void outer(std::int64_t rows, Rows dy, std::int64_t outputs, Rows x, std::int64_t columns, float* c) {
  const int vectors = columns > LSP_WIDTH ? 2 : 1;
  for (std::int64_t i = 0; i < outputs * 2 * LSP_WIDTH; i += LSP_WIDTH) store(c + i, V{});
  const std::int64_t tiles = (outputs + kTileRows - 1) / kTileRows, spans = (rows + kSpan - 1) / kSpan;
  for (std::int64_t span = 0; span < spans; ++span) {
    const std::int64_t row = rows * span / spans, count = rows * (span + 1) / spans - row;
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      const std::int64_t o = outputs * tile / tiles, next = outputs * (tile + 1) / tiles;
      outer_tiles[vectors - 1][next - o](dy.row(row) + o, dy.stride, x.row(row), x.stride, count,
                                         c + o * 2 * LSP_WIDTH);
    }
  }
}

}  // namespace
}  // namespace lsp_fast
