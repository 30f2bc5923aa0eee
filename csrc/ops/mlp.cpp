#include "ops/mlp.hpp"

#include <algorithm>

#include "parallel.hpp"

namespace lsp_fast {

namespace {

std::uint64_t kind_of_layers(const std::vector<TorchLinear>& layers, std::int64_t rows, bool with_backward) {
  auto kind = kind_of('m', {rows, with_backward});
  for (const auto& layer : layers) kind = kind_of(kind, {layer.in, layer.out});
  return kind;
}

}  // namespace

MlpPass::MlpPass(const LearnerKernels& kernels, const std::vector<TorchLinear>& layers, bool linear_out,
                 std::int64_t rows, bool with_backward)
    : kernels_(kernels),
      rows_(rows),
      linear_out_(linear_out),
      sizes_(layers),
      in_(layers.front().in),
      out_(layers.back().out),
      arena_(kind_of_layers(layers, rows, with_backward)) {
  values_.push_back(arena_.rows(rows, in_));
  for (const auto& layer : layers) {
    layers_.emplace_back(arena_, kernels, layer.weight, layer.bias, parts_of({layer.in}), parts_of({layer.out}), layer.in,
                         with_backward);
    values_.push_back(arena_.rows(rows, layer.out));
    if (with_backward) gradients_.push_back(arena_.rows(rows, layer.out));
  }
  if (with_backward) dx_ = arena_.rows(rows, in_);
}

std::int64_t MlpPass::rows_at_a_time(std::int64_t threads) const {
  constexpr std::int64_t kMost = 96, kTile = 12;
  const auto share = (rows_ + 4 * threads - 1) / (4 * threads);
  return std::clamp((share + kTile - 1) / kTile * kTile, kTile, kMost);
}

template <typename Work>
void MlpPass::each_piece(std::int64_t threads, const Work& work) const {
  const auto piece = rows_at_a_time(threads), pieces = (rows_ + piece - 1) / piece;
  one_by_one(threads, pieces, [&](bool, const auto& next) {
    for (std::int64_t p; (p = next()) < pieces;) work(p * piece, std::min(piece, rows_ - p * piece));
  });
}

void MlpPass::forward(const float* x, float* y, std::int64_t threads) {
  each_piece(threads, [&](std::int64_t first, std::int64_t count) {
    copy_in(x + first * in_, in_, values_[0].at(first), count);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const bool elu = !linear_out_ || i + 1 < layers_.size();
      lsp_fast::forward(kernels_, layers_[i], count, values_[i].at(first), values_[i + 1].at(first),
                        elu ? End::kElu : End::kLinear);
    }
    copy_out(values_.back().at(first), y + first * out_, out_, count);
  });
}

void MlpPass::backward(const float* dy, float* dx, const std::vector<TorchGradient>& gradients, std::int64_t threads) {
  each_piece(threads, [&](std::int64_t first, std::int64_t count) {
    copy_in(dy + first * out_, out_, gradients_.back().at(first), count);
    if (!linear_out_) {
      for (std::int64_t r = first; r < first + count; ++r) {
        float* d = gradients_.back().row(r);
        const float* value = values_.back().row(r);
        for (std::int64_t k = 0; k < out_; ++k) d[k] *= value[k] > 0.0f ? 1.0f : 1.0f + value[k];
      }
    }
    chain(first, count);
    if (!dx) return;
    lsp_fast::backward(kernels_, layers_[0], count, gradients_[0].at(first), dx_.at(first));
    copy_out(dx_.at(first), dx + first * in_, in_, count);
  });
  weight_gradients(gradients, threads);
}

void MlpPass::backward_twice(const float* dx_slopes, float* dx, const float* weight_slopes,
                             const std::vector<TorchGradient>& gradients, std::int64_t threads) {
  each_piece(threads, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t r = first; r < first + count; ++r) {
      std::fill_n(gradients_.back().row(r), padded(1), 0.0f);
      gradients_.back().row(r)[0] = 1.0f;
    }
    chain(first, count);
    lsp_fast::backward(kernels_, layers_[0], count, gradients_[0].at(first), dx_.at(first));
    for (std::int64_t r = first; r < first + count; ++r) {
      for (std::int64_t k = 0; k < in_; ++k) dx[r * in_ + k] = dx_.row(r)[k] * dx_slopes[r];
      for (std::size_t i = 0; i < layers_.size(); ++i) {
        float* d = gradients_[i].row(r);
        for (std::int64_t k = 0; k < layers_[i].outputs; ++k) d[k] *= weight_slopes[r];
      }
    }
  });
  weight_gradients(gradients, threads);
}

void MlpPass::chain(std::int64_t first, std::int64_t count) {
  for (std::size_t i = layers_.size() - 1; i > 0; --i) {
    lsp_fast::backward(kernels_, layers_[i], count, gradients_[i].at(first), gradients_[i - 1].at(first),
                       values_[i].at(first));
  }
}

void MlpPass::weight_gradients(const std::vector<TorchGradient>& gradients, std::int64_t threads) const {
  if (gradients.empty()) return;
  WeightGradients sums(kernels_);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    sums.add(layers_[i], rows_, gradients_[i], values_[i], gradients[i].weight, gradients[i].bias);
  }
  sums.run(threads);
}

}  // namespace lsp_fast
