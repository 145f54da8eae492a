// pocketspec::MatMulPanel: the product of activations and a packed matrix, with the norm before it and the finish after
// it.
#include <atomic>
#include <cstring>
#include <mutex>

#include "activations.h"
#include "operators.h"
#include "ranges.h"

namespace pocketspec {
namespace {

// Bytes of codes that a thread takes at a time.
constexpr int64_t kPieceBytes = 48 * 1024;
// Below these, waking another thread costs more than it saves.
constexpr int64_t kParallelActivations = 16 * 1024;
constexpr int64_t kParallelProducts = 256 * 1024;

struct Call {
  const Isa* isa;
  PackedMatrix matrix;
  QuantizedRows quantized;
  bool gated;
  int64_t n;
  const float *x, *gain, *bias, *residual;
  float* y;
  float epsilon, factor;
  Activation activation;

  const Rows& rows() const { return quantized.rows; }

  // Quantizes blocks first .. last-1 of all rows. Never divided by rows, because neighbouring rows share cache lines.
  void quantize(int64_t first, int64_t last) const {
    for (int64_t row = 0; row < rows().count; ++row) {
      const float* from = x + row * matrix.k;
      const float inverse = gain ? isa->inverse_rms(from, matrix.k, epsilon) : 0.0f;
      const RowSource source = {from, gain, inverse, matrix.k, matrix.first.block};
      const RowTarget target = quantized.target(row);
      isa->quantize(source, target, static_cast<int>(first), static_cast<int>(last));
      if (factor != 1) {
        for (int64_t block = first; block < last; ++block) target.scales[block * target.rows] *= factor;
      }
    }
  }

  // Computes sixteen outputs of all rows: one panel, or one of the gate and one of up.
  void multiply(int64_t index) const {
    alignas(64) float products[kTileRows * kColumns];
    alignas(64) float gates[kTileRows * kColumns];
    const int64_t column = index * kColumns;
    const Panel panel = matrix.panel(gated ? index * 2 + 1 : index);
    Finish job = {};
    job.bias = bias ? bias + column + (gated ? n : 0) : nullptr;
    job.gate_bias = bias && gated ? bias + column : nullptr;
    job.stride = n;
    job.columns = static_cast<int>(n - column < kColumns ? n - column : kColumns);
    job.activation = activation;
    for (int64_t first = 0; first < rows().count; first += rows().tile_rows) {
      const Tile part = quantized.tile(first);
      if (gated) isa->multiply(matrix.panel(index * 2), part, gates);
      isa->multiply(panel, part, products);
      job.residual = residual ? residual + first * n + column : nullptr;
      job.y = y + first * n + column;
      isa->finish(products, gated ? gates : nullptr, part.rows, job);
    }
  }
};

// Inputs 1 to 5: codes, scales, zero points, bias, gain.
constexpr size_t kWeightInputs = 5;
struct Weights {
  PackedMatrix matrix;
  const float *bias = nullptr, *gain = nullptr;
};

class MatMulPanel {
 public:
  static constexpr const char* kName = "MatMulPanel";
  static constexpr InputSpec kInputs[] = {{kFloat, kRequired}, {kUint8, kRequired}, {kAny, kRequired}, {kUint8, kOptional},
                                          {kFloat, kOptional}, {kFloat, kOptional}, {kFloat, kOptional}};
  static constexpr InputSpec kOutputs[] = {{kFloat, kRequired}};

  explicit MatMulPanel(const Settings& settings) : settings_(settings) {}
  Status init(const OrtKernelInfo* info);
  Status compute(OrtKernelContext* context);

 private:
  Status read_weights(const OrtKernelContext* context, Weights* weights);
  Status check_weights(const ort::Tensor (&inputs)[kWeightInputs], Weights* weights) const;
  Status check_vector(const char* what, const ort::Tensor& vector, int64_t length) const;
  Status run(const OrtKernelContext* context, Call& call) const;

  const Settings settings_;
  Label label_;
  MatrixSpec spec_;
  float epsilon_ = 0, factor_ = 1;
  Activation activation_ = Activation::kNone;
  // Constants of the graph are checked at the first call and kept; other inputs are checked at every call. Several
  // threads may run a session at once.
  bool constant_[kWeightInputs] = {};
  std::mutex keeping_;
  std::atomic<bool> kept_{false};
  Weights weights_;
};

Status MatMulPanel::init(const OrtKernelInfo* info) {
  label_ = label_of(info, kName);
  POCKETSPEC_RETURN_IF_ERROR(spec_.read(info, label_.text));
  ort::optional_attribute(info, "epsilon", &epsilon_);
  ort::optional_attribute(info, "scale", &factor_);
  for (size_t i = 0; i < kWeightInputs; ++i) constant_[i] = ort::is_constant(info, i + 1);
  char name[32];
  if (!ort::optional_text(info, "activation", name, sizeof name)) return nullptr;
  if (std::strcmp(name, "silu") != 0 && std::strcmp(name, "gelu_tanh") != 0) {
    return ort::error(kInvalidArgument, "%s: activation '%s' is unknown; allowed: silu, gelu_tanh", label_.text, name);
  }
  activation_ = name[0] == 's' ? Activation::kSilu : Activation::kGeluTanh;
  spec_.gated = true;
  return nullptr;
}

Status MatMulPanel::check_vector(const char* what, const ort::Tensor& vector, int64_t length) const {
  if (!vector.is_present() || vector.count() == length) return nullptr;
  return ort::error(kInvalidArgument, "%s: %s has %lld elements, expected %lld", label_.text, what,
                    static_cast<long long>(vector.count()), static_cast<long long>(length));
}

Status MatMulPanel::read_weights(const OrtKernelContext* context, Weights* weights) {
  if (kept_.load(std::memory_order_acquire)) {
    *weights = weights_;
    return nullptr;
  }
  ort::Tensor inputs[kWeightInputs];
  bool stay = true;
  for (size_t i = 0; i < kWeightInputs; ++i) {
    POCKETSPEC_RETURN_IF_ERROR(ort::input(context, i + 1, &inputs[i]));
    stay = stay && (constant_[i] || !inputs[i].is_present());
  }
  POCKETSPEC_RETURN_IF_ERROR(check_weights(inputs, weights));
  const std::lock_guard<std::mutex> lock(keeping_);
  if (!stay || kept_.load(std::memory_order_relaxed)) return nullptr;
  weights_ = *weights;
  kept_.store(true, std::memory_order_release);
  return nullptr;
}

Status MatMulPanel::check_weights(const ort::Tensor (&inputs)[kWeightInputs], Weights* weights) const {
  const ort::Tensor &bias = inputs[3], &gain = inputs[4];
  POCKETSPEC_RETURN_IF_ERROR(spec_.check(label_.text, inputs[0], inputs[1], inputs[2], &weights->matrix));
  POCKETSPEC_RETURN_IF_ERROR(check_vector("bias", bias, spec_.n * (spec_.gated ? 2 : 1)));
  POCKETSPEC_RETURN_IF_ERROR(check_vector("gain", gain, spec_.k));
  weights->bias = static_cast<const float*>(bias.data);
  weights->gain = static_cast<const float*>(gain.data);
  return nullptr;
}

Status MatMulPanel::compute(OrtKernelContext* context) {
  ort::Tensor a, residual;
  POCKETSPEC_RETURN_IF_ERROR(ort::input(context, 0, &a));
  Weights weights;
  POCKETSPEC_RETURN_IF_ERROR(read_weights(context, &weights));
  if (a.rank == 0 || a.dims[a.rank - 1] != spec_.k) {
    return ort::error(kInvalidArgument, "%s: the last axis of A has %lld elements, expected K = %lld", label_.text,
                      static_cast<long long>(a.rank ? a.dims[a.rank - 1] : 0), static_cast<long long>(spec_.k));
  }
  const int64_t rows = a.count() / spec_.k;
  a.dims[a.rank - 1] = spec_.n;
  POCKETSPEC_RETURN_IF_ERROR(ort::input(context, 6, &residual));
  POCKETSPEC_RETURN_IF_ERROR(check_vector("residual", residual, rows * spec_.n));
  void* y = nullptr;
  POCKETSPEC_RETURN_IF_ERROR(ort::output(context, 0, a.dims, a.rank, &y));
  if (rows == 0) return nullptr;
  const Panel& panel = weights.matrix.first;
  Call call = {settings_.isa, weights.matrix, QuantizedRows(rows, panel.block, panel.blocks), spec_.gated, spec_.n,
               static_cast<const float*>(a.data), weights.gain, weights.bias, static_cast<const float*>(residual.data),
               static_cast<float*>(y), epsilon_, factor_, activation_};
  return run(context, call);
}

Status MatMulPanel::run(const OrtKernelContext* context, Call& call) const {
  thread_local Scratch scratch;
  void* memory = scratch.at_least(call.quantized.bytes());
  if (!memory) {
    return ort::error(kFail, "%s: no memory for the activations of %lld rows; use a smaller prefill chunk", label_.text,
                      static_cast<long long>(call.rows().count));
  }
  call.quantized.place(memory);

  const int quantizers = call.rows().count * spec_.k < kParallelActivations ? 1 : settings_.crew->count();
  const auto quantize = [&call](int64_t first, int64_t last) { call.quantize(first, last); };
  POCKETSPEC_RETURN_IF_ERROR(
      run_ranges(context, quantizers, call.quantized.blocks, (call.quantized.blocks + quantizers - 1) / quantizers,
                 quantize, settings_.crew));

  const int64_t units = (spec_.n + kColumns - 1) / kColumns;
  const int64_t unit_bytes = static_cast<int64_t>(call.matrix.code_bytes()) * (spec_.gated ? 2 : 1);
  const int64_t piece = unit_bytes < kPieceBytes ? kPieceBytes / unit_bytes : 1;
  const int workers = units * unit_bytes * call.rows().count < kParallelProducts ? 1 : settings_.crew->count();
  const auto multiply = [&call](int64_t first, int64_t last) {
    for (int64_t unit = first; unit < last; ++unit) call.multiply(unit);
  };
  return run_ranges(context, workers, units, piece, multiply, settings_.crew);
}

}  // namespace

CustomOp* make_matmul_panel(const Settings& settings) { return new (std::nothrow) Operator<MatMulPanel>(settings); }

}  // namespace pocketspec
