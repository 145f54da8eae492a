// Rows of keys and values in and out of the cache (ARITHMETIC.md, CachedAttention, step 2): rounding, widening and
// transposing. Include a lanes_*.h and rows.h first.
#pragma once

#include <cstring>

#include "attention.h"
#include "nibble_rows.h"

namespace pocketspec {
namespace {

// A float rounded to half, ties to even.
[[maybe_unused]] inline uint16_t narrow_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00);
  if (magnitude < 0x38800000u) {
    // The unit of subnormal halves is 2^-24, the last place of 0.5: adding 0.5 rounds to it.
    float absolute;
    std::memcpy(&absolute, &magnitude, 4);
    absolute += 0.5f;
    std::memcpy(&bits, &absolute, 4);
    return static_cast<uint16_t>(sign | (bits - 0x3f000000u));
  }
  const uint32_t odd = magnitude >> 13 & 1;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfff + odd) >> 13));
}

inline void store_halves(const float* x, int64_t size, uint16_t* to) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= size; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
  }
#endif
  for (; i < size; ++i) to[i] = narrow_float(x[i]);
}

inline void store_codes(const float* x, int64_t size, uint8_t* to) {
  Lanes top = Lanes::set(0);
  for (int64_t i = 0; i < size; i += 16) top = larger_magnitude(top, load_until(x, i, size));
  const float largest = top_magnitude(top);
  const bool finite = largest <= 3.402823466e38f;
  const bool counts = finite && largest >= kSmallest;
  const Lanes factor = Lanes::set(counts ? 127.0f / largest : 0.0f);
  for (int64_t i = 0; i < size; i += 16) {
    alignas(16) int8_t codes[16] = {};
    if (counts) store_rounded(load_until(x, i, size) * factor, codes);
    std::memcpy(to + i, codes, static_cast<size_t>(size - i < 16 ? size - i : 16));
  }
  const float scale = finite ? (counts ? largest / 127.0f : 0.0f) : NAN;
  std::memcpy(to + size, &scale, 4);
}

void store_row(const float* x, const KvRows& cache, int64_t head, int64_t index) {
  uint8_t* to = cache.row(head, index);
  switch (cache.type) {
    case Stored::kFloat: std::memcpy(to, x, static_cast<size_t>(cache.head_size) * sizeof(float)); break;
    case Stored::kHalf: store_halves(x, cache.head_size, reinterpret_cast<uint16_t*>(to)); break;
    case Stored::kInt8: store_codes(x, cache.head_size, to); break;
    case Stored::kInt4: store_nibbles(x, cache.head_size, to); break;
  }
}

inline void widen_halves(const uint16_t* from, int64_t size, float* to) {
  int64_t i = 0;
  for (; i + 16 <= size; i += 16) Lanes::load_half(from + i).store(to + i);
  if (i == size) return;
  uint16_t part[16] = {};
  std::memcpy(part, from + i, static_cast<size_t>(size - i) * 2);
  store_part(Lanes::load_half(part), to + i, static_cast<int>(size - i));
}

inline void widen_codes(const uint8_t* from, int64_t size, float* to) {
  float scale;
  std::memcpy(&scale, from + size, 4);
  multiply_codes(reinterpret_cast<const int8_t*>(from), size, scale, to);
}

// Rows index .. index+count-1 of a head as floats, `stride` apart.
inline void widen_rows(const KvRows& cache, int64_t head, int64_t index, int64_t count, int64_t stride, float* to) {
  for (int64_t i = 0; i < count; ++i, to += stride) {
    const uint8_t* from = cache.row(head, index + i);
    switch (cache.type) {
      case Stored::kFloat: std::memcpy(to, from, static_cast<size_t>(cache.head_size) * sizeof(float)); break;
      case Stored::kHalf: widen_halves(reinterpret_cast<const uint16_t*>(from), cache.head_size, to); break;
      case Stored::kInt8: widen_codes(from, cache.head_size, to); break;
      case Stored::kInt4: widen_nibbles(from, cache.head_size, to); break;
    }
  }
}

#if defined(__AVX2__)
inline __m256 load_two(const float* low, const float* high) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
}
// Transposes four dimensions of eight rows: to[d * 16 + row].
inline void turn_4x8(const float* from, int64_t stride, float* to) {
  const __m256 a = load_two(from, from + 4 * stride), b = load_two(from + stride, from + 5 * stride);
  const __m256 c = load_two(from + 2 * stride, from + 6 * stride), d = load_two(from + 3 * stride, from + 7 * stride);
  const __m256 ab_low = _mm256_unpacklo_ps(a, b), ab_high = _mm256_unpackhi_ps(a, b);
  const __m256 cd_low = _mm256_unpacklo_ps(c, d), cd_high = _mm256_unpackhi_ps(c, d);
  _mm256_storeu_ps(to, _mm256_shuffle_ps(ab_low, cd_low, 0x44));
  _mm256_storeu_ps(to + 16, _mm256_shuffle_ps(ab_low, cd_low, 0xee));
  _mm256_storeu_ps(to + 32, _mm256_shuffle_ps(ab_high, cd_high, 0x44));
  _mm256_storeu_ps(to + 48, _mm256_shuffle_ps(ab_high, cd_high, 0xee));
}
#endif

// Transposes sixteen rows: to[d * 16 + row].
inline void turn_rows(const float* from, int64_t stride, int64_t size, float* to) {
  int64_t d = 0;
#if defined(__AVX2__)
  for (; d + 4 <= size; d += 4) {
    turn_4x8(from + d, stride, to + d * 16);
    turn_4x8(from + d + 8 * stride, stride, to + d * 16 + 8);
  }
#endif
  for (; d < size; ++d) {
    for (int row = 0; row < 16; ++row) to[d * 16 + row] = from[row * stride + d];
  }
}

}  // namespace
}  // namespace pocketspec
