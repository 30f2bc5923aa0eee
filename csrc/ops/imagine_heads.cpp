#include "ops/imagine_heads.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "parallel.hpp"

namespace lsp_fast {

extern const Kernels kernels_portable;
#if defined(__x86_64__)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512bf16;
#endif

Block::Block(std::int64_t floats)
    : block_(static_cast<float*>(
          ::operator new[](static_cast<std::size_t>(floats) * sizeof(float), std::align_val_t{64}))) {}

void Block::AlignedFree::operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }

const Kernels* find_kernels(const char* name) {
  const bool any = std::strcmp(name, "auto") == 0;
#if defined(__x86_64__)
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  const bool avx512bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  if (avx512bf16 && (any || std::strcmp(name, "avx512bf16") == 0)) return &kernels_avx512bf16;
  if (avx512 && (any || std::strcmp(name, "avx512") == 0)) return &kernels_avx512;
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && (any || std::strcmp(name, "avx2") == 0)) return &kernels_avx2;
#endif
  return any || std::strcmp(name, "portable") == 0 ? &kernels_portable : nullptr;
}

void imagine_heads(const Kernels& kernels, const Networks& networks, const Rollouts& rollouts, std::int64_t threads) {
  if (rollouts.rows == 0) return;
  threads = std::min(threads, most_threads());
  const auto piece = rows_at_a_time(kernels, rollouts.rows, threads), pieces = (rollouts.rows + piece - 1) / piece;
  threads = std::min(threads, pieces);
  // What every thread needs is there before one wakes, so that none can fail.
  std::vector<Block> scratch, buffers;
  for (std::int64_t i = 0; i < threads; ++i) {
    scratch.push_back(scratch_of(networks, kernels));
    buffers.push_back(buffers_of(networks, kernels));
  }
  std::atomic<std::int64_t> taken{0};
  run_together(threads, [&](std::int64_t worker) {
    const auto at = static_cast<std::size_t>(worker);
    const Team alone{0, 1, nullptr, nullptr, buffers[at].data()};
    for (std::int64_t i; (i = taken++) < pieces;) {
      kernels.run(networks, rollouts, i * piece, std::min((i + 1) * piece, rollouts.rows), scratch[at].data(), alone);
    }
  });
}

}  // namespace lsp_fast
