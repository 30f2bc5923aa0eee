#include "learner.hpp"

#include <algorithm>
#include <cstring>
#include <deque>
#include <mutex>
#include <new>

#include "parallel.hpp"

namespace lsp_fast {

extern const LearnerKernels learner_portable;
#if defined(__x86_64__)
extern const LearnerKernels learner_avx2;
extern const LearnerKernels learner_avx512;
extern const LearnerKernels learner_avx512bf16;
#endif

const LearnerKernels* find_learner_kernels(const char* name) {
  const bool any = std::strcmp(name, "auto") == 0;
#if defined(__x86_64__)
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (std::strcmp(name, "bf16") == 0) return avx512 && __builtin_cpu_supports("avx512bf16") ? &learner_avx512bf16 : nullptr;
  // avx512bf16 is a plan's: what learning multiplies stays in fp32.
  if (avx512 && (any || std::strncmp(name, "avx512", 6) == 0)) return &learner_avx512;
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && (any || std::strcmp(name, "avx2") == 0)) return &learner_avx2;
#endif
  return any || std::strcmp(name, "portable") == 0 ? &learner_portable : nullptr;
}

struct Memory {
  struct Free {
    void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  struct Chunk {
    std::unique_ptr<float[], Free> data;
    std::int64_t size, used;
  };
  std::uint64_t kind;
  std::vector<Chunk> chunks;
};

namespace {

constexpr std::size_t kKept = 32;  // memories that wait for a call of their kind

struct Store {
  std::mutex mutex;
  std::deque<std::unique_ptr<Memory>> free;  // the longest unused one first
};

// Never destroyed, as a thread may still learn when the process ends.
Store& store() {
  static auto* made = new Store;
  return *made;
}

}  // namespace

Arena::Arena(std::uint64_t kind) {
  auto& kept = store();
  {
    const std::lock_guard<std::mutex> lock(kept.mutex);
    for (auto i = kept.free.rbegin(); i != kept.free.rend(); ++i) {
      if ((*i)->kind != kind) continue;
      memory_ = std::move(*i);
      kept.free.erase(std::next(i).base());
      break;
    }
  }
  if (!memory_) memory_ = std::make_unique<Memory>();
  memory_->kind = kind;
  for (auto& chunk : memory_->chunks) chunk.used = 0;
}

Arena::~Arena() {
  auto& kept = store();
  const std::lock_guard<std::mutex> lock(kept.mutex);
  kept.free.push_back(std::move(memory_));
  if (kept.free.size() > kKept) kept.free.pop_front();
}

float* Arena::floats(std::int64_t count) {
  const auto size = padded(std::max<std::int64_t>(count, 1));
  for (auto& chunk : memory_->chunks) {
    if (chunk.size - chunk.used < size) continue;
    float* taken = chunk.data.get() + chunk.used;
    chunk.used += size;
    return taken;
  }
  const auto whole = std::max<std::int64_t>(size, 1 << 18);
  auto* made = static_cast<float*>(::operator new[](static_cast<std::size_t>(whole) * sizeof(float), std::align_val_t{64}));
  memory_->chunks.push_back({std::unique_ptr<float[], Memory::Free>(made), whole, size});
  return made;
}

Rows Arena::rows(std::int64_t count, std::int64_t width) {
  // An odd number of lines, so that rows spread over the cache's sets.
  const auto lines = padded(width) / kLine, stride = (lines + (lines % 2 == 0 ? 1 : 0)) * kLine;
  return {floats(count * stride), stride};
}

std::uint64_t kind_of(std::uint64_t kind, std::initializer_list<std::int64_t> sizes) {
  for (const auto size : sizes) kind = (kind ^ static_cast<std::uint64_t>(size)) * 0x100000001b3u;
  return kind;
}

std::vector<Part> parts_of(const std::vector<std::int64_t>& widths) {
  std::vector<Part> parts;
  std::int64_t first = 0, at = 0;
  for (const auto width : widths) {
    if (width > 0) parts.push_back({first, width, at});
    first += width;
    at += padded(width);
  }
  return parts;
}

std::int64_t padded_width(const std::vector<Part>& parts) {
  return parts.empty() ? 0 : parts.back().at + padded(parts.back().width);
}

void copy_in(const float* from, std::int64_t width, const std::vector<Part>& parts, Rows to, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    for (const auto& part : parts) {
      float* at = to.row(i) + part.at;
      std::copy_n(from + i * width + part.first, part.width, at);
      std::fill(at + part.width, at + padded(part.width), 0.0f);
    }
  }
}

void copy_out(Rows from, const std::vector<Part>& parts, float* to, std::int64_t width, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    for (const auto& part : parts) std::copy_n(from.row(i) + part.at, part.width, to + i * width + part.first);
  }
}

void copy_in(const float* from, std::int64_t width, Rows to, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    float* at = to.row(i);
    std::copy_n(from + i * width, width, at);
    std::fill(at + width, at + padded(width), 0.0f);
  }
}

void copy_out(Rows from, float* to, std::int64_t width, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) std::copy_n(from.row(i), width, to + i * width);
}

namespace {

// Numbers of a weight matrix of these parts.
std::int64_t numbers_of(const std::vector<Part>& ins, const std::vector<Part>& outs) {
  const auto sum = [](const std::vector<Part>& parts) {
    std::int64_t total = 0;
    for (const auto& part : parts) total += part.width;
    return total;
  };
  return sum(ins) * sum(outs);
}

}  // namespace

Linear::Linear(Arena& arena, const LearnerKernels& kernels, const float* weight, const float* bias_numbers,
               std::vector<Part> in_parts, std::vector<Part> out_parts, std::int64_t in_width, bool with_backward)
    : ins(std::move(in_parts)),
      outs(std::move(out_parts)),
      in(in_width),
      inputs(padded_width(ins)),
      outputs(padded_width(outs)),
      backward(nullptr) {
  float* b = arena.floats(outputs);
  std::fill(b, b + outputs, 0.0f);
  if (bias_numbers) {
    for (const auto& o : outs) std::copy_n(bias_numbers + o.first, o.width, b + o.at);
  }
  bias = b;
  const auto place = [&](std::int64_t panel, std::int64_t columns, std::int64_t column) {
    const auto first = column / panel * panel;
    return std::pair{first, std::min(panel, columns - first)};
  };
  const auto room = [&] {
    float* p = arena.floats(inputs * outputs);
    // Weights leave no hole where no part is padded.
    if (numbers_of(ins, outs) != inputs * outputs) std::fill(p, p + inputs * outputs, 0.0f);
    return p;
  };
  float* f = room();
  constexpr std::int64_t kBlock = 64;  // inputs of a panel whose copies stay in the first cache while all outputs come by
  for (const auto& o : outs) {
    for (std::int64_t j = 0; j < o.width;) {
      const auto [first, width] = place(kernels.panel, outputs, o.at + j);
      const auto count = std::min(o.width - j, first + width - (o.at + j));
      float* to = f + first * inputs + (o.at + j - first);
      for (const auto& i : ins) {
        for (std::int64_t block = 0; block < i.width; block += kBlock) {
          const auto end = std::min(block + kBlock, i.width);
          for (std::int64_t c = 0; c < count; ++c) {
            const float* row = weight + (o.first + j + c) * in + i.first;
            for (std::int64_t k = block; k < end; ++k) to[(i.at + k) * width + c] = row[k];
          }
        }
      }
      j += count;
    }
  }
  const auto rounded = [&](float* panels, std::int64_t depth, std::int64_t columns) {
    for (std::int64_t n = 0; kernels.round_panel && n < columns; n += kernels.panel) {
      kernels.round_panel(depth, std::min(kernels.panel, columns - n), panels + n * depth);
    }
    return panels;
  };
  forward = rounded(f, inputs, outputs);
  if (!with_backward) return;
  float* g = room();
  for (const auto& i : ins) {
    for (std::int64_t k = 0; k < i.width;) {
      const auto [first, width] = place(kernels.panel, inputs, i.at + k);
      const auto count = std::min(i.width - k, first + width - (i.at + k));
      float* to = g + first * outputs + (i.at + k - first);
      for (const auto& o : outs) {
        for (std::int64_t j = 0; j < o.width; ++j) {
          std::copy_n(weight + (o.first + j) * in + i.first + k, count, to + (o.at + j) * width);
        }
      }
      k += count;
    }
  }
  backward = rounded(g, outputs, inputs);
}

void forward(const LearnerKernels& kernels, const Linear& layer, std::int64_t count, Rows x, Rows y, End end, Rows start) {
  if (!start.data) start = {const_cast<float*>(layer.bias), 0};
  kernels.product(count, x, layer.forward, layer.inputs, layer.outputs, 0, layer.inputs, 0, layer.outputs, start, y, end,
                  {});
}

void backward(const LearnerKernels& kernels, const Linear& layer, std::int64_t count, Rows dy, Rows dx, Rows value,
              bool add) {
  kernels.product(count, dy, layer.backward, layer.outputs, layer.inputs, 0, layer.outputs, 0, layer.inputs,
                  add ? dx : Rows{}, dx, value.data ? End::kEluSlope : End::kLinear, value);
}

namespace {

constexpr std::int64_t kPieceOutputs = 132;  // times a panel: what stays in the first cache while rows stream by

}  // namespace

void WeightGradients::add(const Linear& layer, const std::vector<Part>& outs, std::int64_t rows, Rows dy, Rows x,
                          float* weight, float* bias) {
  bool first = true;
  for (const auto& i : layer.ins) {
    for (std::int64_t k = 0; k < i.width; k += kernels_.panel) {
      for (const auto& o : outs) {
        const auto chunks = (o.width + kPieceOutputs - 1) / kPieceOutputs;
        for (std::int64_t c = 0; c < chunks; ++c) {
          const auto from = o.width * c / chunks, outputs = o.width * (c + 1) / chunks - from;
          pieces_.push_back({rows, dy.at(0, o.at + from), x.at(0, i.at + k), outputs,
                             std::min(kernels_.panel, i.width - k), weight + (o.first + from) * layer.in + i.first + k,
                             layer.in, first && bias ? bias + o.first + from : nullptr});
        }
      }
      first = false;
    }
  }
}

void WeightGradients::run(std::int64_t threads) {
  // The longest ones first, so that threads end together.
  std::stable_sort(pieces_.begin(), pieces_.end(), [](const Piece& a, const Piece& b) {
    return a.rows * a.outputs * padded(a.columns) > b.rows * b.outputs * padded(b.columns);
  });
  const auto panel = kernels_.panel;
  one_by_one(threads, static_cast<std::int64_t>(pieces_.size()), [&](bool, const auto& next) {
    alignas(64) float sums[kPieceOutputs * 32];
    for (std::int64_t p; (p = next()) < static_cast<std::int64_t>(pieces_.size());) {
      const auto& piece = pieces_[static_cast<std::size_t>(p)];
      kernels_.outer(piece.rows, piece.dy, piece.outputs, piece.x, piece.columns, sums);
      for (std::int64_t o = 0; o < piece.outputs; ++o) {
        std::copy_n(sums + o * panel, piece.columns, piece.weight + o * piece.in);
      }
      if (!piece.bias) continue;
      std::fill(piece.bias, piece.bias + piece.outputs, 0.0f);
      for (std::int64_t r = 0; r < piece.rows; ++r) {
        const float* dy = piece.dy.row(r);
        for (std::int64_t o = 0; o < piece.outputs; ++o) piece.bias[o] += dy[o];
      }
    }
  });
}

}  // namespace lsp_fast
