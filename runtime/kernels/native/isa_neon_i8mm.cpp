// NEON with i8mm: smmla multiplies eight codes of two columns by the activations of two rows. An odd row takes sdot.
#include "isa.h"
#include "quarters_neon.h"
#include "attention_rows.h"
#include "state_rows.h"

namespace pocketspec {
namespace {

// Products of two rows and of two columns each: [row 0, row 0, row 1, row 1].
struct Pair {
  int32x4_t columns[8];
};

// After the codes of k .. k+3 and k+4 .. k+7 are interleaved by fours, two columns have eight consecutive k each.
inline int8x16_t interleave(int8x16_t first, int8x16_t second, int upper) {
  const int32x4_t a = vreinterpretq_s32_s8(first), b = vreinterpretq_s32_s8(second);
  return vreinterpretq_s8_s32(upper ? vzip2q_s32(a, b) : vzip1q_s32(a, b));
}

template <int kPairs>
inline void add_pairs(const Eight& eight, const int8_t* values, Pair (&pairs)[kPairs]) {
  int8x16_t x[kPairs];
#pragma GCC unroll 2
  for (int i = 0; i < kPairs; ++i) x[i] = vld1q_s8(values + i * 16);
#pragma GCC unroll 8
  for (int two = 0; two < 8; ++two) {
    const int8x16_t columns = interleave(eight.first[two / 2], eight.second[two / 2], two % 2);
#pragma GCC unroll 2
    for (int i = 0; i < kPairs; ++i) pairs[i].columns[two] = vmmlaq_s32(pairs[i].columns[two], x[i], columns);
  }
}

inline void split_pair(const Pair& pair, int32x4_t (&row)[4], int32x4_t (&next)[4]) {
#pragma GCC unroll 4
  for (int quarter = 0; quarter < 4; ++quarter) {
    const int64x2_t a = vreinterpretq_s64_s32(pair.columns[quarter * 2]);
    const int64x2_t b = vreinterpretq_s64_s32(pair.columns[quarter * 2 + 1]);
    row[quarter] = vreinterpretq_s32_s64(vzip1q_s64(a, b));
    next[quarter] = vreinterpretq_s32_s64(vzip2q_s64(a, b));
  }
}

template <int kBits, bool kPlanes>
inline void sum_row(const uint8_t* codes, const uint8_t* low, const int8_t* values, int rows, int block, int32x4_t (&row)[4]) {
#pragma GCC unroll 4
  for (int32x4_t& quarter : row) quarter = vdupq_n_s32(0);
  for (int k = 0; k < block; k += 8) {
    add_one(load_eight<kBits, kPlanes>(codes, low), values, row);
    codes += (kPlanes ? 4 : kBits) * kColumns;
    if constexpr (kPlanes) low += 4 * kColumns;
    values += rows * 8;
  }
}

template <int kBits, bool kPlanes, int kRows>
inline void sum_block(const uint8_t* codes, const uint8_t* low, const int8_t* values, int rows, int block, int32x4_t (&total)[kRows][4]) {
  if constexpr (kRows % 2 == 1) sum_row<kBits, kPlanes>(codes, low, values + (kRows - 1) * 8, rows, block, total[kRows - 1]);
  if constexpr (kRows >= 2) {
    Pair pairs[kRows / 2];
#pragma GCC unroll 2
    for (Pair& pair : pairs) {
      for (int32x4_t& columns : pair.columns) columns = vdupq_n_s32(0);
    }
    for (int k = 0; k < block; k += 8) {
      add_pairs(load_eight<kBits, kPlanes>(codes, low), values, pairs);
      codes += (kPlanes ? 4 : kBits) * kColumns;
    if constexpr (kPlanes) low += 4 * kColumns;
      values += rows * 8;
    }
    split_pair(pairs[0], total[0], total[1]);
    if constexpr (kRows >= 4) split_pair(pairs[1], total[2], total[3]);
  }
}

}  // namespace

const Isa kNeonI8mm = {"neon_i8mm", inverse_rms, quantize, multiply, finish, unpack, prepare_head, store_row, attend, convolve, scale_head, exponentials, recur, gate_norm, dot};

}  // namespace pocketspec
