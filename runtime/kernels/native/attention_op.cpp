// pocketspec::CachedAttention: norm and rotary embedding of queries and keys, update of the cache in place, and
// attention.
#include <atomic>
#include <cstring>
#include <initializer_list>

#include "attention_inputs.h"
#include "ranges.h"

namespace pocketspec {
namespace {

// Below these, waking another thread costs more than it saves.
constexpr int64_t kParallelActivations = 16 * 1024;
constexpr int64_t kParallelProducts = 64 * 1024;
// The queries of a unit share the rows of keys and values that are read; their scores should stay in the caches.
constexpr int64_t kScoreBytes = 1024 * 1024;
constexpr int64_t kMostQueries = 48, kFewestQueries = 24;
// Several units for every thread, so that a late thread leaves some to the others.
constexpr int64_t kUnitsPerThread = 4;

// Steps 1 and 2 for one row.
void prepare_row(const Isa& isa, const AttentionCall& call, int64_t row, float* queries, Sight* sights) {
  const int64_t size = call.head_size, group = call.group();
  Head query = call.query, key = call.key;
  for (Head* head : {&query, &key}) {
    if (!head->cos) continue;
    head->cos += call.positions[row] * (head->rotary_size / 2);
    head->sin += call.positions[row] * (head->rotary_size / 2);
  }
  query.x = call.qkv + row * call.all_heads() * size;
  key.x = query.x + call.heads * size;
  for (int64_t head = 0; head < call.heads; ++head, query.x += size) {
    isa.prepare_head(query, queries + ((head / group * call.rows + row) * group + head % group) * size);
  }
  for (int64_t head = 0; head < call.stored_heads(); ++head, key.x += size) {
    float turned[kMaxHeadSize];
    isa.prepare_head(key, turned);
    isa.store_row(turned, call.keys, head, call.past + row);
    isa.store_row(key.x + call.kv_heads * size, call.values, head, call.past + row);
  }
  sights[row] = call.look(row);
}

// How the queries of every head of keys and values are divided into units.
struct Units {
  int64_t per_head, queries;  // units of a head; queries to divide
  int64_t most;               // queries of the largest unit

  Units(const Attention& call, int threads) : queries(call.rows * call.group()) {
    const int64_t fitting = kScoreBytes / (call.total() * static_cast<int64_t>(sizeof(float)));
    const int64_t limit = fitting < kFewestQueries ? kFewestQueries : fitting < kMostQueries ? fitting : kMostQueries;
    per_head = (queries + limit - 1) / limit;
    const auto uneven = [&] {
      const int64_t units = per_head * call.kv_heads;
      return units % threads != 0 && units < kUnitsPerThread * threads;
    };
    while (per_head < queries && uneven()) ++per_head;
    most = (queries + per_head - 1) / per_head;
  }

  AttentionUnit unit(int64_t index, float* memory) const {
    const int64_t part = index % per_head;
    return {index / per_head, queries * part / per_head, queries * (part + 1) / per_head, memory};
  }
};

class CachedAttention {
 public:
  static constexpr const char* kName = "CachedAttention";
  explicit CachedAttention(const Settings& settings) : settings_(settings) {}
  Status init(const OrtKernelInfo* info) {
    label_ = label_of(info, kName);
    return spec_.read(info, label_.text);
  }
  Status compute(OrtKernelContext* context);

 private:
  Status place_outputs(OrtKernelContext* context, const AttentionTensors& inputs, AttentionCall* call) const;
  Status prepare(const OrtKernelContext* context, AttentionCall* call) const;
  Status attend(const OrtKernelContext* context, const Attention& call) const;
  Status no_memory(const Attention& call) const;

  const Settings settings_;
  Label label_;
  AttentionSpec spec_;
};

Status CachedAttention::compute(OrtKernelContext* context) {
  AttentionTensors inputs;
  for (size_t i = 0; i < kAttentionInputs; ++i) POCKETSPEC_RETURN_IF_ERROR(ort::input(context, i, &inputs[i]));
  AttentionCall call;
  POCKETSPEC_RETURN_IF_ERROR(spec_.check(label_.text, inputs, &call));
  POCKETSPEC_RETURN_IF_ERROR(place_outputs(context, inputs, &call));
  if (call.rows == 0) return nullptr;
  POCKETSPEC_RETURN_IF_ERROR(prepare(context, &call));
  return attend(context, call);
}

// From here on keys and values are those of the outputs, which contain the past; a shared cache is complete already.
Status CachedAttention::place_outputs(OrtKernelContext* context, const AttentionTensors& inputs, AttentionCall* call) const {
  const int64_t shape[] = {1, call->rows, call->heads * call->head_size};
  void* y = nullptr;
  POCKETSPEC_RETURN_IF_ERROR(ort::output(context, 0, shape, 3, &y));
  call->y = static_cast<float*>(y);
  if (call->shared) return nullptr;
  size_t index = 1;
  for (KvRows* rows : {&call->keys, &call->values}) {
    void* present = nullptr;
    POCKETSPEC_RETURN_IF_ERROR(ort::output(context, index, inputs[index].dims, inputs[index].rank, &present));
    if (present != rows->data) {
      std::memcpy(present, rows->data, static_cast<size_t>(call->kv_heads * rows->capacity * rows->row_bytes()));
    }
    rows->data = static_cast<uint8_t*>(present);
    ++index;
  }
  return nullptr;
}

Status CachedAttention::no_memory(const Attention& call) const {
  return ort::error(kFail, "%s: no memory for %lld rows of qkv over %lld keys; use a smaller prefill chunk", label_.text,
                    static_cast<long long>(call.rows), static_cast<long long>(call.total()));
}

Status CachedAttention::prepare(const OrtKernelContext* context, AttentionCall* call) const {
  thread_local Scratch scratch;
  const size_t bytes = static_cast<size_t>(call->rows * call->heads * call->head_size) * sizeof(float);
  const size_t start = (bytes + 63) / 64 * 64;
  auto* memory = static_cast<uint8_t*>(scratch.at_least(start + static_cast<size_t>(call->rows) * sizeof(Sight)));
  if (!memory) return no_memory(*call);
  auto* queries = reinterpret_cast<float*>(memory);
  auto* sights = reinterpret_cast<Sight*>(memory + start);
  call->queries = queries;
  call->sights = sights;
  const auto rows = [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) prepare_row(*settings_.isa, *call, row, queries, sights);
  };
  const int64_t activations = call->rows * call->all_heads() * call->head_size;
  const int threads = activations < kParallelActivations ? 1 : settings_.crew->count();
  return run_ranges(context, threads, call->rows, 1, rows, settings_.crew);
}

Status CachedAttention::attend(const OrtKernelContext* context, const Attention& call) const {
  const int64_t products = call.rows * call.heads * call.total() * call.head_size;
  const int threads = products < kParallelProducts ? 1 : settings_.crew->count();
  const Units units(call, threads);
  const size_t bytes = static_cast<size_t>(AttentionLayout(call, units.most).size) * sizeof(float);
  std::atomic<bool> failed{false};
  const auto work = [&](int64_t first, int64_t last) {
    thread_local Scratch scratch;
    auto* memory = static_cast<float*>(scratch.at_least(bytes));
    if (!memory) {
      failed.store(true, std::memory_order_relaxed);
      return;
    }
    for (int64_t index = first; index < last; ++index) settings_.isa->attend(call, units.unit(index, memory));
  };
  POCKETSPEC_RETURN_IF_ERROR(run_ranges(context, threads, units.per_head * call.kv_heads, 1, work, settings_.crew));
  return failed.load(std::memory_order_relaxed) ? no_memory(call) : nullptr;
}

// ONNX Runtime does not infer an output type that the operator leaves open, so every type of cache has an operator.
template <int kType>
class CachedAttentionOf : public CachedAttention {
 public:
  static constexpr InputSpec kInputs[] = {{kFloat, kRequired}, {kType, kRequired},  {kType, kRequired},  {kInt64, kRequired},
                                          {kInt64, kRequired}, {kFloat, kOptional}, {kFloat, kOptional}, {kFloat, kOptional},
                                          {kFloat, kOptional}, {kFloat, kOptional}, {kFloat, kOptional}};
  static constexpr InputSpec kOutputs[] = {{kFloat, kRequired}, {kType, kOptional}, {kType, kOptional}};
  using CachedAttention::CachedAttention;
};

}  // namespace

CustomOp* make_cached_attention(const Settings& settings, ElementType type) {
  switch (type) {
    case kFloat: return new (std::nothrow) Operator<CachedAttentionOf<kFloat>>(settings);
    case kHalf: return new (std::nothrow) Operator<CachedAttentionOf<kHalf>>(settings);
    case kInt8: return new (std::nothrow) Operator<CachedAttentionOf<kInt8>>(settings);
    default: return new (std::nothrow) Operator<CachedAttentionOf<kUint8>>(settings);
  }
}

}  // namespace pocketspec
