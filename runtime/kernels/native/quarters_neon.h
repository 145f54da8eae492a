// Panel products for NEON: a panel is four quarters of four columns. NEON multiplies signed bytes, so 128 is subtracted
// from 8-bit codes and their zero points. The file that includes this one defines sum_block, in which the instruction
// sets differ. Include it once; all names stay inside that file.
#pragma once

#include "lanes_neon.h"
#include "rows.h"

namespace pocketspec {
namespace {

constexpr int kAhead = 2048;  // bytes of prefetch distance

// The exact sums of signed code * activation over `block` values of k, for kRows of the tile's `rows`.
template <int kBits, bool kPlanes, int kRows>
void sum_block(const uint8_t* codes, const uint8_t* low, const int8_t* values, int rows, int block, int32x4_t (&total)[kRows][4]);

// The signed codes of k .. k+3 and of k+4 .. k+7 of the 16 columns.
struct Eight {
  int8x16_t first[4], second[4];
};

template <int kBits, bool kPlanes>
inline Eight load_eight(const uint8_t* codes, const uint8_t* low) {
  __builtin_prefetch(codes + kAhead);
  if constexpr (kBits == 8) __builtin_prefetch(kAhead + (kPlanes ? low : codes + kLine));
  Eight eight;
#pragma GCC unroll 4
  for (int quarter = 0; quarter < 4; ++quarter) {
    const uint8x16_t bytes = vld1q_u8(codes + quarter * 16);
    if constexpr (kPlanes) {
      const uint8x16_t halves = vld1q_u8(low + quarter * 16);
      eight.first[quarter] = vreinterpretq_s8_u8(veorq_u8(vsliq_n_u8(halves, bytes, 4), vdupq_n_u8(128)));
      eight.second[quarter] = vreinterpretq_s8_u8(veorq_u8(vsriq_n_u8(bytes, halves, 4), vdupq_n_u8(128)));
    } else if constexpr (kBits == 4) {
      eight.first[quarter] = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15)));
      eight.second[quarter] = vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4));
    } else {
      const uint8x16_t next = vld1q_u8(codes + kLine + quarter * 16);
      eight.first[quarter] = vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(128)));
      eight.second[quarter] = vreinterpretq_s8_u8(veorq_u8(next, vdupq_n_u8(128)));
    }
  }
  return eight;
}

// The products of two rows whose activations are adjacent.
inline void add_two(const Eight& eight, const int8_t* values, int32x4_t (&row)[4], int32x4_t (&next)[4]) {
  const int8x16_t x = vld1q_s8(values);
#pragma GCC unroll 4
  for (int quarter = 0; quarter < 4; ++quarter) {
    row[quarter] = vdotq_laneq_s32(row[quarter], eight.first[quarter], x, 0);
    next[quarter] = vdotq_laneq_s32(next[quarter], eight.first[quarter], x, 2);
  }
#pragma GCC unroll 4
  for (int quarter = 0; quarter < 4; ++quarter) {
    row[quarter] = vdotq_laneq_s32(row[quarter], eight.second[quarter], x, 1);
    next[quarter] = vdotq_laneq_s32(next[quarter], eight.second[quarter], x, 3);
  }
}

inline void add_one(const Eight& eight, const int8_t* values, int32x4_t (&row)[4]) {
  const int8x8_t x = vld1_s8(values);
#pragma GCC unroll 4
  for (int quarter = 0; quarter < 4; ++quarter) {
    row[quarter] = vdotq_lane_s32(row[quarter], eight.first[quarter], x, 0);
  }
#pragma GCC unroll 4
  for (int quarter = 0; quarter < 4; ++quarter) {
    row[quarter] = vdotq_lane_s32(row[quarter], eight.second[quarter], x, 1);
  }
}

struct Zeros {
  int32x4_t quarter[4];
};

template <int kBits, bool kPlanes>
inline Zeros signed_zero_points(const Panel& panel, int block) {
  uint8x16_t bytes = vdupq_n_u8(kBits == 4 ? 8 : 128 + (kPlanes ? kPlaneOffset : 0));
  if (panel.zeros && kBits == 8) bytes = vld1q_u8(panel.zeros + block * 16);
  if (panel.zeros && kBits == 4) {
    const uint8x8_t both = vld1_u8(panel.zeros + block * 8);
    bytes = vcombine_u8(vand_u8(both, vdup_n_u8(15)), vshr_n_u8(both, 4));
  }
  if (kBits == 8) bytes = veorq_u8(bytes, vdupq_n_u8(128));
  const int8x16_t codes = vreinterpretq_s8_u8(bytes);
  const int16x8_t low = vmovl_s8(vget_low_s8(codes)), high = vmovl_s8(vget_high_s8(codes));
  return {{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)),
           vmovl_s16(vget_high_s16(high))}};
}

// One block of kRows rows: integer sums, then one fma for each sum.
template <int kBits, bool kPlanes, int kRows>
inline void add_block(const Panel& panel, const Tile& tile, int block, int row, const Lanes& scales, const Zeros& zeros,
                      float* sums) {
  const size_t place = static_cast<size_t>(block) * panel.block * 2 * (kPlanes ? 4 : kBits);
  const int8_t* values = tile.values + (static_cast<int64_t>(block) * panel.block / 8 * tile.rows + row) * 8;
  int32x4_t total[kRows][4];
  sum_block<kBits, kPlanes, kRows>(panel.codes + place, panel.low + (kPlanes ? place : 0), values, tile.rows,
                                   panel.block, total);
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
    const int64_t entry = static_cast<int64_t>(block) * tile.rows + row + i;
#pragma GCC unroll 4
    for (int quarter = 0; quarter < 4; ++quarter) {
      const int32x4_t d = vmlsq_n_s32(total[i][quarter], zeros.quarter[quarter], tile.sums[entry]);
      const float32x4_t scale = vmulq_n_f32(scales.v[quarter], tile.scales[entry]);
      float* at = sums + (row + i) * kColumns + quarter * 4;
      vst1q_f32(at, vfmaq_f32(vld1q_f32(at), vcvtq_f32_s32(d), scale));
    }
  }
}

// All rows of a tile, four at a time: 16 of the 32 registers hold their sums.
template <int kBits, bool kPlanes>
void multiply_rows(const Panel& panel, const Tile& tile, float* sums) {
  __builtin_memset(sums, 0, static_cast<size_t>(tile.rows) * kColumns * sizeof(float));
  for (int block = 0; block < panel.blocks; ++block) {
    const Lanes scales = block_scales(panel, block);
    const Zeros zeros = signed_zero_points<kBits, kPlanes>(panel, block);
    int row = 0;
    for (; row + 4 <= tile.rows; row += 4) add_block<kBits, kPlanes, 4>(panel, tile, block, row, scales, zeros, sums);
    switch (tile.rows - row) {
      case 3: add_block<kBits, kPlanes, 3>(panel, tile, block, row, scales, zeros, sums); break;
      case 2: add_block<kBits, kPlanes, 2>(panel, tile, block, row, scales, zeros, sums); break;
      case 1: add_block<kBits, kPlanes, 1>(panel, tile, block, row, scales, zeros, sums); break;
      default: break;
    }
  }
}

void multiply(const Panel& panel, const Tile& tile, float* sums) {
  if (panel.low) return multiply_rows<8, true>(panel, tile, sums);
  panel.bits == 4 ? multiply_rows<4, false>(panel, tile, sums) : multiply_rows<8, false>(panel, tile, sums);
}

}  // namespace
}  // namespace pocketspec
