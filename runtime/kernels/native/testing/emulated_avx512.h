// The 512-bit intrinsics that the kernels use, made of two AVX2 registers each, so that the code can be tested on
// machines without AVX512. Include it before that code; it replaces the compiler's intrinsics by name.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace pocketspec {
namespace {

struct EmulatedFloats {
  __m256 low, high;
};
struct EmulatedIntegers {
  __m256i low, high;
};

template <class Value>
inline Value emulated_copy(const void* from) {
  Value value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

#define EMULATE_FLOATS(name)                                              \
  inline EmulatedFloats emulated_##name(EmulatedFloats a, EmulatedFloats b) { \
    return {_mm256_##name(a.low, b.low), _mm256_##name(a.high, b.high)};  \
  }
EMULATE_FLOATS(add_ps)
EMULATE_FLOATS(mul_ps)
EMULATE_FLOATS(div_ps)
EMULATE_FLOATS(min_ps)
EMULATE_FLOATS(max_ps)
#undef EMULATE_FLOATS

#define EMULATE_INTEGERS(name, wide)                                            \
  inline EmulatedIntegers emulated_##wide(EmulatedIntegers a, EmulatedIntegers b) { \
    return {_mm256_##name(a.low, b.low), _mm256_##name(a.high, b.high)};        \
  }
EMULATE_INTEGERS(add_epi32, add_epi32)
EMULATE_INTEGERS(sub_epi32, sub_epi32)
EMULATE_INTEGERS(max_epi32, max_epi32)
EMULATE_INTEGERS(madd_epi16, madd_epi16)
EMULATE_INTEGERS(and_si256, and_si512)
#undef EMULATE_INTEGERS

inline EmulatedFloats emulated_fmadd_ps(EmulatedFloats a, EmulatedFloats b, EmulatedFloats c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline EmulatedFloats emulated_set1_ps(float a) { return {_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
inline EmulatedFloats emulated_loadu_ps(const void* from) { return emulated_copy<EmulatedFloats>(from); }
inline void emulated_storeu_ps(void* to, EmulatedFloats a) { std::memcpy(to, &a, sizeof a); }
inline EmulatedFloats emulated_cvtph_ps(__m256i a) {
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(a)), _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1))};
}
inline EmulatedFloats emulated_cvtepi32_ps(EmulatedIntegers a) {
  return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)};
}
inline EmulatedIntegers emulated_cvtps_epi32(EmulatedFloats a) {
  return {_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)};
}
inline EmulatedFloats emulated_castsi512_ps(EmulatedIntegers a) { return emulated_copy<EmulatedFloats>(&a); }
inline EmulatedIntegers emulated_castps_si512(EmulatedFloats a) { return emulated_copy<EmulatedIntegers>(&a); }
inline __m256 emulated_castps512_ps256(EmulatedFloats a) { return a.low; }

inline EmulatedIntegers emulated_set1_epi8(char a) { return {_mm256_set1_epi8(a), _mm256_set1_epi8(a)}; }
inline EmulatedIntegers emulated_set1_epi32(int a) { return {_mm256_set1_epi32(a), _mm256_set1_epi32(a)}; }
inline EmulatedIntegers emulated_loadu_si512(const void* from) { return emulated_copy<EmulatedIntegers>(from); }
inline EmulatedIntegers emulated_slli_epi32(EmulatedIntegers a, int count) {
  return {_mm256_slli_epi32(a.low, count), _mm256_slli_epi32(a.high, count)};
}
inline EmulatedIntegers emulated_slli_epi16(EmulatedIntegers a, int count) {
  return {_mm256_slli_epi16(a.low, count), _mm256_slli_epi16(a.high, count)};
}
inline EmulatedIntegers emulated_srli_epi16(EmulatedIntegers a, int count) {
  return {_mm256_srli_epi16(a.low, count), _mm256_srli_epi16(a.high, count)};
}
// The bits of a where those of `mask` are set, else those of b: the ternary logic 0xca, the only one that is used.
inline EmulatedIntegers emulated_select(EmulatedIntegers mask, EmulatedIntegers a, EmulatedIntegers b) {
  return {_mm256_or_si256(_mm256_and_si256(mask.low, a.low), _mm256_andnot_si256(mask.low, b.low)),
          _mm256_or_si256(_mm256_and_si256(mask.high, a.high), _mm256_andnot_si256(mask.high, b.high))};
}
inline EmulatedIntegers emulated_cvtepu8_epi32(__m128i a) {
  return {_mm256_cvtepu8_epi32(a), _mm256_cvtepu8_epi32(_mm_srli_si128(a, 8))};
}
inline EmulatedIntegers emulated_cvtepi8_epi32(__m128i a) {
  return {_mm256_cvtepi8_epi32(a), _mm256_cvtepi8_epi32(_mm_srli_si128(a, 8))};
}
inline __m128i emulated_cvtepi32_epi8(EmulatedIntegers a) {
  int8_t bytes[16];
  int32_t whole[16];
  std::memcpy(whole, &a, sizeof whole);
  for (int i = 0; i < 16; ++i) bytes[i] = static_cast<int8_t>(whole[i]);
  return emulated_copy<__m128i>(bytes);
}
inline int emulated_reduce_add_epi32(EmulatedIntegers a) {
  uint32_t whole[16], total = 0;
  std::memcpy(whole, &a, sizeof whole);
  for (const uint32_t one : whole) total += one;
  return static_cast<int>(total);
}
inline int emulated_reduce_max_epi32(EmulatedIntegers a) {
  int whole[16];
  std::memcpy(whole, &a, sizeof whole);
  int top = whole[0];
  for (const int one : whole) top = one > top ? one : top;
  return top;
}
// Per lane: sum + four unsigned bytes of a times four signed bytes of b. As a function of its own it compiles faster.
__attribute__((noinline)) EmulatedIntegers emulated_dpbusd_epi32(EmulatedIntegers sum, EmulatedIntegers a,
                                                                 EmulatedIntegers b) {
  uint8_t unsigned_bytes[64];
  int8_t signed_bytes[64];
  uint32_t lanes[16];
  std::memcpy(unsigned_bytes, &a, 64);
  std::memcpy(signed_bytes, &b, 64);
  std::memcpy(lanes, &sum, 64);
  for (int i = 0; i < 64; ++i) lanes[i / 4] += static_cast<uint32_t>(unsigned_bytes[i] * signed_bytes[i]);
  return emulated_copy<EmulatedIntegers>(lanes);
}

}  // namespace
}  // namespace pocketspec

// Macros in some compilers.
#undef _mm512_extracti64x4_epi64
#undef _mm512_roundscale_ps
#undef _mm512_slli_epi16
#undef _mm512_slli_epi32
#undef _mm512_srli_epi16
#undef _mm512_ternarylogic_epi32

#define __m512 EmulatedFloats
#define __m512i EmulatedIntegers
#define _mm512_add_epi32 emulated_add_epi32
#define _mm512_add_ps emulated_add_ps
#define _mm512_and_si512 emulated_and_si512
#define _mm512_castps512_ps256 emulated_castps512_ps256
#define _mm512_castps_si512 emulated_castps_si512
#define _mm512_castsi512_ps emulated_castsi512_ps
#define _mm512_cvtepi32_epi8 emulated_cvtepi32_epi8
#define _mm512_cvtepi32_ps emulated_cvtepi32_ps
#define _mm512_cvtepi8_epi32 emulated_cvtepi8_epi32
#define _mm512_cvtepu8_epi32 emulated_cvtepu8_epi32
#define _mm512_cvtph_ps emulated_cvtph_ps
#define _mm512_cvtps_epi32 emulated_cvtps_epi32
#define _mm512_div_ps emulated_div_ps
#define _mm512_dpbusd_epi32 emulated_dpbusd_epi32
#define _mm512_extracti64x4_epi64(a, half) ((half) ? (a).high : (a).low)
#define _mm512_fmadd_ps emulated_fmadd_ps
#define _mm512_loadu_ps emulated_loadu_ps
#define _mm512_loadu_si512 emulated_loadu_si512
#define _mm512_madd_epi16 emulated_madd_epi16
#define _mm512_max_epi32 emulated_max_epi32
#define _mm512_max_ps emulated_max_ps
#define _mm512_min_ps emulated_min_ps
#define _mm512_mul_ps emulated_mul_ps
#define _mm512_reduce_add_epi32 emulated_reduce_add_epi32
#define _mm512_reduce_max_epi32 emulated_reduce_max_epi32
#define _mm512_roundscale_ps(a, mode) EmulatedFloats{_mm256_round_ps((a).low, mode), _mm256_round_ps((a).high, mode)}
#define _mm512_set1_epi32 emulated_set1_epi32
#define _mm512_set1_epi8 emulated_set1_epi8
#define _mm512_set1_ps emulated_set1_ps
#define _mm512_setzero_ps() emulated_set1_ps(0.0f)
#define _mm512_setzero_si512() emulated_set1_epi32(0)
#define _mm512_slli_epi16 emulated_slli_epi16
#define _mm512_slli_epi32 emulated_slli_epi32
#define _mm512_srli_epi16 emulated_srli_epi16
#define _mm512_storeu_ps emulated_storeu_ps
#define _mm512_sub_epi32 emulated_sub_epi32
#define _mm512_ternarylogic_epi32(a, b, c, table) emulated_select(a, b, c)
