#include "transition.hpp"

#include <algorithm>

namespace lsp_fast {

std::int64_t blocks_of(std::int64_t total) {
  constexpr std::int64_t kTogether = 16;
  return (total + kTogether - 1) / kTogether;
}

Block block_of(std::int64_t total, std::int64_t steps, std::int64_t i) {
  const auto blocks = blocks_of(total), first = total * i / blocks, count = total * (i + 1) / blocks - first;
  return {first, count, first * steps};
}

void zero(Rows rows, std::int64_t count, std::int64_t width) {
  for (std::int64_t i = 0; i < count; ++i) std::fill_n(rows.row(i), width, 0.0f);
}

void add(Rows from, Rows to, std::int64_t count, std::int64_t width) {
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t k = 0; k < width; ++k) to.row(i)[k] += from.row(i)[k];
  }
}

namespace {

// The sums of r and z take both biases at once.
std::vector<float> both_biases(const TorchTransition& prior, std::int64_t deter) {
  std::vector<float> bias(prior.gru_input.bias, prior.gru_input.bias + 3 * deter);
  for (std::int64_t i = 0; i < 2 * deter; ++i) bias[static_cast<std::size_t>(i)] += prior.gru_hidden.bias[i];
  return bias;
}

}  // namespace

Advance::Advance(Arena& arena, const LearnerKernels& which, const TorchTransition& prior, std::int64_t stoch,
                 std::int64_t action, std::int64_t deter_width, std::int64_t rows,
                 std::int64_t gradient_rows)
    : kernels(which),
      deter(padded(deter_width)),
      inp(arena, which, prior.inp.weight, prior.inp.bias, parts_of({stoch, action}), parts_of({prior.inp.out}),
          prior.inp.in, gradient_rows > 0),
      gru_input(arena, which, prior.gru_input.weight, both_biases(prior, deter_width).data(), parts_of({prior.inp.out}),
                parts_of({deter_width, deter_width, deter_width}), prior.gru_input.in, gradient_rows > 0),
      gru_hidden(arena, which, prior.gru_hidden.weight, prior.gru_hidden.bias, parts_of({deter_width}),
                 parts_of({deter_width, deter_width, deter_width}), prior.gru_hidden.in, gradient_rows > 0),
      hidden_outs(gru_hidden.outs),
      in(arena.rows(rows, inp.inputs)),
      x(arena.rows(rows, inp.outputs)),
      gates(arena.rows(rows, 3 * deter)),
      state_n(arena.rows(rows, deter)) {
  hidden_outs[2].at = 3 * deter;
  if (gradient_rows == 0) return;
  d_gates = arena.rows(gradient_rows, 4 * deter);
  d_x = arena.rows(gradient_rows, inp.outputs);
}

void Advance::forward(std::int64_t row, std::int64_t count, Rows h, Rows next) {
  lsp_fast::forward(kernels, inp, count, in.at(row), x.at(row), End::kElu);
  lsp_fast::forward(kernels, gru_input, count, x.at(row), gates.at(row), End::kLinear);
  const auto depth = gru_hidden.inputs, width = gru_hidden.outputs;
  kernels.product(count, h, gru_hidden.forward, depth, width, 0, depth, 0, 2 * deter, gates.at(row), gates.at(row),
                  End::kLinear, {});
  const Rows bias{const_cast<float*>(gru_hidden.bias) + 2 * deter, 0};
  kernels.product(count, h, gru_hidden.forward, depth, width, 0, depth, 2 * deter, deter, bias, state_n.at(row),
                  End::kLinear, {});
  kernels.gru(count, deter, gates.at(row), state_n.at(row), h, next);
}

void Advance::backward(std::int64_t row, std::int64_t to, std::int64_t count, Rows h, Rows dh, std::int64_t columns,
                       Rows d_in) {
  const Rows d = d_gates.at(to);
  kernels.gru_backward(count, deter, gates.at(row), state_n.at(row), h, dh, d);
  lsp_fast::backward(kernels, gru_input, count, d, d_x.at(to), x.at(row));
  if (columns == 0) return;
  const auto depth = gru_hidden.outputs, width = gru_hidden.inputs;
  kernels.product(count, d, gru_hidden.backward, depth, width, 0, 2 * deter, 0, width, dh, dh, End::kLinear, {});
  kernels.product(count, d.at(0, 3 * deter), gru_hidden.backward, depth, width, 2 * deter, deter, 0, width, dh, dh,
                  End::kLinear, {});
  kernels.product(count, d_x.at(to), inp.backward, inp.outputs, inp.inputs, 0, inp.outputs, 0, columns, {}, d_in,
                  End::kLinear, {});
}

}  // namespace lsp_fast
