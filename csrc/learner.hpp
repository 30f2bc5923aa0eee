// What learning's operations are made of: rows of numbers, linear layers with their gradients, and one instruction set's
// kernels for them. Activations are row-major; a row of ours is padded so that each part of it begins at a cache line.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <vector>

namespace lsp_fast {

constexpr std::int64_t kLine = 16;  // floats of a cache line

inline std::int64_t padded(std::int64_t width) { return (width + kLine - 1) / kLine * kLine; }

// Rows of a matrix in memory; whoever made it keeps it.
struct Rows {
  float* data = nullptr;
  std::int64_t stride = 0;

  float* row(std::int64_t i) const { return data + i * stride; }
  Rows at(std::int64_t row, std::int64_t column = 0) const { return {data + row * stride + column, stride}; }
};

// Memory of one call: taken piece by piece, given back as a whole, and kept for the next call of the same kind, so that no
// update asks the system for its pages again.
struct Memory;
class Arena {
 public:
  explicit Arena(std::uint64_t kind);  // what it is for and how large: calls alike share their memory in turns
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  float* floats(std::int64_t count);  // begins at a cache line; not zero
  Rows rows(std::int64_t count, std::int64_t width);

 private:
  std::unique_ptr<Memory> memory_;
};

// A number for calls of one operation and of these sizes.
std::uint64_t kind_of(std::uint64_t operation, std::initializer_list<std::int64_t> sizes);

// Columns [first, first + width) of torch's tensor lie from column `at` of our rows on.
struct Part {
  std::int64_t first, width, at;
};

// The parts of these widths one after the other, each beginning at a line.
std::vector<Part> parts_of(const std::vector<std::int64_t>& widths);
std::int64_t padded_width(const std::vector<Part>& parts);

// Copies rows of torch's [., width] to ours, zeros where there is nothing, and back.
void copy_in(const float* from, std::int64_t width, const std::vector<Part>& parts, Rows to, std::int64_t count);
void copy_out(Rows from, const std::vector<Part>& parts, float* to, std::int64_t width, std::int64_t count);
// The same where the rows are one part.
void copy_in(const float* from, std::int64_t width, Rows to, std::int64_t count);
void copy_out(Rows from, float* to, std::int64_t width, std::int64_t count);

// One linear layer as torch has it, weight [out, in] and bias [out], and where its gradients go.
struct TorchLinear {
  const float *weight, *bias;
  std::int64_t in, out;
};
struct TorchGradient {
  float *weight, *bias;
};

struct LearnerKernels;

// y = x W^T + b: torch's weight [out, in] and bias [out], copied in the order in which the kernels read them: panels of
// outputs for y, panels of inputs for the gradient of x.
class Linear {
 public:
  Linear(Arena& arena, const LearnerKernels& kernels, const float* weight, const float* bias, std::vector<Part> ins,
         std::vector<Part> outs, std::int64_t in, bool backward = true);

  std::vector<Part> ins, outs;
  std::int64_t in;               // of torch's weight
  std::int64_t inputs, outputs;  // of our rows
  const float* forward;          // [outputs / panel][inputs][panel], a last panel may be narrower
  const float* backward;         // [inputs / panel][outputs][panel], or null
  const float* bias;             // [outputs]
};

// What is done with a product's sums before they are stored: nothing, ELU, or multiplied by the slope of the ELU whose
// value is given.
enum class End { kLinear, kElu, kEluSlope };

// One instruction set's kernels. Results depend neither on how rows are divided into calls nor on the number of threads.
struct LearnerKernels {
  const char* name;
  std::int64_t panel;  // columns that are computed together

  // Rounds a packed panel [depth, width] in place to what `product` multiplies, where that is not fp32; else null. It is as
  // long as before, and its last half is not read.
  void (*round_panel)(std::int64_t depth, std::int64_t width, float* panel);

  // c[count, columns] = end(start + a[count, depth] b), where columns [first, first + columns) of the packed b [panels of
  // `width` columns, depth from `depth_first` of `packed_depth`] are meant. `start` has a row for all where its stride is
  // 0, and is zero where it has no data; it may be c.
  void (*product)(std::int64_t count, Rows a, const float* packed, std::int64_t packed_depth, std::int64_t width,
                  std::int64_t depth_first, std::int64_t depth, std::int64_t first, std::int64_t columns, Rows start,
                  Rows c, End end, Rows value);

  // c[outputs][panel] = sum over rows of dy[row, outputs] x[row, panel].
  void (*outer)(std::int64_t rows, Rows dy, std::int64_t outputs, Rows x, std::int64_t columns, float* c);

  // h' = n + z (h - n) of torch's GRU cell: `gates` [count, 3 D] holds input's and state's sums of r and z, and the input's
  // of n; `state_n` [count, D] the state's of n. Gates are left as r, z, n. D is padded.
  void (*gru)(std::int64_t count, std::int64_t deter, Rows gates, Rows state_n, Rows h, Rows next);
  // From dh' in `dh`: d_gates [count, 4 D] of the sums r, z, n of the input, n of the state; and dh' z in `dh`.
  void (*gru_backward)(std::int64_t count, std::int64_t deter, Rows gates, Rows state_n, Rows h, Rows dh, Rows d_gates);

  // std = softplus(raw) + min_std of out = [mean, raw], each padded; and what raw's gradient is of std's in its place.
  void (*deviation)(std::int64_t count, std::int64_t width, Rows out, float min_std, Rows std);
  void (*deviation_backward)(std::int64_t count, std::int64_t width, Rows out, Rows d_out);

  // s = mean + (softplus(raw) + min_std) noise.
  void (*sample)(std::int64_t count, std::int64_t stoch, Rows out, float min_std, Rows noise, Rows s);
  // d_out += [ds, ds noise sigmoid(raw)]
  void (*sample_backward)(std::int64_t count, std::int64_t stoch, Rows out, Rows noise, Rows ds, Rows d_out);

  // The policy of out = [mean, raw], each padded: mean' = scale tanh(mean / scale), std = softplus(raw + shift) + min_std
  // into `policy`; the action tanh(mean' + std noise) into `action`; without noise's data tanh(mean').
  void (*policy)(std::int64_t count, std::int64_t action_width, Rows out, float scale, float shift, float min_std,
                 Rows noise, Rows policy, Rows action);
  // d_out from gradients to the action, and to policy's mean' and std in `d_policy`.
  void (*policy_backward)(std::int64_t count, std::int64_t action_width, Rows out, float scale, float shift, Rows noise,
                          Rows policy, Rows action, Rows d_action, Rows d_policy, Rows d_out);

  // Densities (ops/densities.hpp) of `count` rows of torch's `width` numbers each, summed over a row; slopes where there is
  // room for them.
  void (*log_prob)(std::int64_t count, std::int64_t width, const float* raw, const float* x, float low, float high,
                   float* out, float* d_raw);
  void (*kl_divergence)(std::int64_t count, std::int64_t width, const float* p_mean, const float* p_std,
                        const float* q_mean, const float* q_std, float* out, float* d_mean, float* d_p_std,
                        float* d_q_std);
  void (*entropy)(std::int64_t count, std::int64_t width, const float* mean, const float* std, const float* noise,
                  float* out, float* d_mean, float* d_std);
};

// The best kernels that this processor runs, or those of that name; null where it has none. `bf16`: those that multiply
// numbers rounded to it, and sum in fp32.
const LearnerKernels* find_learner_kernels(const char* name);

// y[count] = end(x W^T + b), from what `start` has in place of the bias if it is given.
void forward(const LearnerKernels& kernels, const Linear& layer, std::int64_t count, Rows x, Rows y, End end,
             Rows start = {});
// dx[count] = dy W, times the slope of the ELU whose value is `value`, or added to dx.
void backward(const LearnerKernels& kernels, const Linear& layer, std::int64_t count, Rows dy, Rows dx, Rows value = {},
              bool add = false);

// The gradients of weights and biases: each is one long sum over all rows, divided among threads by what it is the gradient
// of, so that there is nothing to add up afterwards.
class WeightGradients {
 public:
  explicit WeightGradients(const LearnerKernels& kernels) : kernels_(kernels) {}

  // weight [out, in] and bias [out], which may be null, will be written. `dy` and `x` hold `rows` rows of the layer's
  // padded outputs, where `outs` says, and of its inputs.
  void add(const Linear& layer, const std::vector<Part>& outs, std::int64_t rows, Rows dy, Rows x, float* weight,
           float* bias);
  void add(const Linear& layer, std::int64_t rows, Rows dy, Rows x, float* weight, float* bias) {
    add(layer, layer.outs, rows, dy, x, weight, bias);
  }
  void run(std::int64_t threads);

 private:
  struct Piece {
    std::int64_t rows;
    Rows dy, x;       // from the piece's first output and input on
    std::int64_t outputs, columns;
    float* weight;    // torch's, from the piece's first entry on
    std::int64_t in;
    float* bias;      // null where another piece writes it
  };
  const LearnerKernels& kernels_;
  std::vector<Piece> pieces_;
};

}  // namespace lsp_fast
