// AVX-VNNI: the same as AVX512-VNNI, in halves of 256 bits and with 16 registers.
#include "halves_avx2.h"
#include "isa.h"
#include "attention_rows.h"
#include "state_rows.h"

namespace pocketspec {
namespace {

// The codes of k .. k+3 and of k+4 .. k+7 of the 16 columns, each in two halves.
struct Eight {
  __m256i first[2], second[2];
};

// Bytes of the low halves of `low` below those of `high`.
inline __m256i join_low(__m256i high, __m256i low) {
  return _mm256_or_si256(_mm256_slli_epi16(low_nibbles(high), 4), low_nibbles(low));
}
inline __m256i join_high(__m256i high, __m256i low) {
  return _mm256_or_si256(_mm256_andnot_si256(_mm256_set1_epi8(15), high), high_nibbles(low));
}

template <int kBits, bool kPlanes>
inline Eight load_eight(const uint8_t* codes, const uint8_t* low) {
  const __m256i a = load_half_line(codes), b = load_half_line(codes + 32);
  if constexpr (kPlanes) {
    const __m256i c = load_half_line(low), d = load_half_line(low + 32);
    return {{join_low(a, c), join_low(b, d)}, {join_high(a, c), join_high(b, d)}};
  }
  if constexpr (kBits == 8) return {{a, b}, {load_half_line(codes + kLine), load_half_line(codes + kLine + 32)}};
  return {{low_nibbles(a), low_nibbles(b)}, {high_nibbles(a), high_nibbles(b)}};
}

inline __m256i dot(__m256i sum, __m256i codes, __m256i values) {
  return in_order(_mm256_dpbusd_avx_epi32(sum, codes, values));
}

// Up to 2 rows have two registers of sums for each half, since a single chain would wait for its own latency.
template <int kBits, bool kPlanes, int kRows>
inline void sum_block(const uint8_t* codes, const uint8_t* low, const int8_t* values, int rows, int block, __m256i (&total)[kRows][2]) {
  constexpr int kChains = kRows <= 2 ? 2 : 1;
  __m256i chain[kRows][2][kChains];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
    for (auto& half : chain[row]) {
      for (__m256i& sum : half) sum = _mm256_setzero_si256();
    }
  }
  for (int k = 0; k < block; k += 8) {
    prefetch(codes);
    if constexpr (kBits == 8) prefetch(kPlanes ? low : codes + kLine);
    const Eight eight = load_eight<kBits, kPlanes>(codes, low);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const __m256i x = spread(values + row * 8);
      chain[row][0][0] = dot(chain[row][0][0], eight.first[0], x);
      chain[row][1][0] = dot(chain[row][1][0], eight.first[1], x);
      const __m256i y = spread(values + row * 8 + 4);
      chain[row][0][kChains - 1] = dot(chain[row][0][kChains - 1], eight.second[0], y);
      chain[row][1][kChains - 1] = dot(chain[row][1][kChains - 1], eight.second[1], y);
    }
    codes += (kPlanes ? 4 : kBits) * kColumns;
    if constexpr (kPlanes) low += 4 * kColumns;
    values += rows * 8;
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
    for (int half = 0; half < 2; ++half) {
      total[row][half] = chain[row][half][0];
      if constexpr (kChains == 2) total[row][half] = _mm256_add_epi32(total[row][half], chain[row][half][1]);
    }
  }
}

void multiply(const Panel& panel, const Tile& tile, float* sums) {
  panel.bits == 4 ? multiply_rows<4, 4>(panel, tile, sums) : multiply_rows<8, 4>(panel, tile, sums);
}

}  // namespace

const Isa kAvxVnni = {"avxvnni", inverse_rms, quantize, multiply, finish, unpack, prepare_head, store_row, attend, convolve, scale_head, exponentials, recur, gate_norm, dot};

}  // namespace pocketspec
