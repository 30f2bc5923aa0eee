#include "networks.hpp"

#include <algorithm>
#include <cstring>

namespace lsp_fast {

std::uint16_t to_bf16(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return static_cast<std::uint16_t>((bits >> 16) | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

namespace {

float pair(float low, float high) {
  const std::uint32_t bits = static_cast<std::uint32_t>(to_bf16(low)) | static_cast<std::uint32_t>(to_bf16(high)) << 16;
  float unit;
  std::memcpy(&unit, &bits, sizeof unit);
  return unit;
}

}  // namespace

Layer Packer::pack(const float* weight, const float* bias, std::int64_t in, std::int64_t out,
                   const std::vector<Part>& parts) {
  const auto padded = (out + kPanel - 1) / kPanel * kPanel;
  std::int64_t total = 0;
  for (const auto& part : parts) total += units(precision_, part.width);
  const auto allocate = [this](std::int64_t count) {
    blocks_.push_back(std::make_unique<float[]>(static_cast<std::size_t>(count)));  // zeros
    weights_ += count;
    return blocks_.back().get();
  };
  float* w = allocate(padded * total);
  float* b = allocate(padded);
  widest_ = std::max(widest_, padded);
  std::copy_n(bias, out, b);
  // A panel after the other, so that writing goes straight on.
  float* to = w;
  for (std::int64_t o = 0; o < out; o += kPanel) {
    const auto outputs = std::min(kPanel, out - o);
    for (const auto& part : parts) {
      const float* rows = weight + o * in + part.first;
      if (precision_ == Precision::fp32) {
        for (std::int64_t k = 0; k < part.width; ++k, to += kPanel) {
          for (std::int64_t i = 0; i < outputs; ++i) to[i] = rows[i * in + k];
        }
      } else {
        for (std::int64_t k = 0; k < part.width; k += 2, to += kPanel) {
          for (std::int64_t i = 0; i < outputs; ++i) {
            const float* row = rows + i * in + k;
            to[i] = pair(row[0], k + 1 < part.width ? row[1] : 0.0f);
          }
        }
      }
    }
  }
  return {w, b, total, out, w, 0, 0};
}

void link(Networks& net) {
  std::vector<Layer*> order;
  const auto add = [&order](Mlp& mlp) {
    for (std::int64_t i = 0; i < mlp.count; ++i) order.push_back(&mlp.layers[i]);
  };
  if (net.has_actor) add(net.actor);
  for (Layer* layer : {&net.prior_in, &net.gru_input, &net.gru_hidden, &net.prior_hidden, &net.prior_out}) {
    order.push_back(layer);
  }
  for (std::int64_t i = 0; i < net.head_count; ++i) add(net.heads[i]);
  for (std::size_t i = 0; i < order.size(); ++i) {
    const Layer& next = *order[(i + 1) % order.size()];
    order[i]->next_weight = next.weight;
    order[i]->next_units = next.units;
    order[i]->next_panels = (next.out + kPanel - 1) / kPanel;
  }
}

}  // namespace lsp_fast
