// What CachedAttention reads and writes. Its arithmetic is in ../ARITHMETIC.md; the steps below are its steps.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pocketspec {

constexpr float kHidden = -1e29f;       // a bias of this or less hides the key
constexpr int64_t kMaxHeadSize = 1024;  // a head must fit on the stack
constexpr int kKeyLanes = 16;           // keys that are scored side by side
constexpr int kMostPanels = 4;          // panels of 16 keys that are packed at once
constexpr int kValueRows = 32;          // rows of values that stay in the first-level cache while all queries use them

enum class Stored { kFloat, kHalf, kInt8, kInt4 };

// Size of the blocks in which a head is mixed, for a cache of four bits.
constexpr int64_t mixed_together(int64_t head_size) { return head_size & -head_size; }

// Keys or values of all heads, each head's rows contiguous.
struct KvRows {
  uint8_t* data;
  Stored type;
  int64_t head_size, capacity;

  int64_t row_bytes() const {
    switch (type) {
      case Stored::kFloat: return head_size * 4;
      case Stored::kHalf: return head_size * 2;
      case Stored::kInt8: return head_size + 4;
      default: return head_size / 2 + 4;
    }
  }
  uint8_t* row(int64_t head, int64_t index) const { return data + (head * capacity + index) * row_bytes(); }
};

// One head of one row before attention (step 1).
struct Head {
  const float* x;
  int64_t size;
  const float* gain;  // null: no norm
  float epsilon;
  const float *cos, *sin;  // null: no rotary; half of rotary_size each
  int64_t rotary_size;
  bool interleaved;
  float scale;
  bool mixed;  // for keys in four bits
};

// The keys that a row sees: first .. run_end-1, and those of run_end .. end-1 for which Attention::sees is true.
struct Sight {
  int64_t first, run_end, end;
  bool biased;  // whether some bias in the run is not 0
};

// One call, all heads.
struct Attention {
  int64_t rows, past, head_size, heads, kv_heads;
  float softcap;  // 0: none
  int64_t window;  // 0: none
  const int64_t* positions;
  const float* sinks;  // [heads]; null: none
  const float* bias;   // null: none
  int64_t bias_row, bias_key;  // strides of bias; 0 where one value is for all
  KvRows keys, values;
  const float* queries;  // [kv_heads][rows][group][head_size], after step 1
  const Sight* sights;   // [rows]
  float* y;              // [rows][heads][head_size]

  int64_t group() const { return heads / kv_heads; }
  int64_t total() const { return past + rows; }
  float bias_of(int64_t row, int64_t key) const { return bias ? bias[row * bias_row + key * bias_key] : 0.0f; }
  // Whether `row` sees `key`; the key must not come after the row.
  bool sees(int64_t row, int64_t key) const {
    if (bias_of(row, key) <= kHidden) return false;
    const int64_t position = key < past ? key : positions[key - past];
    return window == 0 || position > positions[row] - window;
  }
};

// The unit of work of a thread: queries first .. last-1 (row * group + head of the group) of one head of keys and
// values.
struct AttentionUnit {
  int64_t kv_head, first, last;
  float* memory;
};

// How a unit's memory is divided; offsets in floats, multiples of 16.
struct AttentionLayout {
  int64_t score_stride, value_stride, sums, panels, rows, size;

  AttentionLayout(const Attention& call, int64_t queries) {
    // With an odd multiple of 16, rows of scores do not compete for the same lines of the first-level cache.
    score_stride = (call.total() + 15) / 16 * 16 + 16;
    value_stride = (call.head_size + 15) / 16 * 16;
    sums = queries * score_stride;
    panels = sums + queries * value_stride;
    rows = panels + kMostPanels * kKeyLanes * call.head_size;
    size = rows + kValueRows * value_stride;
  }
};

}  // namespace pocketspec
