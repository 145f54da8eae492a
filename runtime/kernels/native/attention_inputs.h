// The attributes and inputs of CachedAttention: attributes are read once, inputs are checked at every call.
#pragma once

#include "attention.h"
#include "operators.h"

namespace pocketspec {

enum AttentionInput { kQkv, kPastKey, kPastValue, kPositions, kTotal, kCos, kSin, kBias, kQueryGain, kKeyGain, kSinks, kAttentionInputs };
using AttentionTensors = ort::Tensor[kAttentionInputs];

// One call before its rows are prepared; keys and values still point to past_key and past_value.
struct AttentionCall : Attention {
  const float* qkv;  // [rows][heads + 2 * kv_heads][head_size]; [rows][heads][head_size] if the cache is shared
  bool shared;       // whether another layer has put the step's keys and values into the cache
  Head query, key;   // how the step's heads are prepared, without x; cos and sin are those of position 0

  int64_t stored_heads() const { return shared ? 0 : kv_heads; }
  int64_t all_heads() const { return heads + 2 * stored_heads(); }

  // What a row sees.
  Sight look(int64_t row) const;
};

struct AttentionSpec {
  int64_t heads = 0, kv_heads = 0, window = 0, interleaved = 0, rotary_dim = 0, shared = 0;
  float scale = 1, softcap = 0, epsilon = 0;

  Status read(const OrtKernelInfo* info, const char* label);
  Status check(const char* label, const AttentionTensors& inputs, AttentionCall* call) const;
};

}  // namespace pocketspec
