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
    ort::optional_attribute(info, "start", &start_);
    ort::optional_attribute(info, "factor_start", &factor_start_);
    ort::optional_attribute(info, "gate_start", &gate_start_);
    if (width_ >= 2 && width_ <= kMaxTaps) return nullptr;
    return ort::error(kInvalidArgument, "%s: width %lld must be 2 to %d", label_.text, print(width_), kMaxTaps);
  }

  Status compute(OrtKernelContext* context) {
    ort::Tensor x, weight, bias, past, total;
    ort::Tensor* inputs[] = {&x, &weight, &bias, &past, &total};
    for (size_t i = 0; i < 5; ++i) POCKETSPEC_RETURN_IF_ERROR(ort::input(context, i, inputs[i]));
    Call call = {};
    const int64_t channels = past.rank == 3 ? past.dims[2] : -1;
    call.rows = x.rank == 3 ? x.dims[1] : -1, call.stride = x.rank == 3 ? x.dims[2] : -1;
    if (!has_shape(x, 1, call.rows, call.stride) || !has_shape(past, 1, -1, channels) || past.dims[1] < width_ ||
        weight.count() != width_ * channels || (bias.is_present() && bias.count() != channels) || total.count() != 1 ||
        start_ < 0 || largest_start() > call.stride - channels) {
      return ort::error(kInvalidArgument, "%s: its inputs do not fit x of %lld channels and a width of %lld", label_.text,
                        print(channels), print(width_));
    }
    call.channels = channels, call.slots = past.dims[1];
    call.length = *static_cast<const int64_t*>(total.data) - call.rows;
    if (call.length < 0) {
      return ort::error(kInvalidArgument, "%s: total is less than its %lld rows", label_.text, print(call.rows));
    }
    void *y = nullptr, *present = nullptr;
    x.dims[2] = channels;
    POCKETSPEC_RETURN_IF_ERROR(ort::output(context, 0, x.dims, 3, &y));
    POCKETSPEC_RETURN_IF_ERROR(ort::output(context, 1, past.dims, 3, &present));
    if (present != past.data) std::memcpy(present, past.data, static_cast<size_t>(call.slots * channels) * sizeof(float));
    call.x = static_cast<const float*>(x.data);
    call.weight = static_cast<const float*>(weight.data);
    call.bias = bias.is_present() ? static_cast<const float*>(bias.data) : nullptr;
    call.ring = static_cast<float*>(present), call.y = static_cast<float*>(y);
    call.fresh = call.x + start_, call.fresh_stride = call.stride;
    thread_local Scratch scratch;
    if (factor_start_ >= 0) {
      auto* products = static_cast<float*>(scratch.at_least(static_cast<size_t>(call.rows * channels) * sizeof(float)));
      if (!products) return ort::error(kFail, "%s: no memory for %lld rows", label_.text, print(call.rows));
      call.products = products;
      call.fresh = products, call.fresh_stride = channels;
    }
    const auto work = [&](int64_t first, int64_t last) {
      run_columns(call, first * 16, last * 16 < channels ? last * 16 : channels);
    };
    const int threads = call.rows * channels * width_ < kParallelFloats ? 1 : settings_.crew->count();
    const int64_t pieces = (channels + 15) / 16;
    return run_ranges(context, threads, pieces, (pieces + threads - 1) / threads, work, settings_.crew);
  }

 private:
  struct Call {
    int64_t rows, channels, stride, slots, length;
    const float *x, *weight, *bias;
    const float* fresh;  // the rows that are convolved
    int64_t fresh_stride;
    float *products, *ring, *y;
  };

  int64_t largest_start() const {
    const int64_t other = factor_start_ > gate_start_ ? factor_start_ : gate_start_;
    return start_ > other ? start_ : other;
  }

  void run_columns(const Call& call, int64_t start, int64_t end) const {
    for (int64_t row = 0; call.products && row < call.rows; ++row) {
      const float* x = call.x + row * call.stride;
      float* to = call.products + row * call.channels;
      for (int64_t i = start; i < end; ++i) to[i] = x[start_ + i] * x[factor_start_ + i];
    }
    for (int64_t row = 0; row < call.rows; ++row) {
      ConvolutionRow job;
      for (int tap = 0; tap < width_; ++tap) {
        const int64_t back = row + tap - width_ + 1;  // relative to the first new row
        const int64_t slot = ((call.length + back) % call.slots + call.slots) % call.slots;
        job.taps[tap] = back < 0 ? call.ring + slot * call.channels : call.fresh + back * call.fresh_stride;
      }
      job.width = static_cast<int>(width_);
      job.weight = call.weight, job.bias = call.bias, job.silu = silu_ != 0;
      job.channels = call.channels;
      job.y = call.y + row * call.channels;
      settings_.isa->convolve(job, start, end);
      const float* gate = call.x + row * call.stride + gate_start_;
      for (int64_t i = start; gate_start_ >= 0 && i < end; ++i) job.y[i] = job.y[i] * gate[i];
    }
    // Only now: until here the ring has the rows before the step.
    for (int64_t row = call.rows > call.slots ? call.rows - call.slots : 0; row < call.rows; ++row) {
      std::memcpy(call.ring + (call.length + row) % call.slots * call.channels + start,
                  call.fresh + row * call.fresh_stride + start, static_cast<size_t>(end - start) * sizeof(float));
    }
  }

  const Settings settings_;
  Label label_;
  int64_t width_ = 0, silu_ = 0;
  int64_t start_ = 0, factor_start_ = -1, gate_start_ = -1;  // of parts of x; negative ones are missing
};

// Columns of a matrix of rows: an input, or a part of one that has wider rows.
struct Part {
  const float* data = nullptr;
  int64_t stride = 0;

  const float* row(int64_t index) const { return data + index * stride; }
};

// One call of LinearRecurrence: `repeated` rows of past updates, then `rows` new ones.
struct RecurrenceCall {
  int64_t rows, repeated, folded, held;
  int64_t heads, key_heads, key_size, value_size, update_size;
  Part query, key, value, decay, rate, gate;
  const float *decay_bias, *decay_rate, *gain;
  float *base, *updates, *y;

  int64_t total() const { return repeated + rows; }
  int64_t keys() const { return key_heads * key_size; }
  int64_t values() const { return heads * value_size; }
  int64_t key_head_of(int64_t head) const { return head / (heads / key_heads); }
};

// Some of the new rows of a call, with the repeated ones before them if they are the first.
struct RecurrenceBlock {
  int64_t known, first, count;
  int64_t folded;  // as in RecurrenceUnit
  float* updates;  // of the new rows
};

// ln(1 + exp(x)) (LinearRecurrence, step 2), in place; `spare` has room for as many numbers.
void soften(const Isa& isa, int64_t count, float* x, float* spare) {
  for (int64_t i = 0; i < count; ++i) spare[i] = x[i] < 0 ? x[i] : x[i] * -1.0f;
  isa.exponentials(spare, count, spare);
  for (int64_t i = 0; i < count; ++i) {
    const float s = spare[i] / (2.0f + spare[i]), z = s * s;
    float sum = 1.0f / 15.0f;
    for (int divisor = 13; divisor > 0; divisor -= 2) sum = sum * z + 1.0f / static_cast<float>(divisor);
    x[i] = (x[i] < 0 ? 0.0f : x[i]) + (s * 2.0f) * sum;
  }
}

class LinearRecurrence {
 public:
  static constexpr const char* kName = "LinearRecurrence";
  static constexpr InputSpec kInputs[] = {{kFloat, kRequired}, {kFloat, kRequired}, {kFloat, kRequired}, {kFloat, kRequired},
                                          {kFloat, kOptional}, {kFloat, kRequired}, {kFloat, kRequired}, {kInt64, kRequired},
                                          {kFloat, kOptional}, {kFloat, kOptional}, {kFloat, kOptional}, {kFloat, kOptional}};
  static constexpr InputSpec kOutputs[] = {{kFloat, kRequired}, {kFloat, kRequired}, {kFloat, kRequired}};
  static constexpr size_t kInputCount = sizeof(kInputs) / sizeof(InputSpec);

  explicit LinearRecurrence(const Settings& settings) : settings_(settings) {}

  Status init(const OrtKernelInfo* info) {
    label_ = label_of(info, kName);
    POCKETSPEC_RETURN_IF_ERROR(ort::attribute(info, "key_heads", &key_heads_));
    POCKETSPEC_RETURN_IF_ERROR(ort::attribute(info, "scale", &scale_));
    POCKETSPEC_RETURN_IF_ERROR(ort::attribute(info, "epsilon", &epsilon_));
    const char* starts[] = {"query_start", "key_start", "value_start", "decay_start", "rate_start", "gate_start"};
    for (int i = 0; i < 6; ++i) ort::optional_attribute(info, starts[i], &starts_[i]);
    ort::optional_attribute(info, "gate_epsilon", &gate_epsilon_);
    ort::optional_attribute(info, "rate_sigmoid", &rate_sigmoid_);
    if (key_heads_ >= 1) return nullptr;
    return ort::error(kInvalidArgument, "%s: key_heads %lld must be positive", label_.text, print(key_heads_));
  }

  Status compute(OrtKernelContext* context);

 private:
  // Work memory of one thread.
  struct Bench {
    float *state, *keys, *queries, *decays, *rates, *spare;
  };

  Status place(OrtKernelContext* context, RecurrenceCall* call) const;
  Status check_parts(const ort::Tensor* inputs, RecurrenceCall* call) const;
  Status run_block(const OrtKernelContext* context, const RecurrenceCall& call, const RecurrenceBlock& block) const;
  void run_head(const RecurrenceCall& call, const RecurrenceBlock& block, int64_t head, const Bench& bench) const;
  void prepare_head(const RecurrenceCall& call, const RecurrenceBlock& block, int64_t head, const Bench& bench) const;

  const Settings settings_;
  Label label_;
  int64_t key_heads_ = 0, rate_sigmoid_ = 0;
  int64_t starts_[6] = {};  // of the parts of inputs: queries, keys, values, decays, rates, gates
  float scale_ = 1, epsilon_ = 0, gate_epsilon_ = 0;
};

// Queries, keys, values, decays, rates and gates, and the vectors that belong to them.
Status LinearRecurrence::check_parts(const ort::Tensor* inputs, RecurrenceCall* call) const {
  const int slots[] = {0, 1, 2, 3, 4, 10};
  const int64_t sizes[] = {call->keys(), call->keys(), call->values(), call->heads, call->heads, call->values()};
  Part* parts[] = {&call->query, &call->key, &call->value, &call->decay, &call->rate, &call->gate};
  for (int i = 0; i < 6; ++i) {
    const ort::Tensor& given = inputs[slots[i]];
    if (i >= 4 && !given.is_present()) continue;
    if (!has_shape(given, 1, call->rows, -1) || starts_[i] < 0 || starts_[i] > given.dims[2] - sizes[i]) {
      return ort::error(kInvalidArgument, "%s: input %d does not have the shape [1, %lld, %lld or more]", label_.text,
                        slots[i], print(call->rows), print(starts_[i] + sizes[i]));
    }
    *parts[i] = {static_cast<const float*>(given.data) + starts_[i], given.dims[2]};
  }
  const int64_t lengths[] = {call->heads, call->heads, -1, call->value_size};
  const float** vectors[] = {&call->decay_bias, &call->decay_rate, nullptr, &call->gain};
  for (int i = 0; i < 4; ++i) {
    const ort::Tensor& given = inputs[8 + i];
    // A bias comes with a rate, a gate with a gain.
    if (given.is_present() && !inputs[8 + (i ^ 1)].is_present()) {
      return ort::error(kInvalidArgument, "%s: input %d is missing", label_.text, 8 + (i ^ 1));
    }
    if (!vectors[i]) continue;
    *vectors[i] = given.is_present() ? static_cast<const float*>(given.data) : nullptr;
    if (given.is_present() && given.count() != lengths[i]) {
      return ort::error(kInvalidArgument, "%s: input %d has %lld elements, expected %lld", label_.text, 8 + i,
                        print(given.count()), print(lengths[i]));
    }
  }
  return nullptr;
}

Status LinearRecurrence::place(OrtKernelContext* context, RecurrenceCall* call) const {
  ort::Tensor inputs[kInputCount];
  for (size_t i = 0; i < kInputCount; ++i) POCKETSPEC_RETURN_IF_ERROR(ort::input(context, i, &inputs[i]));
  const ort::Tensor &base = inputs[5], &updates = inputs[6];
  if (base.rank != 4 || updates.rank != 3 || inputs[1].rank != 3 || inputs[7].count() != 2) {
    return ort::error(kInvalidArgument, "%s: its states have other axes than [1, heads, keys, values] and [1, held, update]",
                      label_.text);
  }
  call->rows = inputs[1].dims[1];
  call->heads = base.dims[1], call->key_size = base.dims[2], call->value_size = base.dims[3];
  call->key_heads = key_heads_;
  call->held = updates.dims[1], call->update_size = call->heads + call->keys() + call->values();
  POCKETSPEC_RETURN_IF_ERROR(check_parts(inputs, call));
  const auto* replay = static_cast<const int64_t*>(inputs[7].data);
  call->repeated = replay[0], call->folded = replay[1];
  if (call->heads % key_heads_ != 0 || updates.dims[2] != call->update_size || call->key_size > kMaxKeySize ||
      call->repeated < 0 || call->repeated > call->held || call->folded < 0 || call->folded > call->total() ||
      call->total() - call->folded > call->held) {
    return ort::error(kInvalidArgument, "%s: replay %lld, %lld of %lld rows does not fit %lld held updates of %lld numbers",
                      label_.text, print(call->repeated), print(call->folded), print(call->rows), print(call->held),
                      print(updates.dims[2]));
  }
  void *y = nullptr, *present = nullptr, *present_updates = nullptr;
  const int64_t result[] = {1, call->rows, call->values()};
  POCKETSPEC_RETURN_IF_ERROR(ort::output(context, 0, result, 3, &y));
  POCKETSPEC_RETURN_IF_ERROR(ort::output(context, 1, base.dims, 4, &present));
  POCKETSPEC_RETURN_IF_ERROR(ort::output(context, 2, updates.dims, 3, &present_updates));
  if (present != base.data) std::memcpy(present, base.data, static_cast<size_t>(base.count()) * sizeof(float));
  if (present_updates != updates.data) {
    std::memcpy(present_updates, updates.data, static_cast<size_t>(updates.count()) * sizeof(float));
  }
  call->y = static_cast<float*>(y);
  call->base = static_cast<float*>(present);
  call->updates = static_cast<float*>(present_updates);
  return nullptr;
}

// Steps 1 and 2 for the new rows of one head; decays and keys are noted in their updates.
void LinearRecurrence::prepare_head(const RecurrenceCall& call, const RecurrenceBlock& block, int64_t head,
                                    const Bench& bench) const {
  const int64_t size = call.key_size, key_head = call.key_head_of(head), shared = key_head * size;
  for (int64_t i = 0; i < block.count; ++i) {
    const int64_t row = block.first + i;
    bench.decays[i] = call.decay.row(row)[head];
    if (call.decay_bias) bench.decays[i] = bench.decays[i] + call.decay_bias[head];
    if (call.rate.data) bench.rates[i] = call.rate.row(row)[head] * (rate_sigmoid_ ? -1.0f : 1.0f);
    settings_.isa->scale_head(call.key.row(row) + shared, size, epsilon_, 1.0f, bench.keys + i * size);
    settings_.isa->scale_head(call.query.row(row) + shared, size, epsilon_, scale_, bench.queries + i * size);
  }
  if (call.decay_bias) {
    soften(*settings_.isa, block.count, bench.decays, bench.spare);
    for (int64_t i = 0; i < block.count; ++i) bench.decays[i] = bench.decays[i] * call.decay_rate[head];
  }
  settings_.isa->exponentials(bench.decays, block.count, bench.decays);
  if (call.rate.data && rate_sigmoid_) {
    settings_.isa->exponentials(bench.rates, block.count, bench.rates);
    for (int64_t i = 0; i < block.count; ++i) bench.rates[i] = 1.0f / (1.0f + bench.rates[i]);
  }
  const bool is_first = head == 0 || call.key_head_of(head - 1) != key_head;
  for (int64_t i = 0; i < block.count; ++i) {
    float* update = block.updates + i * call.update_size;
    update[head] = bench.decays[i];
    if (!is_first) continue;
    std::memcpy(update + call.heads + shared, bench.keys + i * size, static_cast<size_t>(size) * sizeof(float));
  }
}

void LinearRecurrence::run_head(const RecurrenceCall& call, const RecurrenceBlock& block, int64_t head,
                                const Bench& bench) const {
  prepare_head(call, block, head, bench);
  const int64_t matrix = call.key_size * call.value_size, values = head * call.value_size;
  const int64_t added = call.heads + call.keys() + values;
  float* y = call.y + block.first * call.values() + values;
  for (int64_t column = 0; column < call.value_size; column += kStateColumns) {
    RecurrenceUnit unit;
    unit.base = call.base + head * matrix + column;
    unit.base_stride = call.value_size, unit.key_size = call.key_size;
    unit.columns = static_cast<int>(call.value_size - column < kStateColumns ? call.value_size - column : kStateColumns);
    unit.folded = block.folded;
    unit.state = bench.state;
    unit.known = block.known, unit.fresh = block.count;
    unit.known_keys = call.updates + call.heads + call.key_head_of(head) * call.key_size;
    unit.known_decays = call.updates + head;
    unit.known_added = call.updates + added + column;
    unit.known_stride = unit.added_stride = call.update_size;
    unit.keys = bench.keys, unit.queries = bench.queries, unit.decays = bench.decays;
    unit.rates = call.rate.data ? bench.rates : nullptr;
    unit.values = call.value.row(block.first) + values + column, unit.value_stride = call.value.stride;
    unit.added = block.updates + added + column;
    unit.y = y + column, unit.y_stride = call.values();
    // The next head is most likely this thread's as well.
    unit.ahead = head + 1 < call.heads ? call.base + (head + 1) * matrix + column * call.key_size : nullptr;
    settings_.isa->recur(unit);
  }
  for (int64_t i = 0; call.gate.data && i < block.count; ++i) {
    const float* gate = call.gate.row(block.first + i) + values;
    settings_.isa->gate_norm(call.gain, gate, call.value_size, gate_epsilon_, y + i * call.values());
  }
}

Status LinearRecurrence::run_block(const OrtKernelContext* context, const RecurrenceCall& call,
                                   const RecurrenceBlock& block) const {
  std::atomic<bool> failed{false};
  const auto work = [&](int64_t from, int64_t to) {
    thread_local Scratch scratch;
    const int64_t numbers = call.key_size * kStateColumns + block.count * (call.key_size * 2 + 3);
    auto* memory = static_cast<float*>(scratch.at_least(static_cast<size_t>(numbers) * sizeof(float)));
    if (!memory) {
      failed.store(true, std::memory_order_relaxed);
      return;
    }
    Bench bench;
    bench.state = memory;
    bench.keys = bench.state + call.key_size * kStateColumns;
    bench.queries = bench.keys + block.count * call.key_size;
    bench.decays = bench.queries + block.count * call.key_size;
    bench.rates = bench.decays + block.count;
    bench.spare = bench.rates + block.count;
    for (int64_t head = from; head < to; ++head) run_head(call, block, head, bench);
  };
  const int64_t numbers = (block.known + block.count) * call.heads * call.key_size * call.value_size;
  const int threads = numbers < kParallelUpdates ? 1 : settings_.crew->count();
  POCKETSPEC_RETURN_IF_ERROR(run_ranges(context, threads, call.heads, 1, work, settings_.crew));
  if (failed.load(std::memory_order_relaxed)) return ort::error(kFail, "%s: no memory for a state", label_.text);
  return nullptr;
}

Status LinearRecurrence::compute(OrtKernelContext* context) {
  RecurrenceCall call = {};
  POCKETSPEC_RETURN_IF_ERROR(place(context, &call));
  // Of the new rows, those that the base takes over come first, some at a time.
  const int64_t taken = call.folded > call.repeated ? call.folded - call.repeated : 0, left = call.rows - taken;
  const int64_t most = taken < kBlockRows ? (left > taken ? left : taken) : (left > kBlockRows ? left : kBlockRows);
  thread_local Scratch scratch;
  auto* updates = static_cast<float*>(scratch.at_least(static_cast<size_t>(most * call.update_size) * sizeof(float)));
  if (!updates) return ort::error(kFail, "%s: no memory for %lld rows", label_.text, print(most));
  RecurrenceBlock block = {call.repeated, 0, 0, call.folded, updates};
  for (int64_t first = 0; first < taken; first += kBlockRows) {
    block.first = first, block.count = taken - first < kBlockRows ? taken - first : kBlockRows;
    block.folded = block.known + block.count;
    POCKETSPEC_RETURN_IF_ERROR(run_block(context, call, block));
    block.known = block.folded = 0;
  }
  if (left == 0) return nullptr;
  block.first = taken, block.count = left;
  POCKETSPEC_RETURN_IF_ERROR(run_block(context, call, block));
  const size_t row = static_cast<size_t>(call.update_size) * sizeof(float);
  const int64_t kept = taken ? 0 : call.repeated - call.folded;
  if (call.folded && kept) std::memmove(call.updates, call.updates + call.folded * call.update_size, static_cast<size_t>(kept) * row);
  std::memcpy(call.updates + kept * call.update_size, updates, static_cast<size_t>(left) * row);
  return nullptr;
}

}  // namespace

CustomOp* make_short_convolution(const Settings& settings) {
  return new (std::nothrow) Operator<ShortConvolution>(settings);
}

CustomOp* make_linear_recurrence(const Settings& settings) {
  return new (std::nothrow) Operator<LinearRecurrence>(settings);
}

}  // namespace pocketspec
