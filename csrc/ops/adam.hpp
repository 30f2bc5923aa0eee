#pragma once

#include <cstdint>
#include <vector>

namespace lsp_fast {

struct AdamRules {
  double learning_rate, beta1, beta2, eps;
  double max_norm;  // what the gradient's norm is clipped to
};

// One tensor of a module, and what Adam keeps of it.
struct AdamTensor {
  float *parameter, *mean, *square;  // `size` numbers each; averages of the gradient and of its square
  float* steps;                      // one number: steps taken so far
  std::int64_t size;
};

// Adam (Kingma and Ba 2015, algorithm 1) over a module's tensors, which must stay where they are. One step at a time.
class Adam {
 public:
  explicit Adam(std::vector<AdamTensor> tensors);

  // Takes a step along the gradients, one array for each tensor, and returns the norm of all of them. They are multiplied by
  //
  //   min(1, max_norm / (norm + 1e-6))
  //
  // but not changed. Where the norm is NaN all numbers become NaN. Any number of threads gives the same bits.
  float step(const std::vector<const float*>& gradients, const AdamRules& rules, std::int64_t threads);

  const std::vector<AdamTensor>& tensors() const { return tensors_; }

 private:
  struct Chunk {
    std::size_t tensor;
    std::int64_t first, count;
  };

  std::vector<AdamTensor> tensors_;
  std::vector<Chunk> chunks_;
  std::vector<double> sums_;  // of every chunk's squares
  std::int64_t enough_;       // threads that are worth waking
};

}  // namespace lsp_fast
