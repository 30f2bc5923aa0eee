#include "ops/imagine_heads.hpp"

#include <algorithm>
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
#endif

namespace {

struct AlignedFree {
  void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
};

}  // namespace

std::int64_t scratch_size(const Networks& net, std::int64_t rows_per_tile) {
  const auto state = net.action + net.stoch + net.deter + net.skill;
  return (state + std::max(net.stoch, net.action) + 3 * net.widest) * rows_per_tile;
}

const Kernels* find_kernels(const char* name) {
  const bool any = std::strcmp(name, "auto") == 0;
#if defined(__x86_64__)
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (avx512 && (any || std::strcmp(name, "avx512") == 0)) return &kernels_avx512;
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && (any || std::strcmp(name, "avx2") == 0)) return &kernels_avx2;
#endif
  return any || std::strcmp(name, "portable") == 0 ? &kernels_portable : nullptr;
}

void imagine_heads(const Kernels& kernels, const Networks& networks, const Rollouts& rollouts, std::int64_t threads) {
  const auto tiles = (rollouts.rows + kernels.rows_per_tile - 1) / kernels.rows_per_tile;
  const auto workers = std::max<std::int64_t>(1, std::min(threads, tiles));
  const auto size = static_cast<std::size_t>(scratch_size(networks, kernels.rows_per_tile)) * sizeof(float);
  std::vector<std::unique_ptr<float[], AlignedFree>> scratch;
  for (std::int64_t i = 0; i < workers; ++i) {
    scratch.emplace_back(static_cast<float*>(::operator new[](size, std::align_val_t{64})));
  }
  parallel(workers, tiles, [&](std::int64_t first, std::int64_t last, std::int64_t worker) {
    kernels.run(networks, rollouts, first, last, scratch[static_cast<std::size_t>(worker)].get());
  });
}

}  // namespace lsp_fast
