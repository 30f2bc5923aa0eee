// The RSSM's transition with its gradient, which filtering and imagination share.
#pragma once

#include <cstdint>
#include <vector>

#include "learner.hpp"
#include "parallel.hpp"

namespace lsp_fast {

// lsp_fast.ops.types.PriorWeights, the GRU's two layers as linear ones.
struct TorchTransition {
  TorchLinear inp, gru_input, gru_hidden, hidden, out;
  float min_std;
};
// The part of a transition that the deterministic state goes through, x = elu(W [s, a] + b) and the GRU cell, for rows of
// all steps. Its gradients have `gradient_rows` rows: as many where those of weights are wanted, fewer where they are not,
// none without a gradient.
struct Advance {
  Advance(Arena& arena, const LearnerKernels& kernels, const TorchTransition& prior, std::int64_t stoch,
          std::int64_t action, std::int64_t deter, std::int64_t rows, std::int64_t gradient_rows);

  // h' [count] of rows [row, row + count) of `in` and from h; what the gradient needs is kept in these rows.
  void forward(std::int64_t row, std::int64_t count, Rows h, Rows next);

  // From dh' [count]: the gradients of the step's sums, kept in rows [to, to + count) of d_gates and d_x, and where
  // `columns` > 0 those of the first `columns` inputs into d_in and of h into dh.
  void backward(std::int64_t row, std::int64_t to, std::int64_t count, Rows h, Rows dh, std::int64_t columns, Rows d_in);

  const LearnerKernels& kernels;
  const std::int64_t deter;  // padded
  Linear inp, gru_input, gru_hidden;
  std::vector<Part> hidden_outs;  // where the state's sums lie in d_gates
  Rows in, x, gates, state_n, d_gates, d_x;
};

// Sequences, or start states, that go through all steps on one thread: `count` of them from `first` on. Rows of all steps
// lie block by block and in it step by step, this one's from `row` on. Gradients' bits depend on the blocks, which
// therefore do not depend on threads.
struct Block {
  std::int64_t first, count, row;
};
std::int64_t blocks_of(std::int64_t total);
Block block_of(std::int64_t total, std::int64_t steps, std::int64_t i);

// Calls work(block) for every block, on up to `threads` threads.
template <typename Work>
void each_block(std::int64_t threads, std::int64_t total, std::int64_t steps, const Work& work) {
  const auto blocks = blocks_of(total);
  one_by_one(threads, blocks, [&](bool, const auto& next) {
    for (std::int64_t i; (i = next()) < blocks;) work(block_of(total, steps, i));
  });
}

// rows [count, width] = 0, and += `from`.
void zero(Rows rows, std::int64_t count, std::int64_t width);
void add(Rows from, Rows to, std::int64_t count, std::int64_t width);

}  // namespace lsp_fast
