#include "ops/imagine.hpp"

#include <algorithm>

namespace lsp_fast {

namespace {

std::uint64_t kind_of_call(const ImaginePass::Sizes& n, const TorchTransition& prior, const TorchActor& actor, bool sample,
                           bool with_backward) {
  auto kind = kind_of('i', {n.steps, n.states, n.stoch, n.deter, n.action, n.skill, prior.inp.out, prior.hidden.out,
                            sample, with_backward});
  for (const auto& layer : actor.layers) kind = kind_of(kind, {layer.out});
  return kind;
}

}  // namespace

ImaginePass::ImaginePass(const LearnerKernels& kernels, const Sizes& sizes, const TorchTransition& prior,
                         const TorchActor& actor, bool sample, bool with_backward)
    : kernels_(kernels),
      sizes_(sizes),
      actor_(actor),
      min_std_(prior.min_std),
      sample_(sample),
      arena_(kind_of_call(sizes, prior, actor, sample, with_backward)),
      advance_(arena_, kernels, prior, sizes.stoch, sizes.action, sizes.deter, sizes.steps * sizes.states,
               with_backward ? sizes.states : 0),
      prior_hidden_(arena_, kernels, prior.hidden.weight, prior.hidden.bias, parts_of({sizes.deter}),
                    parts_of({prior.hidden.out}), prior.hidden.in, with_backward),
      prior_out_(arena_, kernels, prior.out.weight, prior.out.bias, parts_of({prior.hidden.out}),
                 parts_of({sizes.stoch, sizes.stoch}), prior.out.in, with_backward),
      stoch_(padded(sizes.stoch)),
      deter_(padded(sizes.deter)),
      action_(padded(sizes.action)) {
  const auto rows = sizes.steps * sizes.states;
  in_ = arena_.rows(rows, stoch_ + deter_ + padded(sizes.skill));
  last_ = arena_.rows(sizes.states, stoch_ + deter_);
  for (std::size_t i = 0; i < actor.layers.size(); ++i) {
    const auto& layer = actor.layers[i];
    const bool out = i + 1 == actor.layers.size();
    policy_layers_.emplace_back(arena_, kernels, layer.weight, layer.bias,
                                i == 0 ? parts_of({sizes.stoch, sizes.deter, sizes.skill}) : parts_of({layer.in}),
                                out ? parts_of({sizes.action, sizes.action}) : parts_of({layer.out}), layer.in,
                                with_backward && i > 0);
    values_.push_back(arena_.rows(rows, policy_layers_.back().outputs));
    if (with_backward) d_values_.push_back(arena_.rows(rows, policy_layers_.back().outputs));
  }
  policy_ = arena_.rows(rows, 2 * action_);
  noise_ = arena_.rows(rows, stoch_);
  action_noise_ = sample ? arena_.rows(rows, action_) : Rows{};
  p_hidden_ = arena_.rows(rows, prior.hidden.out);
  p_ = arena_.rows(rows, 2 * stoch_);
  if (!with_backward) return;
  const auto n = sizes.states;
  ds_ = arena_.rows(n, stoch_);
  dh_ = arena_.rows(n, deter_);
  d_p_ = arena_.rows(n, 2 * stoch_);
  d_p_hidden_ = arena_.rows(n, prior.hidden.out);
  d_in_ = arena_.rows(n, advance_.inp.inputs);
  d_policy_ = arena_.rows(n, 2 * action_);
}

Rows ImaginePass::after(const Block& b, std::int64_t t) const {
  return t + 1 < sizes_.steps ? in_.at(b.row + (t + 1) * b.count) : last_.at(b.first);
}

void ImaginePass::forward(const Inputs& inputs, const Outputs& outputs, std::int64_t threads) {
  each_block(threads, sizes_.states, sizes_.steps, [&](const Block& block) { roll_out(block, inputs, outputs); });
}

void ImaginePass::roll_out(const Block& b, const Inputs& inputs, const Outputs& outputs) {
  const auto H = sizes_.steps, N = sizes_.states, S = sizes_.stoch, D = sizes_.deter, A = sizes_.action, Z = sizes_.skill,
             R = b.count;
  copy_in(inputs.stoch + b.first * S, S, in_.at(b.row), R);
  copy_in(inputs.deter + b.first * D, D, in_.at(b.row, stoch_), R);
  for (std::int64_t t = 0; t < H; ++t) {
    const auto row = b.row + t * R, from = t * N + b.first;
    if (Z > 0) {
      const auto held = std::min(t / inputs.skill_length, inputs.plan_length - 1);
      copy_in(inputs.skills + (held * N + b.first) * Z, Z, in_.at(row, stoch_ + deter_), R);
    }
    copy_in(inputs.stoch_noise + from * S, S, noise_.at(row), R);
    if (sample_) copy_in(inputs.action_noise + from * A, A, action_noise_.at(row), R);

    Rows x = in_.at(row);
    for (std::size_t i = 0; i < policy_layers_.size(); ++i) {
      const bool hidden = i + 1 < policy_layers_.size();
      lsp_fast::forward(kernels_, policy_layers_[i], R, x, values_[i].at(row), hidden ? End::kElu : End::kLinear);
      x = values_[i].at(row);
    }
    const Rows action = advance_.in.at(row, stoch_), noise = sample_ ? action_noise_.at(row) : Rows{};
    kernels_.policy(R, action_, x, actor_.mean_scale, actor_.std_shift, actor_.min_std, noise, policy_.at(row), action);
    for (std::int64_t i = 0; i < R; ++i) std::copy_n(in_.row(row + i), stoch_, advance_.in.row(row + i));
    const Rows next = after(b, t), h = next.at(0, stoch_);
    advance_.forward(row, R, in_.at(row, stoch_), h);
    lsp_fast::forward(kernels_, prior_hidden_, R, h, p_hidden_.at(row), End::kElu);
    lsp_fast::forward(kernels_, prior_out_, R, p_hidden_.at(row), p_.at(row), End::kLinear);
    kernels_.sample(R, stoch_, p_.at(row), min_std_, noise_.at(row), next);

    copy_out(next, outputs.stoch + from * S, S, R);
    copy_out(h, outputs.deter + from * D, D, R);
    copy_out(action, outputs.actions + from * A, A, R);
    copy_out(policy_.at(row), outputs.mean + from * A, A, R);
    copy_out(policy_.at(row, action_), outputs.stddev + from * A, A, R);
  }
}

void ImaginePass::backward(const Given& given, const std::vector<TorchGradient>& actor, std::int64_t threads) {
  each_block(threads, sizes_.states, sizes_.steps, [&](const Block& block) { back(block, given); });
  const auto rows = sizes_.steps * sizes_.states;
  WeightGradients sums(kernels_);
  for (std::size_t i = 0; i < policy_layers_.size(); ++i) {
    sums.add(policy_layers_[i], rows, d_values_[i], i == 0 ? in_ : values_[i - 1], actor[i].weight, actor[i].bias);
  }
  sums.run(threads);
}

void ImaginePass::back(const Block& b, const Given& given) {
  const auto H = sizes_.steps, N = sizes_.states, S = sizes_.stoch, D = sizes_.deter, A = sizes_.action, R = b.count;
  const Rows ds = ds_.at(b.first), dh = dh_.at(b.first), d_p = d_p_.at(b.first), d_p_hidden = d_p_hidden_.at(b.first),
             d_in = d_in_.at(b.first), d_policy = d_policy_.at(b.first);
  const auto gather = [&](const float* from, std::int64_t t, std::int64_t width, Rows to) {
    if (!from) return;
    for (std::int64_t i = 0; i < R; ++i) {
      const float* given_row = from + (t * N + b.first + i) * width;
      for (std::int64_t k = 0; k < width; ++k) to.row(i)[k] += given_row[k];
    }
  };
  zero(ds, R, stoch_);
  zero(dh, R, deter_);
  for (std::int64_t t = H - 1; t >= 0; --t) {
    const auto row = b.row + t * R;
    gather(given.stoch, t, S, ds);
    gather(given.deter, t, D, dh);
    zero(d_p, R, 2 * stoch_);
    kernels_.sample_backward(R, stoch_, p_.at(row), noise_.at(row), ds, d_p);
    lsp_fast::backward(kernels_, prior_out_, R, d_p, d_p_hidden, p_hidden_.at(row));
    lsp_fast::backward(kernels_, prior_hidden_, R, d_p_hidden, dh, {}, true);
    // What goes on to the state before, and what went into the action.
    advance_.backward(row, b.first, R, in_.at(row, stoch_), dh, advance_.inp.inputs, d_in);
    for (std::int64_t i = 0; i < R; ++i) std::copy_n(d_in.row(i), stoch_, ds.row(i));
    gather(given.actions, t, A, d_in.at(0, stoch_));
    zero(d_policy, R, 2 * action_);
    gather(given.mean, t, A, d_policy);
    gather(given.stddev, t, A, d_policy.at(0, action_));
    kernels_.policy_backward(R, action_, values_.back().at(row), actor_.mean_scale, actor_.std_shift,
                             sample_ ? action_noise_.at(row) : Rows{}, policy_.at(row), advance_.in.at(row, stoch_),
                             d_in.at(0, stoch_), d_policy, d_values_.back().at(row));
  }
  for (std::size_t i = policy_layers_.size() - 1; i > 0; --i) {
    lsp_fast::backward(kernels_, policy_layers_[i], H * R, d_values_[i].at(b.row), d_values_[i - 1].at(b.row),
                       values_[i - 1].at(b.row));
  }
}

}  // namespace lsp_fast
