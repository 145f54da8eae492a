#include "attention_inputs.h"

#include <initializer_list>

namespace pocketspec {
namespace {

// The limit of positions where no table of cosines sets one.
constexpr int64_t kMostPositions = int64_t{1} << 31;

long long print(int64_t number) { return static_cast<long long>(number); }

Status check_rows(const char* label, const ort::Tensor& qkv, AttentionCall* call) {
  const int64_t all_heads = call->all_heads();
  const int64_t width = qkv.rank == 3 && qkv.dims[0] == 1 ? qkv.dims[2] : 0;
  if (width < 1 || width % all_heads != 0 || width / all_heads > kMaxHeadSize) {
    return ort::error(kInvalidArgument, "%s: qkv has rows of %lld in %d axes, expected shape [1, S, %lld * D] with D up to %lld",
                      label, print(qkv.rank ? qkv.dims[qkv.rank - 1] : 0), qkv.rank, print(all_heads), print(kMaxHeadSize));
  }
  call->qkv = static_cast<const float*>(qkv.data);
  call->rows = qkv.dims[1];
  call->head_size = width / all_heads;
  return nullptr;
}

Stored stored_type(int type) {
  switch (type) {
    case kFloat: return Stored::kFloat;
    case kHalf: return Stored::kHalf;
    case kInt8: return Stored::kInt8;
    default: return Stored::kInt4;
  }
}

Status check_cache(const char* label, const char* what, const ort::Tensor& tensor, const Attention& call, KvRows* rows) {
  const Stored type = stored_type(tensor.type);
  if (type == Stored::kInt4 && call.head_size % 2 != 0) {
    return ort::error(kInvalidArgument, "%s: %s has four bits, which need an even head size, not %lld; use a cache of int8",
                      label, what, print(call.head_size));
  }
  *rows = {static_cast<uint8_t*>(tensor.data), type, call.head_size, tensor.rank == 4 ? tensor.dims[2] : 0};
  const int64_t width = type == Stored::kFloat || type == Stored::kHalf ? call.head_size : rows->row_bytes();
  if (tensor.rank != 4 || tensor.dims[0] != 1 || tensor.dims[1] != call.kv_heads || tensor.dims[3] != width) {
    return ort::error(kInvalidArgument, "%s: %s has %lld elements in %d axes, expected shape [1, %lld, capacity, %lld]", label,
                      what, print(tensor.count()), tensor.rank, print(call.kv_heads), print(width));
  }
  if (call.total() <= rows->capacity) return nullptr;
  return ort::error(kInvalidArgument, "%s: total is %lld, more than the %lld rows of %s; use a larger cache", label,
                    print(call.total()), print(rows->capacity), what);
}

Status check_length(const char* label, const ort::Tensor& total, AttentionCall* call) {
  const int64_t value = total.count() == 1 ? *static_cast<const int64_t*>(total.data) : -1;
  if (total.count() != 1 || value < call->rows) {
    return ort::error(kInvalidArgument, "%s: total has %lld elements, the first %lld; expected one, at least the %lld rows of qkv",
                      label, print(total.count()), print(value), print(call->rows));
  }
  call->past = value - call->rows;
  return nullptr;
}

Status check_positions(const char* label, const ort::Tensor& positions, int64_t most, AttentionCall* call) {
  if (positions.count() != call->rows) {
    return ort::error(kInvalidArgument, "%s: position_ids has %lld elements, expected %lld", label, print(positions.count()),
                      print(call->rows));
  }
  call->positions = static_cast<const int64_t*>(positions.data);
  for (int64_t row = 0; row < call->rows; ++row) {
    if (call->positions[row] >= 0 && call->positions[row] < most) continue;
    return ort::error(kInvalidArgument, "%s: position_ids has %lld, outside 0 .. %lld; export a longer context", label,
                      print(call->positions[row]), print(most - 1));
  }
  return nullptr;
}

Status check_rotary(const char* label, const AttentionTensors& inputs, const AttentionSpec& spec, AttentionCall* call) {
  const ort::Tensor &cos = inputs[kCos], &sin = inputs[kSin];
  if (!cos.is_present() && !sin.is_present()) return check_positions(label, inputs[kPositions], kMostPositions, call);
  const int64_t size = spec.rotary_dim ? spec.rotary_dim : call->head_size;
  if (size < 2 || size % 2 != 0 || size > call->head_size) {
    return ort::error(kInvalidArgument, "%s: rotary_dim %lld must be even and at most the head size %lld", label, print(size),
                      print(call->head_size));
  }
  for (const ort::Tensor* table : {&cos, &sin}) {
    if (table->data && table->rank == 2 && table->dims[1] == size / 2 && table->dims[0] == cos.dims[0]) continue;
    return ort::error(kInvalidArgument, "%s: %s has %lld elements in %d axes, expected shape [positions, %lld] as its partner",
                      label, table == &cos ? "cos" : "sin", print(table->data ? table->count() : 0), table->rank,
                      print(size / 2));
  }
  for (Head* head : {&call->query, &call->key}) {
    head->cos = static_cast<const float*>(cos.data);
    head->sin = static_cast<const float*>(sin.data);
    head->rotary_size = size;
    head->interleaved = spec.interleaved != 0;
  }
  return check_positions(label, inputs[kPositions], cos.dims[0], call);
}

Status check_bias(const char* label, const ort::Tensor& tensor, AttentionCall* call) {
  if (!tensor.is_present()) return nullptr;
  int64_t dims[4] = {1, 1, 1, 1};
  bool fits = tensor.rank <= 4;
  for (int i = 0; fits && i < tensor.rank; ++i) dims[4 - tensor.rank + i] = tensor.dims[i];
  fits = fits && dims[0] == 1 && dims[1] == 1 && (dims[2] == 1 || dims[2] == call->rows) &&
         (dims[3] == 1 || dims[3] == call->total());
  if (!fits) {
    return ort::error(kInvalidArgument,
                      "%s: tree_bias has %lld elements in %d axes, expected shape [1, 1, %lld, %lld], or 1 in place of either",
                      label, print(tensor.count()), tensor.rank, print(call->rows), print(call->total()));
  }
  call->bias = static_cast<const float*>(tensor.data);
  call->bias_key = dims[3] == 1 ? 0 : 1;
  call->bias_row = dims[2] == 1 ? 0 : dims[3];
  return nullptr;
}

Status check_gain(const char* label, const char* what, const ort::Tensor& tensor, Head* head) {
  head->gain = static_cast<const float*>(tensor.data);
  if (!tensor.is_present() || tensor.count() == head->size) return nullptr;
  return ort::error(kInvalidArgument, "%s: %s has %lld elements, expected %lld", label, what, print(tensor.count()),
                    print(head->size));
}

Status check_sinks(const char* label, const ort::Tensor& tensor, AttentionCall* call) {
  call->sinks = static_cast<const float*>(tensor.data);
  if (!tensor.is_present() || tensor.count() == call->heads) return nullptr;
  return ort::error(kInvalidArgument, "%s: sinks has %lld elements, expected %lld", label, print(tensor.count()),
                    print(call->heads));
}

}  // namespace

Sight AttentionCall::look(int64_t row) const {
  Sight sight = {0, past, past + row + 1, false};
  if (window != 0) {
    const int64_t first = positions[row] - window + 1;
    sight.first = first < 0 ? 0 : first < past ? first : past;
  }
  // In pieces without an early exit, which compilers vectorize.
  constexpr int64_t kPiece = 64;
  int64_t key = sight.first;
  while (bias_key != 0 && key + kPiece <= past) {
    const float* piece = bias + row * bias_row + key;
    bool hidden = false, other = false;
    for (int64_t i = 0; i < kPiece; ++i) {
      hidden |= piece[i] <= kHidden;
      other |= piece[i] != 0.0f;
    }
    if (hidden) break;
    sight.biased |= other;
    key += kPiece;
  }
  // One bias for all keys: it is checked once.
  if (bias_key == 0 && !(bias_of(row, 0) <= kHidden)) key = past, sight.biased = bias_of(row, 0) != 0.0f;
  for (; key < sight.end && sees(row, key); ++key) sight.biased |= bias_of(row, key) != 0.0f;
  sight.run_end = key;
  return sight;
}

Status AttentionSpec::read(const OrtKernelInfo* info, const char* label) {
  POCKETSPEC_RETURN_IF_ERROR(ort::attribute(info, "num_heads", &heads));
  POCKETSPEC_RETURN_IF_ERROR(ort::attribute(info, "kv_num_heads", &kv_heads));
  POCKETSPEC_RETURN_IF_ERROR(ort::attribute(info, "scale", &scale));
  ort::optional_attribute(info, "window", &window);
  ort::optional_attribute(info, "softcap", &softcap);
  ort::optional_attribute(info, "interleaved", &interleaved);
  ort::optional_attribute(info, "rotary_dim", &rotary_dim);
  ort::optional_attribute(info, "epsilon", &epsilon);
  ort::optional_attribute(info, "shared", &shared);
  if (kv_heads < 1 || heads < kv_heads || heads % kv_heads != 0 || heads > (1 << 20)) {
    return ort::error(kInvalidArgument, "%s: num_heads %lld must be a multiple of kv_num_heads %lld", label, print(heads),
                      print(kv_heads));
  }
  if (window < 0 || !(softcap >= 0)) {
    return ort::error(kInvalidArgument, "%s: window %lld and softcap %g must not be negative; 0 means none", label, print(window),
                      static_cast<double>(softcap));
  }
  return nullptr;
}

Status AttentionSpec::check(const char* label, const AttentionTensors& inputs, AttentionCall* call) const {
  *call = AttentionCall();
  call->heads = heads;
  call->kv_heads = kv_heads;
  call->softcap = softcap;
  call->window = window;
  call->shared = shared != 0;
  POCKETSPEC_RETURN_IF_ERROR(check_rows(label, inputs[kQkv], call));
  call->query.size = call->key.size = call->head_size;
  call->query.epsilon = call->key.epsilon = epsilon;
  call->query.scale = scale;
  call->key.scale = 1;
  POCKETSPEC_RETURN_IF_ERROR(check_length(label, inputs[kTotal], call));
  POCKETSPEC_RETURN_IF_ERROR(check_cache(label, "past_key", inputs[kPastKey], *call, &call->keys));
  POCKETSPEC_RETURN_IF_ERROR(check_cache(label, "past_value", inputs[kPastValue], *call, &call->values));
  call->query.mixed = call->keys.type == Stored::kInt4;
  POCKETSPEC_RETURN_IF_ERROR(check_rotary(label, inputs, *this, call));
  POCKETSPEC_RETURN_IF_ERROR(check_bias(label, inputs[kBias], call));
  POCKETSPEC_RETURN_IF_ERROR(check_gain(label, "q_gain", inputs[kQueryGain], &call->query));
  POCKETSPEC_RETURN_IF_ERROR(check_gain(label, "k_gain", inputs[kKeyGain], &call->key));
  return check_sinks(label, inputs[kSinks], call);
}

}  // namespace pocketspec
