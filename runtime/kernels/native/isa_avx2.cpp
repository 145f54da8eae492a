// AVX2 without VNNI: vpmaddubsw on nibbles. The sum of a pair is at most 2 * 15 * 127 = 3810, so eight such sums fit
// int16 and stay exact. An 8-bit code is two nibbles: 16 * high + low.
#include "halves_avx2.h"
#include "isa.h"
#include "attention_rows.h"
#include "state_rows.h"

namespace pocketspec {
namespace {

inline __m256i add_pairs(__m256i sum, __m256i weights, __m256i values) {
  return in_order(_mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, values)));
}
inline __m256i widen(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

// Exact sums over 32 k of 16 columns, as int32: [row][half].
template <int kRows>
inline void add_chunk4(const uint8_t* codes, const int8_t* values, int rows, __m256i (&total)[kRows][2]) {
  __m256i pairs[kRows][2];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) pairs[row][0] = pairs[row][1] = _mm256_setzero_si256();
#pragma GCC unroll 4
  for (int line = 0; line < 4; ++line) {
    prefetch(codes);
    const __m256i a = load_half_line(codes), b = load_half_line(codes + 32);
    const __m256i a_low = low_nibbles(a), b_low = low_nibbles(b);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const __m256i x = spread(values + row * 8);
      pairs[row][0] = add_pairs(pairs[row][0], a_low, x);
      pairs[row][1] = add_pairs(pairs[row][1], b_low, x);
    }
    const __m256i a_high = high_nibbles(a), b_high = high_nibbles(b);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const __m256i y = spread(values + row * 8 + 4);
      pairs[row][0] = add_pairs(pairs[row][0], a_high, y);
      pairs[row][1] = add_pairs(pairs[row][1], b_high, y);
    }
    codes += kLine;
    values += rows * 8;
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
    total[row][0] = _mm256_add_epi32(total[row][0], widen(pairs[row][0]));
    total[row][1] = _mm256_add_epi32(total[row][1], widen(pairs[row][1]));
  }
}

// The same for codes of eight bits.
template <int kRows>
inline void add_chunk8(const uint8_t* codes, const int8_t* values, int rows, __m256i (&total)[kRows][2]) {
  for (int half = 0; half < 2; ++half) {
    __m256i low[kRows], high[kRows];
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) low[row] = high[row] = _mm256_setzero_si256();
    const int8_t* x = values;
#pragma GCC unroll 8
    for (int line = 0; line < 8; ++line) {
      const __m256i a = load_half_line(codes + line * kLine + half * 32);
      const __m256i a_low = low_nibbles(a), a_high = high_nibbles(a);
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) {
        const __m256i four = spread(x + row * 8 + (line & 1) * 4);
        low[row] = add_pairs(low[row], a_low, four);
        high[row] = add_pairs(high[row], a_high, four);
      }
      if (line & 1) x += rows * 8;
    }
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const __m256i sum = _mm256_add_epi32(widen(low[row]), _mm256_slli_epi32(widen(high[row]), 4));
      total[row][half] = _mm256_add_epi32(total[row][half], sum);
    }
  }
}

// The same for codes of eight bits in two planes, `low` having the low halves.
template <int kRows>
inline void add_planes(const uint8_t* codes, const uint8_t* low, const int8_t* values, int rows,
                       __m256i (&total)[kRows][2]) {
  for (int half = 0; half < 2; ++half) {
    __m256i low_sums[kRows], high_sums[kRows];
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) low_sums[row] = high_sums[row] = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int line = 0; line < 4; ++line) {
      const __m256i a = load_half_line(codes + line * kLine + half * 32);
      const __m256i b = load_half_line(low + line * kLine + half * 32);
      prefetch(codes + line * kLine + half * 32);
      prefetch(low + line * kLine + half * 32);
      const int8_t* x = values + line * rows * 8;
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) {
        const __m256i first = spread(x + row * 8), second = spread(x + row * 8 + 4);
        high_sums[row] = add_pairs(high_sums[row], low_nibbles(a), first);
        high_sums[row] = add_pairs(high_sums[row], high_nibbles(a), second);
        low_sums[row] = add_pairs(low_sums[row], low_nibbles(b), first);
        low_sums[row] = add_pairs(low_sums[row], high_nibbles(b), second);
      }
    }
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const __m256i sum = _mm256_add_epi32(widen(low_sums[row]), _mm256_slli_epi32(widen(high_sums[row]), 4));
      total[row][half] = _mm256_add_epi32(total[row][half], sum);
    }
  }
}

template <int kBits, bool kPlanes, int kRows>
inline void sum_block(const uint8_t* codes, const uint8_t* low, const int8_t* values, int rows, int block, __m256i (&total)[kRows][2]) {
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) total[row][0] = total[row][1] = _mm256_setzero_si256();
  for (int k = 0; k < block; k += 32) {
    if constexpr (kPlanes) {
      add_planes<kRows>(codes, low, values, rows, total);
      low += 32 * 8;
    } else if constexpr (kBits == 4) {
      add_chunk4<kRows>(codes, values, rows, total);
    } else {
      add_chunk8<kRows>(codes, values, rows, total);
    }
    codes += 32 * 2 * (kPlanes ? 4 : kBits);
    values += rows * 32;
  }
}

void multiply(const Panel& panel, const Tile& tile, float* sums) {
  panel.bits == 4 ? multiply_rows<4, 4>(panel, tile, sums) : multiply_rows<8, 2>(panel, tile, sums);
}

}  // namespace

const Isa kAvx2 = {"avx2", inverse_rms, quantize, multiply, finish, unpack, prepare_head, store_row, attend, convolve, scale_head, exponentials, recur, gate_norm, dot};

}  // namespace pocketspec
