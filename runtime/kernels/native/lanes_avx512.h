// Sixteen floats in one AVX512 register. Included once by an instruction set's file; all names stay inside that file.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
// GCC's own AVX512 header would warn wherever it is used.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <cstdint>

namespace pocketspec {
namespace {

struct Lanes {
  __m512 all;

  static Lanes set(float value) { return {_mm512_set1_ps(value)}; }
  static Lanes load(const float* from) { return {_mm512_loadu_ps(from)}; }
  static Lanes load_half(const uint16_t* from) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
  }
  static Lanes of_codes(__m128i codes) { return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes))}; }
  static Lanes load_codes(const int8_t* from) {
    return of_codes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  void store(float* to) const { _mm512_storeu_ps(to, all); }
  void store_eight(float* to) const { _mm256_storeu_ps(to, _mm512_castps512_ps256(all)); }
};

inline Lanes operator+(Lanes a, Lanes b) { return {_mm512_add_ps(a.all, b.all)}; }
inline Lanes operator*(Lanes a, Lanes b) { return {_mm512_mul_ps(a.all, b.all)}; }
inline Lanes operator/(Lanes a, Lanes b) { return {_mm512_div_ps(a.all, b.all)}; }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return {_mm512_fmadd_ps(a.all, b.all, c.all)}; }
inline Lanes min(Lanes a, Lanes b) { return {_mm512_min_ps(a.all, b.all)}; }
inline Lanes max(Lanes a, Lanes b) { return {_mm512_max_ps(a.all, b.all)}; }
inline Lanes round(Lanes a) { return {_mm512_roundscale_ps(a.all, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
// a * 2^n for whole n in [-126, 127].
inline Lanes times_power(Lanes a, Lanes n) {
  const __m512i bits = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.all), _mm512_set1_epi32(127)), 23);
  return {_mm512_mul_ps(a.all, _mm512_castsi512_ps(bits))};
}
// The larger magnitude, compared as bits: infinities and NaN are larger than numbers.
inline Lanes larger_magnitude(Lanes a, Lanes b) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  const __m512i x = _mm512_and_si512(_mm512_castps_si512(a.all), magnitude);
  const __m512i y = _mm512_and_si512(_mm512_castps_si512(b.all), magnitude);
  return {_mm512_castsi512_ps(_mm512_max_epi32(x, y))};
}
inline float top_magnitude(Lanes a) {
  const __m512i bits = _mm512_and_si512(_mm512_castps_si512(a.all), _mm512_set1_epi32(0x7fffffff));
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(_mm512_reduce_max_epi32(bits))));
}
inline __m256 upper_half(__m512 a) { return _mm256_castsi256_ps(_mm512_extracti64x4_epi64(_mm512_castps_si512(a), 1)); }
// Sum of all lanes: i and i+8 are added, then i+4, i+2, i+1.
inline float sum(Lanes a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.all), upper_half(a.all));
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
// Stores the rounded lanes as bytes and returns their sum.
inline int32_t store_rounded(Lanes a, int8_t* to) {
  const __m512i whole = _mm512_cvtps_epi32(a.all);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(whole));
  return _mm512_reduce_add_epi32(whole);
}

}  // namespace
}  // namespace pocketspec
