// The arithmetic of CachedAttention, and the shape of what it reads. Every implementation obeys it bit for bit.
//
// A step of S rows stands behind `past` cached ones; row r attends to the keys 0 .. past + r that it sees. Everything is
// float32 with round-to-nearest-even and no contraction but the stated fma.
// 1. Heads: a query or key x[D], with a gain g: (x[d] * r) * g[d], r as in panel.h, step 1, with K = D. Then rotary, over
//    its first dimensions, with cosine c and sine s of the row's position: the pair a = x[i], b = x[i + half], or x[2i]
//    and x[2i + 1] where interleaved, becomes fma(b, -s, a * c), fma(a, s, b * c). A query is multiplied by `scale`.
// 2. Cache: a row of keys or values is stored as it is; rounded to half; or as D codes and a float scale: m = max |x|,
//    scale = m / 127, code = round(x * (127 / m)), all 0 if m < 1e-30; if m is infinite or not a number, codes are 0 and
//    the scale is NaN. What is read is the stored row: half widened, code * scale.
//    In four bits a row is mixed first: n is the largest power of two that divides D, and for h = n / 2, n / 4, .., 1, in
//    every block of n values, the pair a = x[i], b = x[i + h] becomes a + b, a - b. Each half of the mixed row has D / 2
//    codes and a scale: m = max |x|, scale = m / 8, or -m / 8 where some x is m, rounded to bfloat16; code =
//    round(x * (1 / scale)), kept within -8 .. 7; if m < 1e-30, infinite or not a number, as above. Byte i holds code i
//    plus 8 in its low half and code i + D / 2 plus 8 in its high half; the two scales follow. The row is read mixed.
// 3. Scores: where keys have four bits, a query is mixed and multiplied by 1 / n. s = 0; s = fma(q[d], k[d], s) for d = 0,
//    1, ..; with a softcap, s = cap * tanh(s / cap), where tanh(v) = 1 + -2 / (1 + exp(v * 2)), exp as in panel.h; + bias.
// 4. Weights: the keys that a row sees are numbered in order, n = 0, 1, ..; the others do not count at all.
//    w[n] = exp(s[n] - max s); lane i of 16 sums w[n] over n = i, i+16, ..; lanes i and i+8 are added, then i+4, i+2, i+1.
// 5. Values: y[d] = 0; y[d] = fma(w[n], v[n][d], y[d]) for n = 0, 1, ..; y[d] is multiplied by 1 / (sum of w). Where values
//    have four bits, y is mixed, which takes the mixing back, and multiplied by 1 / n. A row that sees nothing becomes
//    zeros; scores that are infinite or not a number make it NaN.
// So a row depends on its query and the keys it sees, in order: neither on the other rows of the step, nor on hidden
// keys between them, nor on how the cache was filled, nor on the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pocketspec {

constexpr float kHidden = -1e29f;       // a bias from here down hides the key
constexpr int64_t kMaxHeadSize = 1024;  // so that a head fits the stack
constexpr int kKeyLanes = 16;           // keys scored side by side
constexpr int kMostPanels = 4;          // of 16 keys each, packed at once
constexpr int kValueRows = 32;          // rows of values that stay in the first cache while all queries use them

enum class Stored { kFloat, kHalf, kInt8, kInt4 };

// How many dimensions of a head are mixed with each other in a cache of four bits.
constexpr int64_t mixed_together(int64_t head_size) { return head_size & -head_size; }

// Keys or values of all heads: rows one behind the other.
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

// What a row sees: the keys first .. run_end-1; those from run_end to end-1 that Attention::sees; nothing else.
struct Sight {
  int64_t first, run_end, end;
  bool biased;  // somewhere in the run there is a bias other than 0
};

// One call, all heads.
struct Attention {
  int64_t rows, past, head_size, heads, kv_heads;
  float softcap;  // 0: none
  int64_t window;  // 0: none
  const int64_t* positions;
  const float* bias;  // null: none
  int64_t bias_row, bias_key;  // steps of it; 0 where one value serves all
  KvRows keys, values;
  const float* queries;  // [kv_heads][rows][group][head_size], after step 1
  const Sight* sights;   // [rows]
  float* y;              // [rows][heads][head_size]

  int64_t group() const { return heads / kv_heads; }
  int64_t total() const { return past + rows; }
  float bias_of(int64_t row, int64_t key) const { return bias ? bias[row * bias_row + key * bias_key] : 0.0f; }
  // Whether `row` sees `key`, which is not behind it.
  bool sees(int64_t row, int64_t key) const {
    if (bias_of(row, key) <= kHidden) return false;
    const int64_t position = key < past ? key : positions[key - past];
    return window == 0 || position > positions[row] - window;
  }
};

// Some queries (row * group + head of the group) of one head of keys and values: what one thread does at a time.
struct AttentionUnit {
  int64_t kv_head, first, last;
  float* memory;
};

// How a unit's memory is divided; offsets in floats, all multiples of 16.
struct AttentionLayout {
  int64_t score_stride, value_stride, sums, panels, rows, size;

  AttentionLayout(const Attention& call, int64_t queries) {
    // The odd 16 keep the rows of scores from falling onto the same lines of the first cache.
    score_stride = (call.total() + 15) / 16 * 16 + 16;
    value_stride = (call.head_size + 15) / 16 * 16;
    sums = queries * score_stride;
    panels = sums + queries * value_stride;
    rows = panels + kMostPanels * kKeyLanes * call.head_size;
    size = rows + kValueRows * value_stride;
  }
};

}  // namespace pocketspec
