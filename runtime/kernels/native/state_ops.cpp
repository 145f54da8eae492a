// pocketspec::ShortConvolution and pocketspec::LinearRecurrence: layers whose state all rows have changed. What their
// inputs mean is specified in export/graph/state_functions.py.
#include <atomic>
#include <cstring>

#include "operators.h"
#include "ranges.h"

namespace pocketspec {
namespace {

constexpr int64_t kParallelFloats = 16 * 1024;   // of a convolution or of rows to prepare
constexpr int64_t kParallelUpdates = 64 * 1024;  // numbers of states times rows
// Rows that are worked on before the next ones are prepared.
constexpr int64_t kBlockRows = 64;

inline long long print(int64_t value) { return static_cast<long long>(value); }

bool has_shape(const ort::Tensor& tensor, int64_t a, int64_t b, int64_t c, int64_t d = -1) {
  const int64_t dims[] = {a, b, c, d};
  if (!tensor.data || tensor.rank != (d < 0 ? 3 : 4)) return false;
  for (int i = 0; i < tensor.rank; ++i) {
    if (dims[i] >= 0 && tensor.dims[i] != dims[i]) return false;
  }
  return true;
}

class ShortConvolution {
 public:
  static constexpr const char* kName = "ShortConvolution";
  static constexpr InputSpec kInputs[] = {
      {kFloat, kRequired}, {kFloat, kRequired}, {kFloat, kOptional}, {kFloat, kRequired}, {kInt64, kRequired}};
  static constexpr InputSpec kOutputs[] = {{kFloat, kRequired}, {kFloat, kRequired}};

  explicit ShortConvolution(const Settings& settings) : settings_(settings) {}

  Status init(const OrtKernelInfo* info) {
    label_ = label_of(info, kName);
    POCKETSPEC_RETURN_IF_ERROR(ort::attribute(info, "width", &width_));
    ort::optional_attribute(info, "silu", &silu_);
    if (width_ >= 2 && width_ <= kMaxTaps) return nullptr;
    return ort::error(kInvalidArgument, "%s: width %lld must be 2 to %d", label_.text, print(width_), kMaxTaps);
  }

  Status compute(OrtKernelContext* context) {
    ort::Tensor x, weight, bias, past, total;
    ort::Tensor* inputs[] = {&x, &weight, &bias, &past, &total};
    for (size_t i = 0; i < 5; ++i) POCKETSPEC_RETURN_IF_ERROR(ort::input(context, i, inputs[i]));
    const int64_t channels = x.rank == 3 ? x.dims[2] : -1, rows = x.rank == 3 ? x.dims[1] : -1;
    if (!has_shape(x, 1, rows, channels) || !has_shape(past, 1, -1, channels) || past.dims[1] < width_ ||
        weight.count() != width_ * channels || (bias.is_present() && bias.count() != channels) || total.count() != 1) {
      return ort::error(kInvalidArgument, "%s: its inputs do not fit x of %lld channels and a width of %lld", label_.text,
                        print(channels), print(width_));
    }
    const int64_t slots = past.dims[1], length = *static_cast<const int64_t*>(total.data) - rows;
    if (length < 0) return ort::error(kInvalidArgument, "%s: total is less than its %lld rows", label_.text, print(rows));
    void *y = nullptr, *present = nullptr;
    POCKETSPEC_RETURN_IF_ERROR(ort::output(context, 0, x.dims, 3, &y));
    POCKETSPEC_RETURN_IF_ERROR(ort::output(context, 1, past.dims, 3, &present));
    if (present != past.data) std::memcpy(present, past.data, static_cast<size_t>(slots * channels) * sizeof(float));
    auto* ring = static_cast<float*>(present);
    const auto* fresh = static_cast<const float*>(x.data);
    const auto work = [&](int64_t first, int64_t last) {
      for (int64_t row = 0; row < rows; ++row) {
        ConvolutionRow job;
        for (int tap = 0; tap < width_; ++tap) {
          const int64_t back = row + tap - width_ + 1;  // relative to the first new row
          const int64_t slot = ((length + back) % slots + slots) % slots;
          job.taps[tap] = back < 0 ? ring + slot * channels : fresh + back * channels;
        }
        job.width = static_cast<int>(width_);
        job.weight = static_cast<const float*>(weight.data);
        job.bias = bias.is_present() ? static_cast<const float*>(bias.data) : nullptr;
        job.silu = silu_ != 0;
        job.channels = channels;
        job.y = static_cast<float*>(y) + row * channels;
        settings_.isa->convolve(job, first * 16, last * 16 < channels ? last * 16 : channels);
      }
      // Only now: until here the ring has the rows before the step.
      const int64_t start = first * 16, end = last * 16 < channels ? last * 16 : channels;
      for (int64_t row = rows > slots ? rows - slots : 0; row < rows; ++row) {
        std::memcpy(ring + (length + row) % slots * channels + start, fresh + row * channels + start,
                    static_cast<size_t>(end - start) * sizeof(float));
      }
    };
    const int threads = rows * channels * width_ < kParallelFloats ? 1 : settings_.crew->count();
    const int64_t pieces = (channels + 15) / 16;
    return run_ranges(context, threads, pieces, (pieces + threads - 1) / threads, work, settings_.crew);
  }

 private:
  const Settings settings_;
  Label label_;
  int64_t width_ = 0, silu_ = 0;
};

// One call of LinearRecurrence: rows 0 .. repeated-1 are those of past updates, the others are new.
struct RecurrenceCall {
  int64_t rows, repeated, folded, held;
  int64_t heads, key_heads, key_size, value_size, update_size;
  const float *query, *key, *value, *log_decay, *beta;
  const float* past_updates;
  float *base, *updates, *y;

  int64_t total() const { return repeated + rows; }
  int64_t keys() const { return key_heads * key_size; }
  int64_t values() const { return heads * value_size; }
};

class LinearRecurrence {
 public:
  static constexpr const char* kName = "LinearRecurrence";
  static constexpr InputSpec kInputs[] = {{kFloat, kRequired}, {kFloat, kRequired}, {kFloat, kRequired}, {kFloat, kRequired},
                                          {kFloat, kOptional}, {kFloat, kRequired}, {kFloat, kRequired}, {kInt64, kRequired}};
  static constexpr InputSpec kOutputs[] = {{kFloat, kRequired}, {kFloat, kRequired}, {kFloat, kRequired}};

  explicit LinearRecurrence(const Settings& settings) : settings_(settings) {}

  Status init(const OrtKernelInfo* info) {
    label_ = label_of(info, kName);
    POCKETSPEC_RETURN_IF_ERROR(ort::attribute(info, "key_heads", &key_heads_));
    POCKETSPEC_RETURN_IF_ERROR(ort::attribute(info, "scale", &scale_));
    POCKETSPEC_RETURN_IF_ERROR(ort::attribute(info, "epsilon", &epsilon_));
    if (key_heads_ >= 1) return nullptr;
    return ort::error(kInvalidArgument, "%s: key_heads %lld must be positive", label_.text, print(key_heads_));
  }

  Status compute(OrtKernelContext* context);

 private:
  Status place(OrtKernelContext* context, RecurrenceCall* call) const;
  // Rows first .. last-1, at most so many as scratch has room for; the base takes them over if `stays`.
  Status run_block(const OrtKernelContext* context, const RecurrenceCall& call, int64_t first, int64_t last, bool stays) const;
  void prepare_row(const RecurrenceCall& call, int64_t row, float* update, float* query) const;

  const Settings settings_;
  Label label_;
  int64_t key_heads_ = 0;
  float scale_ = 1, epsilon_ = 0;
};

Status LinearRecurrence::place(OrtKernelContext* context, RecurrenceCall* call) const {
  ort::Tensor inputs[8];
  for (size_t i = 0; i < 8; ++i) POCKETSPEC_RETURN_IF_ERROR(ort::input(context, i, &inputs[i]));
  const ort::Tensor &base = inputs[5], &updates = inputs[6];
  if (base.rank != 4 || updates.rank != 3 || inputs[1].rank != 3 || inputs[7].count() != 2) {
    return ort::error(kInvalidArgument, "%s: its states have other axes than [1, heads, keys, values] and [1, held, update]",
                      label_.text);
  }
  call->rows = inputs[1].dims[1];
  call->heads = base.dims[1], call->key_size = base.dims[2], call->value_size = base.dims[3];
  call->key_heads = key_heads_;
  call->held = updates.dims[1], call->update_size = call->heads + call->keys() + call->values();
  const int64_t sizes[] = {call->keys(), call->keys(), call->values(), call->heads, call->heads};
  for (int i = 0; i < 5; ++i) {
    if (i == 4 && !inputs[4].is_present()) continue;
    if (!has_shape(inputs[i], 1, call->rows, sizes[i])) {
      return ort::error(kInvalidArgument, "%s: input %d does not have the shape [1, %lld, %lld]", label_.text, i,
                        print(call->rows), print(sizes[i]));
    }
  }
  const auto* replay = static_cast<const int64_t*>(inputs[7].data);
  call->repeated = replay[0], call->folded = replay[1];
  if (call->heads % key_heads_ != 0 || updates.dims[2] != call->update_size || call->key_size > kMaxKeySize ||
      call->repeated < 0 || call->repeated > call->held || call->folded < 0 || call->folded > call->total() ||
      call->total() - call->folded > call->held) {
    return ort::error(kInvalidArgument, "%s: replay %lld, %lld of %lld rows does not fit %lld held updates of %lld numbers",
                      label_.text, print(call->repeated), print(call->folded), print(call->rows), print(call->held),
                      print(updates.dims[2]));
  }
  const float** places[] = {&call->query, &call->key, &call->value, &call->log_decay, &call->beta};
  for (int i = 0; i < 5; ++i) *places[i] = inputs[i].is_present() ? static_cast<const float*>(inputs[i].data) : nullptr;
  void *y = nullptr, *present = nullptr, *present_updates = nullptr;
  POCKETSPEC_RETURN_IF_ERROR(ort::output(context, 0, inputs[2].dims, 3, &y));
  POCKETSPEC_RETURN_IF_ERROR(ort::output(context, 1, base.dims, 4, &present));
  POCKETSPEC_RETURN_IF_ERROR(ort::output(context, 2, updates.dims, 3, &present_updates));
  if (present != base.data) std::memcpy(present, base.data, static_cast<size_t>(base.count()) * sizeof(float));
  if (present_updates != updates.data) {
    std::memcpy(present_updates, updates.data, static_cast<size_t>(updates.count()) * sizeof(float));
  }
  call->y = static_cast<float*>(y);
  call->base = static_cast<float*>(present);
  call->updates = static_cast<float*>(present_updates);
  call->past_updates = call->updates;
  return nullptr;
}

// Steps 1 and 2 for one row: decays, keys, room for what the row adds.
void LinearRecurrence::prepare_row(const RecurrenceCall& call, int64_t row, float* update, float* query) const {
  if (row < call.repeated) {
    std::memcpy(update, call.past_updates + row * call.update_size, static_cast<size_t>(call.update_size) * sizeof(float));
    return;
  }
  const int64_t fresh = row - call.repeated;
  settings_.isa->exponentials(call.log_decay + fresh * call.heads, call.heads, update);
  for (int64_t head = 0; head < call.key_heads; ++head) {
    const int64_t at = fresh * call.keys() + head * call.key_size;
    settings_.isa->scale_head(call.key + at, call.key_size, epsilon_, 1.0f, update + call.heads + head * call.key_size);
    settings_.isa->scale_head(call.query + at, call.key_size, epsilon_, scale_, query + head * call.key_size);
  }
}

Status LinearRecurrence::run_block(const OrtKernelContext* context, const RecurrenceCall& call, int64_t first, int64_t last,
                                   bool stays) const {
  const int64_t rows = last - first, known = call.repeated < first ? 0 : call.repeated < last ? call.repeated - first : rows;
  thread_local Scratch scratch;
  auto* update = static_cast<float*>(
      scratch.at_least(static_cast<size_t>(rows * (call.update_size + call.keys())) * sizeof(float)));
  if (!update) return ort::error(kFail, "%s: no memory for %lld rows", label_.text, print(rows));
  float* query = update + rows * call.update_size;
  const auto prepare = [&](int64_t from, int64_t to) {
    for (int64_t row = from; row < to; ++row) {
      prepare_row(call, first + row, update + row * call.update_size, query + row * call.keys());
    }
  };
  const int preparing = rows * call.update_size < kParallelFloats ? 1 : settings_.crew->count();
  POCKETSPEC_RETURN_IF_ERROR(run_ranges(context, preparing, rows, 1, prepare, settings_.crew));

  const int64_t tiles = (call.value_size + kStateColumns - 1) / kStateColumns, fresh = first + known - call.repeated;
  std::atomic<bool> failed{false};
  const auto work = [&](int64_t from, int64_t to) {
    thread_local Scratch copies;
    for (int64_t index = from; index < to; ++index) {
      const int64_t head = index / tiles, column = index % tiles * kStateColumns;
      const int64_t columns = call.value_size - column < kStateColumns ? call.value_size - column : kStateColumns;
      const int64_t shared = head / (call.heads / call.key_heads) * call.key_size;
      float* base = call.base + head * call.key_size * call.value_size + column;
      // The columns lie together, so that they stay in the innermost cache.
      auto* copy = static_cast<float*>(copies.at_least(static_cast<size_t>(call.key_size * kStateColumns) * sizeof(float)));
      if (!copy) {
        failed.store(true, std::memory_order_relaxed);
        return;
      }
      const size_t bytes = static_cast<size_t>(columns) * sizeof(float);
      for (int64_t i = 0; i < call.key_size; ++i) std::memcpy(copy + i * kStateColumns, base + i * call.value_size, bytes);
      RecurrenceUnit unit;
      unit.state = copy;
      unit.state_stride = kStateColumns;
      unit.key_size = call.key_size;
      unit.columns = static_cast<int>(columns);
      unit.rows = rows, unit.known = known;
      unit.decays = update + head, unit.decay_stride = call.update_size;
      unit.keys = update + call.heads + shared, unit.key_stride = call.update_size;
      unit.added = update + call.heads + call.keys() + head * call.value_size + column, unit.added_stride = call.update_size;
      unit.queries = query + shared, unit.query_stride = call.keys();
      // Inputs begin with the first new row of the call; those of repeated rows are never read.
      const int64_t skipped = first - call.repeated;
      unit.values = call.value + skipped * call.values() + head * call.value_size + column, unit.value_stride = call.values();
      unit.rates = call.beta ? call.beta + skipped * call.heads + head : nullptr, unit.rate_stride = call.heads;
      unit.y = call.y + fresh * call.values() + head * call.value_size + column, unit.y_stride = call.values();
      settings_.isa->recur(unit);
      if (!stays) continue;
      for (int64_t i = 0; i < call.key_size; ++i) std::memcpy(base + i * call.value_size, copy + i * kStateColumns, bytes);
    }
  };
  const int threads = rows * call.heads * call.key_size * call.value_size < kParallelUpdates ? 1 : settings_.crew->count();
  POCKETSPEC_RETURN_IF_ERROR(run_ranges(context, threads, call.heads * tiles, 1, work, settings_.crew));
  if (failed.load(std::memory_order_relaxed)) return ort::error(kFail, "%s: no memory for a state", label_.text);
  if (!stays) {
    std::memcpy(call.updates, update, static_cast<size_t>(rows * call.update_size) * sizeof(float));
  }
  return nullptr;
}

Status LinearRecurrence::compute(OrtKernelContext* context) {
  RecurrenceCall call;
  POCKETSPEC_RETURN_IF_ERROR(place(context, &call));
  for (int64_t row = 0; row < call.folded; row += kBlockRows) {
    const int64_t end = row + kBlockRows < call.folded ? row + kBlockRows : call.folded;
    POCKETSPEC_RETURN_IF_ERROR(run_block(context, call, row, end, true));
  }
  return call.folded == call.total() ? nullptr : run_block(context, call, call.folded, call.total(), false);
}

}  // namespace

CustomOp* make_short_convolution(const Settings& settings) {
  return new (std::nothrow) Operator<ShortConvolution>(settings);
}

CustomOp* make_linear_recurrence(const Settings& settings) {
  return new (std::nothrow) Operator<LinearRecurrence>(settings);
}

}  // namespace pocketspec
