// A product of panels for instruction sets with 256 bits: a panel is two halves of eight columns. What differs between
// them, sum_block, is defined by the file that includes this one, once; all names stay inside that file.
#pragma once

#include "lanes_avx2.h"
#include "rows.h"

namespace pocketspec {
namespace {

constexpr int kAhead = 2048;  // bytes of prefetch distance

// The exact sums of code * activation over `block` k of kRows of the tile's `rows`.
template <int kBits, int kRows>
void sum_block(const uint8_t* codes, const int8_t* values, int rows, int block, __m256i (&total)[kRows][2]);

inline __m256i load_half_line(const uint8_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
inline void prefetch(const uint8_t* codes) {
  _mm_prefetch(reinterpret_cast<const char*>(codes) + kAhead, _MM_HINT_T0);
}
inline __m256i spread(const int8_t* four) {
  int32_t bits;
  __builtin_memcpy(&bits, four, 4);
  return _mm256_set1_epi32(bits);
}
inline __m256i low_nibbles(__m256i bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }
inline __m256i high_nibbles(__m256i bytes) { return low_nibbles(_mm256_srli_epi16(bytes, 4)); }
// Keeps the compiler from reordering a chain of sums, which it would do at the price of spilling them.
inline __m256i in_order(__m256i sum) {
#if defined(__GNUC__)
  asm("" : "+x"(sum));
#endif
  return sum;
}

inline __m256i widen_bytes(const uint8_t* from) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
}

struct Zeros {
  __m256i half[2];
};

inline Zeros zero_points(const Panel& panel, int block) {
  if (!panel.zeros) {
    const __m256i middle = _mm256_set1_epi32(panel.bits == 4 ? 8 : 128);
    return {{middle, middle}};
  }
  if (panel.bits == 8) return {{widen_bytes(panel.zeros + block * 16), widen_bytes(panel.zeros + block * 16 + 8)}};
  const __m256i both = widen_bytes(panel.zeros + block * 8);
  return {{_mm256_and_si256(both, _mm256_set1_epi32(15)), _mm256_srli_epi32(both, 4)}};
}

// sums + (total - zeros * sum of the activations) * scales, for eight columns of a row.
inline void add_scaled(__m256i total, __m256i zeros, int32_t sum, __m256 scales, float scale, float* sums) {
  // Both factors fit in 16 bits.
  const __m256i d = _mm256_sub_epi32(total, _mm256_madd_epi16(zeros, _mm256_set1_epi32(sum)));
  const __m256 factor = _mm256_mul_ps(scales, _mm256_set1_ps(scale));
  _mm256_storeu_ps(sums, _mm256_fmadd_ps(_mm256_cvtepi32_ps(d), factor, _mm256_loadu_ps(sums)));
}

// One block of kRows rows: integer sums, then one fma for each sum.
template <int kBits, int kRows>
inline void add_block(const Panel& panel, const Tile& tile, int block, int row, const Lanes& scales, const Zeros& zeros,
                      float* sums) {
  const uint8_t* codes = panel.codes + static_cast<size_t>(block) * panel.block * 2 * kBits;
  const int8_t* values = tile.values + (static_cast<int64_t>(block) * panel.block / 8 * tile.rows + row) * 8;
  __m256i total[kRows][2];
  sum_block<kBits, kRows>(codes, values, tile.rows, panel.block, total);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    const int64_t place = static_cast<int64_t>(block) * tile.rows + row + i;
    float* at = sums + (row + i) * kColumns;
    add_scaled(total[i][0], zeros.half[0], tile.sums[place], scales.low, tile.scales[place], at);
    add_scaled(total[i][1], zeros.half[1], tile.sums[place], scales.high, tile.scales[place], at + 8);
  }
}

// All rows of a tile, kAtOnce at a time: as many as 16 registers hold accumulators for.
template <int kBits, int kAtOnce>
void multiply_rows(const Panel& panel, const Tile& tile, float* sums) {
  __builtin_memset(sums, 0, static_cast<size_t>(tile.rows) * kColumns * sizeof(float));
  for (int block = 0; block < panel.blocks; ++block) {
    const Lanes scales = block_scales(panel, block);
    const Zeros zeros = zero_points(panel, block);
    int row = 0;
    for (; row + kAtOnce <= tile.rows; row += kAtOnce) {
      add_block<kBits, kAtOnce>(panel, tile, block, row, scales, zeros, sums);
    }
    switch (tile.rows - row) {
      case 3: add_block<kBits, 3>(panel, tile, block, row, scales, zeros, sums); break;
      case 2: add_block<kBits, 2>(panel, tile, block, row, scales, zeros, sums); break;
      case 1: add_block<kBits, 1>(panel, tile, block, row, scales, zeros, sums); break;
      default: break;
    }
  }
}

}  // namespace
}  // namespace pocketspec
