// AVX2 without VNNI: vpmaddubsw on nibbles. A pair sums to at most 2 * 15 * 127 = 3810, so eight of them fit int16, and
// the sums stay exact. Eight bits are two nibbles: 16 * high + low.
#include "isa.h"
#include "lanes_avx2.h"
#include "rows.h"

namespace pocketspec {
namespace {

constexpr int kAhead = 2048;  // bytes of prefetch distance

inline __m256i load_line(const uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
inline __m256i spread(const int8_t* four) {
  int32_t bits;
  __builtin_memcpy(&bits, four, 4);
  return _mm256_set1_epi32(bits);
}
inline __m256i low_nibbles(__m256i bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }
inline __m256i high_nibbles(__m256i bytes) { return low_nibbles(_mm256_srli_epi16(bytes, 4)); }
// Keeps the compiler from reassociating a chain of sums, which it would do at the price of spilling every product.
inline __m256i in_order(__m256i sum) {
#if defined(__GNUC__)
  asm("" : "+x"(sum));
#endif
  return sum;
}
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
    _mm_prefetch(reinterpret_cast<const char*>(codes) + kAhead, _MM_HINT_T0);
    const __m256i a = load_line(codes), b = load_line(codes + 32);
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
      const __m256i a = load_line(codes + line * kLine + half * 32);
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

struct Zeros {
  __m256i low, high;
};

inline Zeros zero_points(const Panel& panel, int block) {
  if (!panel.zeros) return {_mm256_setzero_si256(), _mm256_setzero_si256()};
  if (panel.bits == 8) {
    const uint8_t* at = panel.zeros + block * 16;
    return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))),
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at + 8)))};
  }
  const __m256i both = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(panel.zeros + block * 8)));
  return {_mm256_and_si256(both, _mm256_set1_epi32(15)), _mm256_srli_epi32(both, 4)};
}

// One block of kRows rows: integer sums, then one fma for each sum.
template <int kBits, bool kSymmetric, int kRows>
inline void add_block(const Panel& panel, const Tile& tile, int block, int row, const Lanes& scales, const Zeros& zeros,
                      float* sums) {
  constexpr int kChunkBytes = 32 * 2 * kBits;  // 32 k of 16 columns
  const uint8_t* codes = panel.codes + static_cast<size_t>(block) * panel.block * 2 * kBits;
  const int8_t* values = tile.values + (static_cast<int64_t>(block) * panel.block / 8 * tile.rows + row) * 8;
  __m256i total[kRows][2];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) total[i][0] = total[i][1] = _mm256_setzero_si256();
  for (int chunk = 0; chunk < panel.block / 32; ++chunk) {
    if constexpr (kBits == 4) {
      add_chunk4<kRows>(codes, values, tile.rows, total);
    } else {
      add_chunk8<kRows>(codes, values, tile.rows, total);
    }
    codes += kChunkBytes;
    values += tile.rows * 32;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    const int64_t place = static_cast<int64_t>(block) * tile.rows + row + i;
    const __m256i sum = _mm256_set1_epi32(tile.sums[place]);
    const __m256 scale = _mm256_set1_ps(tile.scales[place]);
    // The symmetric zero point is a power of two.
    const __m256i low_offset = kSymmetric ? _mm256_slli_epi32(sum, kBits - 1) : _mm256_mullo_epi32(zeros.low, sum);
    const __m256i high_offset = kSymmetric ? low_offset : _mm256_mullo_epi32(zeros.high, sum);
    const __m256i low = _mm256_sub_epi32(total[i][0], low_offset);
    const __m256i high = _mm256_sub_epi32(total[i][1], high_offset);
    float* at = sums + (row + i) * kColumns;
    _mm256_storeu_ps(at, _mm256_fmadd_ps(_mm256_cvtepi32_ps(low), _mm256_mul_ps(scales.low, scale), _mm256_loadu_ps(at)));
    at += 8;
    _mm256_storeu_ps(at, _mm256_fmadd_ps(_mm256_cvtepi32_ps(high), _mm256_mul_ps(scales.high, scale), _mm256_loadu_ps(at)));
  }
}

template <int kBits, bool kSymmetric>
void multiply_as(const Panel& panel, const Tile& tile, float* sums) {
  __builtin_memset(sums, 0, static_cast<size_t>(tile.rows) * kColumns * sizeof(float));
  for (int block = 0; block < panel.blocks; ++block) {
    const Lanes scales = block_scales(panel, block);
    const Zeros zeros = zero_points(panel, block);
    // As many rows at once as the 16 registers hold accumulators for.
    constexpr int kAtOnce = kBits == 4 ? 4 : 2;
    int row = 0;
    for (; row + kAtOnce <= tile.rows; row += kAtOnce) {
      add_block<kBits, kSymmetric, kAtOnce>(panel, tile, block, row, scales, zeros, sums);
    }
    switch (tile.rows - row) {
      case 3: add_block<kBits, kSymmetric, 3>(panel, tile, block, row, scales, zeros, sums); break;
      case 2: add_block<kBits, kSymmetric, 2>(panel, tile, block, row, scales, zeros, sums); break;
      case 1: add_block<kBits, kSymmetric, 1>(panel, tile, block, row, scales, zeros, sums); break;
      default: break;
    }
  }
}

void multiply(const Panel& panel, const Tile& tile, float* sums) {
  if (panel.bits == 4) {
    panel.zeros ? multiply_as<4, false>(panel, tile, sums) : multiply_as<4, true>(panel, tile, sums);
  } else {
    panel.zeros ? multiply_as<8, false>(panel, tile, sums) : multiply_as<8, true>(panel, tile, sums);
  }
}

}  // namespace

const Isa kAvx2 = {"avx2", inverse_rms, quantize, multiply, finish, unpack};

}  // namespace pocketspec
