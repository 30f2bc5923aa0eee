#include "ops/observe.hpp"

#include <algorithm>

namespace lsp_fast {

ObservePass::ObservePass(const LearnerKernels& kernels, const Sizes& sizes, const TorchTransition& prior,
                         const TorchFilter& posterior, bool with_backward)
    : kernels_(kernels),
      sizes_(sizes),
      prior_min_std_(prior.min_std),
      posterior_min_std_(posterior.min_std),
      layers_{prior.inp, prior.gru_input, prior.gru_hidden, prior.hidden, prior.out, posterior.hidden, posterior.out},
      arena_(kind_of('o', {sizes.steps, sizes.sequences, sizes.embedding, sizes.action, sizes.stoch, sizes.deter,
                           prior.inp.out, prior.hidden.out, posterior.hidden.out, with_backward})),
      advance_(arena_, kernels, prior, sizes.stoch, sizes.action, sizes.deter, sizes.steps * sizes.sequences,
               with_backward ? sizes.steps * sizes.sequences : 0),
      prior_hidden_(arena_, kernels, prior.hidden.weight, prior.hidden.bias, parts_of({sizes.deter}),
                    parts_of({prior.hidden.out}), prior.hidden.in, with_backward),
      prior_out_(arena_, kernels, prior.out.weight, prior.out.bias, parts_of({prior.hidden.out}),
                 parts_of({sizes.stoch, sizes.stoch}), prior.out.in, with_backward),
      posterior_state_(arena_, kernels, posterior.hidden.weight, nullptr, {{0, sizes.deter, 0}},
                       parts_of({posterior.hidden.out}), posterior.hidden.in, with_backward),
      posterior_embedding_(arena_, kernels, posterior.hidden.weight, posterior.hidden.bias,
                           {{sizes.deter, sizes.embedding, 0}}, parts_of({posterior.hidden.out}), posterior.hidden.in,
                           with_backward),
      posterior_out_(arena_, kernels, posterior.out.weight, posterior.out.bias, parts_of({posterior.hidden.out}),
                     parts_of({sizes.stoch, sizes.stoch}), posterior.out.in, with_backward),
      stoch_(padded(sizes.stoch)),
      deter_(padded(sizes.deter)) {
  const auto rows = sizes.steps * sizes.sequences;
  embedding_ = arena_.rows(rows, sizes.embedding);
  kept_ = arena_.rows(rows, deter_);
  deter_rows_ = arena_.rows(rows, deter_);
  stoch_rows_ = arena_.rows(rows, stoch_);
  noise_ = arena_.rows(rows, stoch_);
  u_ = arena_.rows(rows, posterior.hidden.out);
  q_ = arena_.rows(rows, 2 * stoch_);
  p_hidden_ = arena_.rows(rows, prior.hidden.out);
  p_ = arena_.rows(rows, 2 * stoch_);
  std_ = arena_.rows(rows, stoch_);
  if (!with_backward) return;
  d_embedding_ = arena_.rows(rows, sizes.embedding);
  d_u_ = arena_.rows(rows, posterior.hidden.out);
  d_q_ = arena_.rows(rows, 2 * stoch_);
  d_p_hidden_ = arena_.rows(rows, prior.hidden.out);
  d_p_ = arena_.rows(rows, 2 * stoch_);
  d_stoch_ = arena_.rows(rows, stoch_);
  d_deter_ = arena_.rows(rows, deter_);
  carry_in_ = arena_.rows(rows, advance_.inp.inputs);
}

void ObservePass::forward(const Inputs& inputs, const Outputs& outputs, std::int64_t threads) {
  first_.assign(inputs.is_first, inputs.is_first + sizes_.steps * sizes_.sequences);
  each_block(threads, sizes_.sequences, sizes_.steps, [&](const Block& block) { filter(block, inputs, outputs); });
}

void ObservePass::filter(const Block& b, const Inputs& inputs, const Outputs& outputs) {
  const auto L = sizes_.steps, B = sizes_.sequences, E = sizes_.embedding, A = sizes_.action, S = sizes_.stoch,
             D = sizes_.deter, R = b.count;
  const auto reset = [&](std::int64_t t, std::int64_t i) {
    return t == 0 || first_[static_cast<std::size_t>(t * B + b.first + i)];
  };
  for (std::int64_t t = 0; t < L; ++t) {
    const auto row = b.row + t * R, from = t * B + b.first;
    copy_in(inputs.embeddings + from * E, E, embedding_.at(row), R);
    copy_in(inputs.actions + from * A, A, advance_.in.at(row, stoch_), R);
    copy_in(inputs.noise + from * S, S, noise_.at(row), R);
    for (std::int64_t i = 0; i < R; ++i) {
      if (first_[static_cast<std::size_t>(from + i)]) std::fill_n(advance_.in.row(row + i) + stoch_, padded(A), 0.0f);
    }
  }
  lsp_fast::forward(kernels_, posterior_embedding_, L * R, embedding_.at(b.row), u_.at(b.row), End::kLinear);
  for (std::int64_t t = 0; t < L; ++t) {
    const auto row = b.row + t * R;
    for (std::int64_t i = 0; i < R; ++i) {
      float *s = advance_.in.row(row + i), *h = kept_.row(row + i);
      if (reset(t, i)) {
        std::fill_n(s, stoch_, 0.0f);
        std::fill_n(h, deter_, 0.0f);
      } else {
        std::copy_n(stoch_rows_.row(row - R + i), stoch_, s);
        std::copy_n(deter_rows_.row(row - R + i), deter_, h);
      }
    }
    advance_.forward(row, R, kept_.at(row), deter_rows_.at(row));
    lsp_fast::forward(kernels_, posterior_state_, R, deter_rows_.at(row), u_.at(row), End::kElu, u_.at(row));
    lsp_fast::forward(kernels_, posterior_out_, R, u_.at(row), q_.at(row), End::kLinear);
    kernels_.sample(R, stoch_, q_.at(row), posterior_min_std_, noise_.at(row), stoch_rows_.at(row));
  }
  // The prior does not feed the recurrence, so that all steps go through it at once.
  lsp_fast::forward(kernels_, prior_hidden_, L * R, deter_rows_.at(b.row), p_hidden_.at(b.row), End::kElu);
  lsp_fast::forward(kernels_, prior_out_, L * R, p_hidden_.at(b.row), p_.at(b.row), End::kLinear);
  const auto put = [&](Rows from, float* to, std::int64_t width) {
    for (std::int64_t t = 0; t < L; ++t) copy_out(from.at(b.row + t * R), to + (t * B + b.first) * width, width, R);
  };
  put(stoch_rows_, outputs.stoch, S);
  put(deter_rows_, outputs.deter, D);
  put(q_, outputs.posterior_mean, S);
  put(p_, outputs.prior_mean, S);
  kernels_.deviation(L * R, stoch_, q_.at(b.row), posterior_min_std_, std_.at(b.row));
  put(std_, outputs.posterior_std, S);
  kernels_.deviation(L * R, stoch_, p_.at(b.row), prior_min_std_, std_.at(b.row));
  put(std_, outputs.prior_std, S);
}

void ObservePass::backward(const Given& given, const Gradients& gradients, std::int64_t threads) {
  each_block(threads, sizes_.sequences, sizes_.steps, [&](const Block& block) { back(block, given, gradients); });
  if (gradients.transition.empty()) return;
  const auto rows = sizes_.steps * sizes_.sequences;
  const auto &prior = gradients.transition, &posterior = gradients.filter;
  WeightGradients sums(kernels_);
  sums.add(advance_.inp, rows, advance_.d_x, advance_.in, prior[0].weight, prior[0].bias);
  sums.add(advance_.gru_input, rows, advance_.d_gates, advance_.x, prior[1].weight, prior[1].bias);
  sums.add(advance_.gru_hidden, advance_.hidden_outs, rows, advance_.d_gates, kept_, prior[2].weight, prior[2].bias);
  sums.add(prior_hidden_, rows, d_p_hidden_, deter_rows_, prior[3].weight, prior[3].bias);
  sums.add(prior_out_, rows, d_p_, p_hidden_, prior[4].weight, prior[4].bias);
  sums.add(posterior_state_, rows, d_u_, deter_rows_, posterior[0].weight, nullptr);
  sums.add(posterior_embedding_, rows, d_u_, embedding_, posterior[0].weight, posterior[0].bias);
  sums.add(posterior_out_, rows, d_q_, u_, posterior[1].weight, posterior[1].bias);
  sums.run(threads);
}

void ObservePass::back(const Block& b, const Given& given, const Gradients& gradients) {
  const auto L = sizes_.steps, B = sizes_.sequences, E = sizes_.embedding, A = sizes_.action, S = sizes_.stoch,
             D = sizes_.deter, R = b.count;
  const auto take = [&](const float* from, std::int64_t width, Rows to) {
    for (std::int64_t t = 0; t < L; ++t) {
      const Rows rows = to.at(b.row + t * R);
      if (from) {
        copy_in(from + (t * B + b.first) * width, width, rows, R);
      } else {
        zero(rows, R, padded(width));
      }
    }
  };
  take(given.stoch, S, d_stoch_);
  take(given.deter, D, d_deter_);
  take(given.posterior_mean, S, d_q_);
  take(given.posterior_std, S, d_q_.at(0, stoch_));
  take(given.prior_mean, S, d_p_);
  take(given.prior_std, S, d_p_.at(0, stoch_));
  kernels_.deviation_backward(L * R, stoch_, q_.at(b.row), d_q_.at(b.row));
  kernels_.deviation_backward(L * R, stoch_, p_.at(b.row), d_p_.at(b.row));
  lsp_fast::backward(kernels_, prior_out_, L * R, d_p_.at(b.row), d_p_hidden_.at(b.row), p_hidden_.at(b.row));
  lsp_fast::backward(kernels_, prior_hidden_, L * R, d_p_hidden_.at(b.row), d_deter_.at(b.row), {}, true);
  for (std::int64_t t = L - 1; t >= 0; --t) {
    const auto row = b.row + t * R;
    const Rows dh = d_deter_.at(row);
    kernels_.sample_backward(R, stoch_, q_.at(row), noise_.at(row), d_stoch_.at(row), d_q_.at(row));
    lsp_fast::backward(kernels_, posterior_out_, R, d_q_.at(row), d_u_.at(row), u_.at(row));
    lsp_fast::backward(kernels_, posterior_state_, R, d_u_.at(row), dh, {}, true);
    const auto columns = gradients.actions ? advance_.inp.inputs : t > 0 ? stoch_ : 0;
    const Rows d_in = carry_in_.at(row);
    advance_.backward(row, row, R, kept_.at(row), dh, columns, d_in);
    for (std::int64_t i = 0; i < R; ++i) {
      const bool first = first_[static_cast<std::size_t>(t * B + b.first + i)];
      if (gradients.actions) {
        float* to = gradients.actions + (t * B + b.first + i) * A;
        if (first) {
          std::fill_n(to, A, 0.0f);
        } else {
          std::copy_n(d_in.row(i) + stoch_, A, to);
        }
      }
      if (t == 0 || first) continue;  // a reset passes nothing on to the step before
      add(d_in.at(i), d_stoch_.at(row - R + i), 1, stoch_);
      add(dh.at(i), d_deter_.at(row - R + i), 1, deter_);
    }
  }
  if (!gradients.embeddings) return;
  lsp_fast::backward(kernels_, posterior_embedding_, L * R, d_u_.at(b.row), d_embedding_.at(b.row));
  for (std::int64_t t = 0; t < L; ++t) {
    copy_out(d_embedding_.at(b.row + t * R), gradients.embeddings + (t * B + b.first) * E, E, R);
  }
}

}  // namespace lsp_fast
