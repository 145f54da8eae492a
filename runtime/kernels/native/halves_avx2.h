// Panel products for 256-bit instruction sets: a panel is two halves of eight columns. The file that includes this one
// defines sum_block, in which the instruction sets differ. Include it once; all names stay inside that file.
#pragma once

#include "lanes_avx2.h"
#include "rows.h"

namespace pocketspec {
namespace {

// Bytes of prefetch distance: into the second-level cache from afar, which has room for more lines on their way from
// memory. AVX2 reads 1.09 times as much with it (one row, Sapphire Rapids, two threads, 390 MB).
constexpr int kAhead = 2 * 1024, kFarAhead = 12 * 1024;

// The exact sums of code * activation over `block` values of k, for kRows of the tile's `rows`. With kPlanes, `low` has
// the low halves of the codes.
template <int kBits, bool kPlanes, int kRows>
void sum_block(const uint8_t* codes, const uint8_t* low, const int8_t* values, int rows, int block, __m256i (&total)[kRows][2]);

inline __m256i load_half_line(const uint8_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
inline void prefetch(const uint8_t* codes) {
  _mm_prefetch(reinterpret_cast<const char*>(codes) + kFarAhead, _MM_HINT_T1);
  _mm_prefetch(reinterpret_cast<const char*>(codes) + kAhead, _MM_HINT_T0);
}
inline __m256i spread(const int8_t* four) {
  int32_t bits;
  __builtin_memcpy(&bits, four, 4);
  return _mm256_set1_epi32(bits);
}
inline __m256i low_nibbles(__m256i bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }
inline __m256i high_nibbles(__m256i bytes) { return low_nibbles(_mm256_srli_epi16(bytes, 4)); }
// Keeps the compiler from reordering a chain of sums, for which it would spill registers.
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

// How codes are stored: bits of one, halves in two planes, no zero points.
template <int kCodeBits, bool kInPlanes, bool kIsSymmetric>
struct Form {
  static constexpr int kBits = kCodeBits;
  static constexpr bool kPlanes = kInPlanes, kSymmetric = kIsSymmetric;
};

inline Zeros zero_points(const Panel& panel, int block) {
  if (!panel.zeros) return {{_mm256_setzero_si256(), _mm256_setzero_si256()}};
  if (panel.bits == 8) return {{widen_bytes(panel.zeros + block * 16), widen_bytes(panel.zeros + block * 16 + 8)}};
  const __m256i both = widen_bytes(panel.zeros + block * 8);
  return {{_mm256_and_si256(both, _mm256_set1_epi32(15)), _mm256_srli_epi32(both, 4)}};
}

// zero points * sum; the symmetric zero point is a power of two.
template <class Form>
inline __m256i zero_part(__m256i zeros, __m256i sum) {
  static_assert(kPlaneOffset == 1 << 3, "a shift stands for the product");
  const __m256i middle = _mm256_slli_epi32(sum, Form::kBits - 1);
  if constexpr (Form::kPlanes) return _mm256_add_epi32(middle, _mm256_slli_epi32(sum, 3));
  if constexpr (Form::kSymmetric) return middle;
  return _mm256_madd_epi16(zeros, sum);  // both fit in 16 bits
}

// sums + total * scales, for eight columns of a row.
inline void add_scaled(__m256i total, __m256 scales, __m256 scale, float* sums) {
  const __m256 factor = _mm256_mul_ps(scales, scale);
  _mm256_storeu_ps(sums, _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), factor, _mm256_loadu_ps(sums)));
}

// One block of kRows rows: integer sums, then one fma for each sum.
template <class Form, int kRows>
inline void add_block(const Panel& panel, const Tile& tile, int block, int row, const Lanes& scales, const Zeros& zeros,
                      float* sums) {
  constexpr int kBits = Form::kBits;
  const size_t place = static_cast<size_t>(block) * panel.block * 2 * (Form::kPlanes ? 4 : kBits);
  const int8_t* values = tile.values + (static_cast<int64_t>(block) * panel.block / 8 * tile.rows + row) * 8;
  __m256i total[kRows][2];
  sum_block<kBits, Form::kPlanes, kRows>(panel.codes + place, panel.low + (Form::kPlanes ? place : 0), values, tile.rows,
                                         panel.block, total);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    const int64_t entry = static_cast<int64_t>(block) * tile.rows + row + i;
    const __m256i sum = _mm256_set1_epi32(tile.sums[entry]);
    const __m256i low = _mm256_sub_epi32(total[i][0], zero_part<Form>(zeros.half[0], sum));
    const __m256i high = _mm256_sub_epi32(total[i][1], zero_part<Form>(zeros.half[1], sum));
    const __m256 scale = _mm256_set1_ps(tile.scales[entry]);
    float* at = sums + (row + i) * kColumns;
    add_scaled(low, scales.low, scale, at);
    add_scaled(high, scales.high, scale, at + 8);
  }
}

template <class Form, int kAtOnce>
void multiply_as(const Panel& panel, const Tile& tile, float* sums) {
  __builtin_memset(sums, 0, static_cast<size_t>(tile.rows) * kColumns * sizeof(float));
  for (int block = 0; block < panel.blocks; ++block) {
    const Lanes scales = block_scales(panel, block);
    const Zeros zeros = zero_points(panel, block);
    int row = 0;
    for (; row + kAtOnce <= tile.rows; row += kAtOnce) {
      add_block<Form, kAtOnce>(panel, tile, block, row, scales, zeros, sums);
    }
    switch (tile.rows - row) {
      case 3: add_block<Form, 3>(panel, tile, block, row, scales, zeros, sums); break;
      case 2: add_block<Form, 2>(panel, tile, block, row, scales, zeros, sums); break;
      case 1: add_block<Form, 1>(panel, tile, block, row, scales, zeros, sums); break;
      default: break;
    }
  }
}

// All rows of a tile, kAtOnce at a time: 16 registers have accumulators for that many.
template <int kBits, int kAtOnce>
void multiply_rows(const Panel& panel, const Tile& tile, float* sums) {
  if constexpr (kBits == 8) {
    if (panel.low) return multiply_as<Form<8, true, true>, kAtOnce>(panel, tile, sums);
  }
  if (panel.zeros) return multiply_as<Form<kBits, false, false>, kAtOnce>(panel, tile, sums);
  multiply_as<Form<kBits, false, true>, kAtOnce>(panel, tile, sums);
}

}  // namespace
}  // namespace pocketspec
