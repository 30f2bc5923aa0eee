// The learner's kernels of one instruction set. A translation unit defines LSP_WIDTH (floats in a vector register),
// LSP_NAME and LSP_LEARNER (the name of what it exports), LSP_BF16 where products are to be rounded, and includes this file. Nothing here may instantiate a library
// template: the linker could pick that copy for processors that lack the instructions.
#include "learner.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "simd/vectors.inl"
#include "simd/product.inl"
#ifdef LSP_BF16
#include "simd/product_bf16.inl"
#endif
#include "simd/densities.inl"

namespace lsp_fast {
namespace {

void gru(std::int64_t count, std::int64_t deter, Rows gates, Rows state_n, Rows h, Rows next) {
  for (std::int64_t i = 0; i < count; ++i) {
    float *r = gates.row(i), *z = r + deter, *n = z + deter, *to = next.row(i);
    const float *sn = state_n.row(i), *before = h.row(i);
    for (std::int64_t k = 0; k < deter; k += LSP_WIDTH) {
      const V reset = sigmoid(load(r + k)), update = sigmoid(load(z + k));
      const V fresh = tanh(load(n + k) + reset * load(sn + k));
      store(r + k, reset);
      store(z + k, update);
      store(n + k, fresh);
      store(to + k, fresh + update * (load(before + k) - fresh));
    }
  }
}

void gru_backward(std::int64_t count, std::int64_t deter, Rows gates, Rows state_n, Rows h, Rows dh, Rows d_gates) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float *r = gates.row(i), *z = r + deter, *n = z + deter, *sn = state_n.row(i), *before = h.row(i);
    float *d = dh.row(i), *to = d_gates.row(i);
    for (std::int64_t k = 0; k < deter; k += LSP_WIDTH) {
      const V reset = load(r + k), update = load(z + k), fresh = load(n + k), given = load(d + k);
      const V to_n = given * (1.0f - update) * (1.0f - fresh * fresh);
      store(to + k, to_n * load(sn + k) * reset * (1.0f - reset));
      store(to + deter + k, given * (load(before + k) - fresh) * update * (1.0f - update));
      store(to + 2 * deter + k, to_n);
      store(to + 3 * deter + k, to_n * reset);
      store(d + k, given * update);
    }
  }
}

void deviation(std::int64_t count, std::int64_t width, Rows out, float min_std, Rows std) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float* raw = out.row(i) + width;
    for (std::int64_t k = 0; k < width; k += LSP_WIDTH) store(std.row(i) + k, softplus(load(raw + k)) + min_std);
  }
}

void deviation_backward(std::int64_t count, std::int64_t width, Rows out, Rows d_out) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float* raw = out.row(i) + width;
    float* d = d_out.row(i) + width;
    for (std::int64_t k = 0; k < width; k += LSP_WIDTH) store(d + k, load(d + k) * sigmoid(load(raw + k)));
  }
}

void sample(std::int64_t count, std::int64_t stoch, Rows out, float min_std, Rows noise, Rows s) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float *mean = out.row(i), *raw = mean + stoch, *e = noise.row(i);
    for (std::int64_t k = 0; k < stoch; k += LSP_WIDTH) {
      store(s.row(i) + k, load(mean + k) + (softplus(load(raw + k)) + min_std) * load(e + k));
    }
  }
}

void sample_backward(std::int64_t count, std::int64_t stoch, Rows out, Rows noise, Rows ds, Rows d_out) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float *raw = out.row(i) + stoch, *e = noise.row(i), *d = ds.row(i);
    float* to = d_out.row(i);
    for (std::int64_t k = 0; k < stoch; k += LSP_WIDTH) {
      store(to + k, load(to + k) + load(d + k));
      store(to + stoch + k, load(to + stoch + k) + load(d + k) * load(e + k) * sigmoid(load(raw + k)));
    }
  }
}

void policy(std::int64_t count, std::int64_t width, Rows out, float scale, float shift, float min_std, Rows noise,
            Rows policy, Rows action) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float* y = out.row(i);
    for (std::int64_t k = 0; k < width; k += LSP_WIDTH) {
      const V mean = scale * tanh(load(y + k) / scale), std = softplus(load(y + width + k) + shift) + min_std;
      store(policy.row(i) + k, mean);
      store(policy.row(i) + width + k, std);
      store(action.row(i) + k, tanh(noise.data ? mean + std * load(noise.row(i) + k) : mean));
    }
  }
}

void policy_backward(std::int64_t count, std::int64_t width, Rows out, float scale, float shift, Rows noise, Rows policy,
                     Rows action, Rows d_action, Rows d_policy, Rows d_out) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float *y = out.row(i), *p = policy.row(i), *a = action.row(i);
    for (std::int64_t k = 0; k < width; k += LSP_WIDTH) {
      const V act = load(a + k), bent = load(p + k) / scale;
      const V d_pre = load(d_action.row(i) + k) * (1.0f - act * act);
      const V d_mean = load(d_policy.row(i) + k) + d_pre;
      V d_std = load(d_policy.row(i) + width + k);
      if (noise.data) d_std = d_std + d_pre * load(noise.row(i) + k);
      store(d_out.row(i) + k, d_mean * (1.0f - bent * bent));
      store(d_out.row(i) + width + k, d_std * sigmoid(load(y + width + k) + shift));
    }
  }
}

}  // namespace

#ifdef LSP_BF16
#define LSP_PRODUCTS round_panel, product_bf16, outer_bf16
#else
#define LSP_PRODUCTS nullptr, product, outer
#endif
extern const LearnerKernels LSP_LEARNER;
const LearnerKernels LSP_LEARNER{LSP_NAME,           2 * LSP_WIDTH,   LSP_PRODUCTS,
                                 gru,                gru_backward,    deviation, deviation_backward,
                                 sample,             sample_backward, policy,  policy_backward,
                                 log_prob,           kl_divergence,   entropy};

}  // namespace lsp_fast
