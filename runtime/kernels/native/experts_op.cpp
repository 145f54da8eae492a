// pocketspec::RoutedExperts: gated MLPs, of which every row uses some. The matrices of an expert are read once for all
// rows that use it. What the inputs mean is specified in export/graph/expert_functions.py.
#include <cstring>
#include <new>
#include <vector>

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
constexpr int64_t kMostExperts = 65536;

// The uses of one expert: one for each of its rows, which follow one another in the buffers.
struct Group {
  int64_t expert, first, count;
  QuantizedRows opened, closed;  // inputs of gate and up, and of down

  Group(int64_t number, int64_t start, int64_t uses, const Panel& gate, const Panel& down)
      : expert(number), first(start), count(uses), opened(uses, gate.block, gate.blocks),
        closed(uses, down.block, down.blocks) {}
};

size_t in_lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

// One call. A use is a row with one of its experts; uses are ordered by experts, then by rows.
struct Call {
  const Isa* isa;
  PackedMatrix gate_up, down;
  int64_t gate_up_panels, down_panels;  // of one expert
  int64_t hidden, width, rows, used;
  Finish finish;  // what all experts have in common
  const float *x, *weights;
  const float *gate_up_bias, *down_bias;  // [experts][2][width] and [experts][hidden]; null: none
  float* y;
  std::vector<Group> groups;
  std::vector<int64_t> row_of;    // of every use
  std::vector<int64_t> use_of;    // [rows, used]
  float *inner, *outer;           // [uses, width] and [uses, hidden]

  int64_t uses() const { return rows * used; }

  void sort(const int64_t* ids, int64_t experts) {
    std::vector<int64_t> starts(static_cast<size_t>(experts) + 1);
    for (int64_t i = 0; i < uses(); ++i) ++starts[static_cast<size_t>(ids[i]) + 1];
    for (int64_t expert = 0; expert < experts; ++expert) {
      const auto at = static_cast<size_t>(expert);
      const int64_t count = starts[at + 1];
      if (count) groups.emplace_back(expert, starts[at], count, gate_up.first, down.first);
      starts[at + 1] += starts[at];
    }
    row_of.resize(static_cast<size_t>(uses()));
    use_of.resize(static_cast<size_t>(uses()));
    for (int64_t i = 0; i < uses(); ++i) {
      const int64_t use = starts[static_cast<size_t>(ids[i])]++;
      row_of[static_cast<size_t>(use)] = i / used;
      use_of[static_cast<size_t>(i)] = use;
    }
  }

  size_t bytes() const {
    size_t total = in_lines(static_cast<size_t>(uses() * width) * 4) + in_lines(static_cast<size_t>(uses() * hidden) * 4);
    for (const Group& group : groups) total += in_lines(group.opened.bytes()) + in_lines(group.closed.bytes());
    return total;
  }

  void place(void* memory) {
    auto* at = static_cast<uint8_t*>(memory);
    inner = reinterpret_cast<float*>(at);
    at += in_lines(static_cast<size_t>(uses() * width) * 4);
    outer = reinterpret_cast<float*>(at);
    at += in_lines(static_cast<size_t>(uses() * hidden) * 4);
    for (Group& group : groups) {
      group.opened.place(at);
      at += in_lines(group.opened.bytes());
      group.closed.place(at);
      at += in_lines(group.closed.bytes());
    }
  }

  // Quantizes the inputs of groups first .. last-1: rows of x, or what gate and up made of them.
  void quantize(int64_t first, int64_t last, bool closed) const {
    for (int64_t index = first; index < last; ++index) {
      const Group& group = groups[static_cast<size_t>(index)];
      const QuantizedRows& to = closed ? group.closed : group.opened;
      for (int64_t i = 0; i < group.count; ++i) {
        const int64_t use = group.first + i;
        const float* from = closed ? inner + use * width : x + row_of[static_cast<size_t>(use)] * hidden;
        const RowSource source = {from, nullptr, 0.0f, closed ? width : hidden, to.block};
        isa->quantize(source, to.target(i), 0, to.blocks);
      }
    }
  }

  // Sixteen columns of what gate and up make of all rows of a group.
  void open(const Group& group, int64_t index) const {
    alignas(64) float products[kTileRows * kColumns];
    alignas(64) float gates[kTileRows * kColumns];
    const int64_t panel = group.expert * gate_up_panels + index * 2;
    Finish job = columns(index, width);
    if (gate_up_bias) {
      job.gate_bias = gate_up_bias + group.expert * 2 * width + index * kColumns;
      job.bias = job.gate_bias + width;
    }
    const Rows& rows_of = group.opened.rows;
    for (int64_t first = 0; first < rows_of.count; first += rows_of.tile_rows) {
      const Tile tile = group.opened.tile(first);
      isa->multiply(gate_up.panel(panel), tile, gates);
      isa->multiply(gate_up.panel(panel + 1), tile, products);
      job.y = inner + (group.first + first) * width + index * kColumns;
      isa->finish(products, gates, tile.rows, job);
    }
  }

  // Sixteen columns of what down makes of them.
  void close(const Group& group, int64_t index) const {
    alignas(64) float products[kTileRows * kColumns];
    Finish job = columns(index, hidden);
    job.activation = Activation::kNone;
    if (down_bias) job.bias = down_bias + group.expert * hidden + index * kColumns;
    const Rows& rows_of = group.closed.rows;
    for (int64_t first = 0; first < rows_of.count; first += rows_of.tile_rows) {
      const Tile tile = group.closed.tile(first);
      isa->multiply(down.panel(group.expert * down_panels + index), tile, products);
      job.y = outer + (group.first + first) * hidden + index * kColumns;
      isa->finish(products, nullptr, tile.rows, job);
    }
  }

  Finish columns(int64_t index, int64_t size) const {
    Finish job = finish;
    const int64_t left = size - index * kColumns;
    job.stride = size;
    job.columns = static_cast<int>(left < kColumns ? left : kColumns);
    return job;
  }

  // Adds up the experts of rows first .. last-1.
  void combine(int64_t first, int64_t last) const {
    for (int64_t row = first; row < last; ++row) {
      float* to = y + row * hidden;
      for (int64_t place = 0; place < used; ++place) {
        const auto at = static_cast<size_t>(row * used + place);
        const float* from = outer + use_of[at] * hidden;
        const float weight = weights[at];
        if (place == 0) {
          for (int64_t i = 0; i < hidden; ++i) to[i] = from[i] * weight;
        } else {
          for (int64_t i = 0; i < hidden; ++i) to[i] = to[i] + from[i] * weight;
        }
      }
    }
  }
};

class RoutedExperts {
 public:
  static constexpr const char* kName = "RoutedExperts";
  static constexpr InputSpec kInputs[] = {{kFloat, kRequired}, {kInt64, kRequired}, {kFloat, kRequired},
                                          {kUint8, kRequired}, {kAny, kRequired},   {kUint8, kOptional},
                                          {kUint8, kRequired}, {kAny, kRequired},   {kUint8, kOptional},
                                          {kFloat, kOptional}, {kFloat, kOptional}};
  static constexpr size_t kInputCount = sizeof kInputs / sizeof(InputSpec);
  static constexpr InputSpec kOutputs[] = {{kFloat, kRequired}};

  explicit RoutedExperts(const Settings& settings) : settings_(settings) {}

  Status init(const OrtKernelInfo* info) {
    label_ = label_of(info, kName);
    POCKETSPEC_RETURN_IF_ERROR(gate_up_.read(info, label_.text));
    POCKETSPEC_RETURN_IF_ERROR(ort::attribute(info, "experts", &experts_));
    if (experts_ < 1 || experts_ > kMostExperts) {
      return ort::error(kInvalidArgument, "%s: experts %lld must be 1 to %lld", label_.text,
                        static_cast<long long>(experts_), static_cast<long long>(kMostExperts));
    }
    POCKETSPEC_RETURN_IF_ERROR(read_activation(info));
    gate_up_.count = experts_;
    gate_up_.gated = true;
    down_ = gate_up_;
    down_.k = gate_up_.n;
    down_.n = gate_up_.k;
    down_.gated = false;
    return nullptr;
  }

  Status compute(OrtKernelContext* context);

 private:
  Status read_activation(const OrtKernelInfo* info);
  Status check_bias(const char* what, const ort::Tensor& tensor, int64_t size, const float** bias) const;
  Status run(const OrtKernelContext* context, Call& call) const;

  const Settings settings_;
  Label label_;
  MatrixSpec gate_up_, down_;
  int64_t experts_ = 0;
  Finish finish_ = {};
};

Status RoutedExperts::read_activation(const OrtKernelInfo* info) {
  constexpr struct {
    const char* name;
    Activation activation;
  } known[] = {{"silu", Activation::kSilu}, {"gelu_tanh", Activation::kGeluTanh}, {"clamped_swiglu", Activation::kClampedSwiglu}};
  char name[32] = "";
  ort::optional_text(info, "activation", name, sizeof name);
  for (const auto& each : known) {
    if (std::strcmp(name, each.name) == 0) finish_.activation = each.activation;
  }
  if (finish_.activation == Activation::kNone) {
    return ort::error(kInvalidArgument, "%s: activation '%s' is unknown; allowed: silu, gelu_tanh, clamped_swiglu", label_.text,
                      name);
  }
  if (finish_.activation != Activation::kClampedSwiglu) return nullptr;
  POCKETSPEC_RETURN_IF_ERROR(ort::attribute(info, "alpha", &finish_.alpha));
  return ort::attribute(info, "limit", &finish_.limit);
}

Status RoutedExperts::check_bias(const char* what, const ort::Tensor& tensor, int64_t size, const float** bias) const {
  *bias = static_cast<const float*>(tensor.data);
  if (!tensor.is_present() || tensor.count() == experts_ * size) return nullptr;
  return ort::error(kInvalidArgument, "%s: %s has %lld elements, expected %lld", label_.text, what,
                    static_cast<long long>(tensor.count()), static_cast<long long>(experts_ * size));
}

Status RoutedExperts::compute(OrtKernelContext* context) {
  ort::Tensor inputs[kInputCount];
  for (size_t i = 0; i < kInputCount; ++i) POCKETSPEC_RETURN_IF_ERROR(ort::input(context, i, &inputs[i]));
  const ort::Tensor &x = inputs[0], &ids = inputs[1], &weights = inputs[2];
  Call call = {};
  call.isa = settings_.isa;
  POCKETSPEC_RETURN_IF_ERROR(gate_up_.check(label_.text, inputs[3], inputs[4], inputs[5], &call.gate_up));
  POCKETSPEC_RETURN_IF_ERROR(down_.check(label_.text, inputs[6], inputs[7], inputs[8], &call.down));
  if (x.rank == 0 || x.dims[x.rank - 1] != gate_up_.k) {
    return ort::error(kInvalidArgument, "%s: the last axis of x has %lld elements, expected K = %lld", label_.text,
                      static_cast<long long>(x.rank ? x.dims[x.rank - 1] : 0), static_cast<long long>(gate_up_.k));
  }
  call.hidden = gate_up_.k, call.width = gate_up_.n;
  call.gate_up_panels = gate_up_.panels(), call.down_panels = down_.panels();
  call.rows = x.count() / call.hidden;
  call.used = ids.rank ? ids.dims[ids.rank - 1] : 0;
  call.finish = finish_;
  POCKETSPEC_RETURN_IF_ERROR(check_bias("gate_up_bias", inputs[9], 2 * call.width, &call.gate_up_bias));
  POCKETSPEC_RETURN_IF_ERROR(check_bias("down_bias", inputs[10], call.hidden, &call.down_bias));
  if (call.used < 1 || ids.count() != call.rows * call.used || weights.count() != ids.count()) {
    return ort::error(kInvalidArgument, "%s: experts and weights have %lld and %lld elements, expected some for each of %lld rows",
                      label_.text, static_cast<long long>(ids.count()), static_cast<long long>(weights.count()),
                      static_cast<long long>(call.rows));
  }
  const auto* chosen = static_cast<const int64_t*>(ids.data);
  for (int64_t i = 0; i < ids.count(); ++i) {
    if (chosen[i] >= 0 && chosen[i] < experts_) continue;
    return ort::error(kInvalidArgument, "%s: experts has %lld, expected 0 to %lld", label_.text,
                      static_cast<long long>(chosen[i]), static_cast<long long>(experts_ - 1));
  }
  void* y = nullptr;
  POCKETSPEC_RETURN_IF_ERROR(ort::output(context, 0, x.dims, x.rank, &y));
  if (call.rows == 0) return nullptr;
  call.x = static_cast<const float*>(x.data);
  call.weights = static_cast<const float*>(weights.data);
  call.y = static_cast<float*>(y);
  try {
    call.sort(chosen, experts_);
  } catch (const std::bad_alloc&) {
    return ort::error(kFail, "%s: no memory to sort %lld rows", label_.text, static_cast<long long>(call.rows));
  }
  return run(context, call);
}

Status RoutedExperts::run(const OrtKernelContext* context, Call& call) const {
  thread_local Scratch scratch;
  void* memory = scratch.at_least(call.bytes());
  if (!memory) {
    return ort::error(kFail, "%s: no memory for the activations of %lld rows; use a smaller prefill chunk", label_.text,
                      static_cast<long long>(call.rows));
  }
  call.place(memory);
  const int crew = settings_.crew->count();
  const auto groups = static_cast<int64_t>(call.groups.size());
  const auto in_pieces = [&](const PackedMatrix& matrix, int64_t panels, int together, const auto& work) {
    // Unit after unit of a group, so that threads read far apart.
    const int64_t units = groups * panels, bytes = static_cast<int64_t>(matrix.code_bytes()) * together;
    const int64_t piece = bytes < kPieceBytes ? kPieceBytes / bytes : 1;
    const int threads = panels * bytes * call.uses() < kParallelProducts ? 1 : crew;
    const auto range = [&](int64_t first, int64_t last) {
      for (int64_t unit = first; unit < last; ++unit) work(call.groups[static_cast<size_t>(unit / panels)], unit % panels);
    };
    return run_ranges(context, threads, units, piece, range, settings_.crew);
  };
  const auto quantize = [&](bool closed) {
    const int64_t size = closed ? call.width : call.hidden;
    const auto range = [&](int64_t first, int64_t last) { call.quantize(first, last, closed); };
    return run_ranges(context, call.uses() * size < kParallelActivations ? 1 : crew, groups, 1, range, settings_.crew);
  };
  POCKETSPEC_RETURN_IF_ERROR(quantize(false));
  POCKETSPEC_RETURN_IF_ERROR(in_pieces(call.gate_up, call.gate_up_panels / 2, 2,
                                       [&](const Group& group, int64_t index) { call.open(group, index); }));
  POCKETSPEC_RETURN_IF_ERROR(quantize(true));
  POCKETSPEC_RETURN_IF_ERROR(in_pieces(call.down, call.down_panels, 1,
                                       [&](const Group& group, int64_t index) { call.close(group, index); }));
  const auto combine = [&](int64_t first, int64_t last) { call.combine(first, last); };
  return run_ranges(context, call.uses() * call.hidden < kParallelActivations * 4 ? 1 : crew, call.rows, 1, combine,
                    settings_.crew);
}

}  // namespace

CustomOp* make_routed_experts(const Settings& settings) {
  return new (std::nothrow) Operator<RoutedExperts>(settings);
}

}  // namespace pocketspec
