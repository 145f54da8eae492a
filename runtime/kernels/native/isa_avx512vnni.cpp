// AVX512-VNNI: a line of codes is one register, and one instruction multiplies its 64 codes and adds the products.
#include "isa.h"
#include "lanes_avx512.h"
#include "rows.h"
#include "attention_rows.h"
#include "state_rows.h"

namespace pocketspec {
namespace {

// Bytes of prefetch distance. Into the second-level cache from afar, because the first level has few buffers for lines
// that are on their way from memory: one row read 0.97 of what plain loads read, with 5 KB into the first level 0.87
// (Sapphire Rapids, two threads, 390 MB).
constexpr int kAhead = 2 * 1024, kFarAhead = 12 * 1024;

inline void prefetch(const uint8_t* codes) {
  _mm_prefetch(reinterpret_cast<const char*>(codes) + kFarAhead, _MM_HINT_T1);
  _mm_prefetch(reinterpret_cast<const char*>(codes) + kAhead, _MM_HINT_T0);
}

inline __m512i load_line(const uint8_t* from) { return _mm512_loadu_si512(from); }

// The codes of k .. k+3 and of k+4 .. k+7 of 16 columns.
struct Eight {
  __m512i first, second;
};

// In `a` where the mask is set, else in `b`.
inline __m512i select(__m512i mask, __m512i a, __m512i b) { return _mm512_ternarylogic_epi32(mask, a, b, 0xca); }

template <int kBits, bool kPlanes>
inline Eight load_eight(const uint8_t* codes, const uint8_t* low) {
  const __m512i line = load_line(codes);
  if constexpr (kPlanes) {
    const __m512i halves = load_line(low), nibble = _mm512_set1_epi8(15);
    return {select(nibble, halves, _mm512_slli_epi16(line, 4)), select(nibble, _mm512_srli_epi16(halves, 4), line)};
  }
  if constexpr (kBits == 8) return {line, load_line(codes + kLine)};
  const __m512i nibble = _mm512_set1_epi8(15);
  return {_mm512_and_si512(line, nibble), _mm512_and_si512(_mm512_srli_epi16(line, 4), nibble)};
}

// sum + codes * four activations, per column. In assembly, since compilers separate the broadcast from the product,
// which costs a register and an instruction for each row.
inline __m512i add_products(__m512i sum, __m512i codes, const int8_t* four) {
#if defined(__GNUC__) && defined(__AVX512VNNI__)
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(codes), "m"(*reinterpret_cast<const int8_t(*)[4]>(four)));
  return sum;
#else
  int32_t bits;
  __builtin_memcpy(&bits, four, 4);
  return _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(bits));
#endif
}

inline __m512i zero_points(const Panel& panel, int block) {
  if (panel.bits == 8) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(panel.zeros + block * 16)));
  }
  const __m128i both = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(panel.zeros + block * 8));
  const __m128i bytes = _mm_unpacklo_epi64(both, _mm_srli_epi16(both, 4));
  return _mm512_cvtepu8_epi32(_mm_and_si128(bytes, _mm_set1_epi8(15)));
}

// Subtracts zero point * sum of the activations from the sums of every row.
template <int kBits, bool kPlanes, int kRows, int kChains>
inline void take_zeros(const Panel& panel, const Tile& tile, int block, __m512i (&total)[kRows][kChains]) {
  const int32_t* sums = tile.sums + static_cast<int64_t>(block) * kRows;
  static_assert(kPlaneOffset == 1 << 3, "a shift stands for the product");
  if (panel.zeros) {
    const __m512i zeros = zero_points(panel, block);
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      // Both factors fit in 16 bits.
      total[row][0] = _mm512_sub_epi32(total[row][0], _mm512_madd_epi16(zeros, _mm512_set1_epi32(sums[row])));
    }
  } else {
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      const __m512i sum = _mm512_set1_epi32(sums[row]);
      __m512i part = _mm512_slli_epi32(sum, kBits - 1);  // 8 or 128 times
      if constexpr (kPlanes) part = _mm512_add_epi32(part, _mm512_slli_epi32(sum, 3));
      total[row][0] = _mm512_sub_epi32(total[row][0], part);
    }
  }
}

// All rows of a tile. Up to 4 rows have two registers of sums each, since a single chain would wait for its own
// latency.
template <int kBits, bool kPlanes, int kRows>
void multiply_rows(const Panel& panel, const Tile& tile, float* sums) {
  constexpr int kChains = kRows <= 4 ? 2 : 1;
  constexpr int kStride = (kPlanes ? 4 : kBits) * kColumns;  // bytes of eight k
  const uint8_t *codes = panel.codes, *low = panel.low;
  const int8_t* values = tile.values;
  __m512 sum[kRows];
#pragma GCC unroll 16
  for (__m512& of_row : sum) of_row = _mm512_setzero_ps();
  for (int block = 0; block < panel.blocks; ++block) {
    __m512i total[kRows][kChains];
#pragma GCC unroll 16
    for (auto& of_row : total) {
      for (__m512i& chain : of_row) chain = _mm512_setzero_si512();
    }
    for (int k = 0; k < panel.block; k += 8) {
      prefetch(codes);
      if constexpr (kBits == 8) prefetch(kPlanes ? low : codes + kLine);
      const Eight eight = load_eight<kBits, kPlanes>(codes, low);
#pragma GCC unroll 16
      for (int row = 0; row < kRows; ++row) {
        total[row][0] = add_products(total[row][0], eight.first, values + row * 8);
        total[row][kChains - 1] = add_products(total[row][kChains - 1], eight.second, values + row * 8 + 4);
      }
      codes += kStride;
      if constexpr (kPlanes) low += kStride;
      values += kRows * 8;
    }
    take_zeros<kBits, kPlanes, kRows, kChains>(panel, tile, block, total);
    const __m512 scales = block_scales(panel, block).all;
    const int64_t place = static_cast<int64_t>(block) * kRows;
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      __m512i d = total[row][0];
      if constexpr (kChains == 2) d = _mm512_add_epi32(d, total[row][1]);
      const __m512 scale = _mm512_mul_ps(scales, _mm512_set1_ps(tile.scales[place + row]));
      sum[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(d), scale, sum[row]);
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) _mm512_storeu_ps(sums + row * kColumns, sum[row]);
}

using Multiply = void (*)(const Panel&, const Tile&, float*);
template <int kBits, bool kPlanes>
constexpr Multiply kMultiply[kTileRows] = {
    multiply_rows<kBits, kPlanes, 1>, multiply_rows<kBits, kPlanes, 2>, multiply_rows<kBits, kPlanes, 3>,
    multiply_rows<kBits, kPlanes, 4>, multiply_rows<kBits, kPlanes, 5>, multiply_rows<kBits, kPlanes, 6>,
    multiply_rows<kBits, kPlanes, 7>, multiply_rows<kBits, kPlanes, 8>, multiply_rows<kBits, kPlanes, 9>,
    multiply_rows<kBits, kPlanes, 10>, multiply_rows<kBits, kPlanes, 11>, multiply_rows<kBits, kPlanes, 12>,
    multiply_rows<kBits, kPlanes, 13>, multiply_rows<kBits, kPlanes, 14>, multiply_rows<kBits, kPlanes, 15>,
    multiply_rows<kBits, kPlanes, 16>};

void multiply(const Panel& panel, const Tile& tile, float* sums) {
  const auto& by_rows = panel.low ? kMultiply<8, true> : panel.bits == 4 ? kMultiply<4, false> : kMultiply<8, false>;
  by_rows[tile.rows - 1](panel, tile, sums);
}

// What gains nothing from wider registers is left to AVX2, so that it is no slower here.
#if defined(POCKETSPEC_HAS_AVX2)
// A few queries over keys and values that are read as they are stored: they wait for memory and for their own sums. AVX2
// took 0.94 to 1.06 of the time on Sapphire Rapids and 0.92 to 0.97 on Zen 4, and 0.62 to 0.79 with heads of 128, of which
// 64 keys, that are taken at once here, fill the first-level cache.
bool is_narrow(const Attention& call, const AttentionUnit& unit) {
  const int64_t queries = unit.last - unit.first;
  const bool is_stored = call.keys.type == Stored::kFloat && call.values.type == Stored::kFloat;
  return is_stored && (queries <= 2 || (queries == 3 && call.head_size >= 128));
}

void prepare_narrow(const Head& head, float* y) { (head.mixed ? prepare_head : kAvx2.prepare_head)(head, y); }

void attend_narrow(const Attention& call, const AttentionUnit& unit) {
  (is_narrow(call, unit) ? kAvx2.attend : attend)(call, unit);
}
#else
constexpr auto prepare_narrow = prepare_head;
constexpr auto attend_narrow = attend;
#endif

}  // namespace

const Isa kAvx512Vnni = {"avx512vnni", inverse_rms,    quantize,  multiply,     finish,
                         unpack,       prepare_narrow, store_row, attend_narrow, convolve, scale_head, exponentials, recur, gate_norm, dot};

}  // namespace pocketspec
