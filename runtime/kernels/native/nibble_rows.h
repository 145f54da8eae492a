// Rows of keys and values in four bits (ARITHMETIC.md, CachedAttention, step 2): mixed, then quantized in two halves.
// Mixing preserves dot products, so keys stay mixed in the cache and queries are mixed as well; the weighted sum of values
// is mixed once at the end, which undoes it. Include a lanes_*.h and rows.h first.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "attention.h"

namespace pocketspec {
namespace {

// Multiplies every block of mixed_together(size) values by a Hadamard matrix, in place.
void mix(float* x, int64_t size) {
  const int64_t together = mixed_together(size), half = together / 2;
  float other[kMaxHeadSize];
  for (float* block = x; block < x + size; block += together) {
    float *from = block, *to = other;
    // Pairs `half` apart are stored side by side. So every round is the same loop, which compilers vectorize, and after
    // the last round all values are in their places.
    for (int64_t round = together; round > 1; round /= 2) {
      for (int64_t i = 0; i < half; ++i) {
        const float a = from[i], b = from[i + half];
        to[2 * i] = a + b;
        to[2 * i + 1] = a - b;
      }
      float* swapped = from;
      from = to;
      to = swapped;
    }
    if (from != block) std::memcpy(block, from, static_cast<size_t>(together) * sizeof(float));
  }
}

// Undoes the factor of mixing twice; exact, since it is a power of two.
inline void unscale(float* x, int64_t size) {
  const float factor = 1.0f / static_cast<float>(mixed_together(size));
  for (int64_t i = 0; i < size; ++i) x[i] *= factor;
}

// A finite float rounded to bfloat16, ties to even.
inline uint16_t narrow_scale(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float widen_scale(uint16_t scale) {
  const uint32_t bits = static_cast<uint32_t>(scale) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Fills `codes` (-8 .. 7, zero before) for half a row and returns its scale. The largest magnitude becomes -8, whatever
// its sign.
inline uint16_t quantize_half(const float* x, int64_t size, int8_t* codes) {
  Lanes top = Lanes::set(0), high = Lanes::set(0);
  for (int64_t i = 0; i < size; i += 16) {
    const Lanes part = load_until(x, i, size);
    top = larger_magnitude(top, part);
    high = max(high, part);
  }
  const float largest = top_magnitude(top);
  const bool finite = largest <= 3.402823466e38f;
  if (!finite) return 0x7fc0;
  if (largest < kSmallest) return 0;
  float highs[16];
  high.store(highs);
  bool positive = false;
  for (const float value : highs) positive |= value == largest;
  const uint16_t scale = narrow_scale(positive ? largest / -8.0f : largest / 8.0f);
  const Lanes factor = Lanes::set(1.0f / widen_scale(scale));
  const Lanes least = Lanes::set(-8.0f), most = Lanes::set(7.0f);
  for (int64_t i = 0; i < size; i += 16) {
    store_rounded(max(least, min(most, load_until(x, i, size) * factor)), codes + i);
  }
  return scale;
}

inline void store_nibbles(const float* x, int64_t size, uint8_t* to) {
  const int64_t half = size / 2;
  float mixed[kMaxHeadSize];
  std::memcpy(mixed, x, static_cast<size_t>(size) * sizeof(float));
  mix(mixed, size);
  int8_t low[kMaxHeadSize / 2 + 16] = {}, high[kMaxHeadSize / 2 + 16] = {};
  const uint16_t scales[2] = {quantize_half(mixed, half, low), quantize_half(mixed + half, half, high)};
  for (int64_t i = 0; i < half; ++i) to[i] = static_cast<uint8_t>((low[i] + 8) | (high[i] + 8) << 4);
  std::memcpy(to + half, scales, sizeof scales);
}

// Codes -8 .. 7 of sixteen bytes as floats: of the low halves and of the high ones. On x86 they stay in registers,
// because loading sixteen bytes that were just stored one by one would stall.
struct Nibbles {
  Lanes low, high;
};
#if defined(__AVX2__)
inline Nibbles split_nibbles(__m128i bytes) {
  const __m128i nibble = _mm_set1_epi8(15), middle = _mm_set1_epi8(8);
  return {Lanes::of_codes(_mm_sub_epi8(_mm_and_si128(bytes, nibble), middle)),
          Lanes::of_codes(_mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(bytes, 4), nibble), middle))};
}
inline Nibbles load_nibbles(const uint8_t* from) {
  return split_nibbles(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
#else
inline Nibbles load_nibbles(const uint8_t* from) {
  int8_t low[16], high[16];
  for (int i = 0; i < 16; ++i) {
    low[i] = static_cast<int8_t>((from[i] & 15) - 8);
    high[i] = static_cast<int8_t>((from[i] >> 4) - 8);
  }
  return {Lanes::load_codes(low), Lanes::load_codes(high)};
}
#endif

// Reads a row, still mixed.
inline void widen_nibbles(const uint8_t* from, int64_t size, float* to) {
  const int64_t half = size / 2;
  uint16_t scales[2];
  std::memcpy(scales, from + half, sizeof scales);
  const float low_scale = widen_scale(scales[0]), high_scale = widen_scale(scales[1]);
  const Lanes low_factor = Lanes::set(low_scale), high_factor = Lanes::set(high_scale);
  int64_t i = 0;
  for (; i + 16 <= half; i += 16) {
    const Nibbles codes = load_nibbles(from + i);
    (codes.low * low_factor).store(to + i);
    (codes.high * high_factor).store(to + half + i);
  }
#if defined(__AVX2__)
  // Heads of 16, 48 and 80 end in eight bytes.
  if (i + 8 <= half) {
    const Nibbles codes = split_nibbles(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + i)));
    (codes.low * low_factor).store_eight(to + i);
    (codes.high * high_factor).store_eight(to + half + i);
    i += 8;
  }
#endif
  for (; i < half; ++i) {
    to[i] = static_cast<float>((from[i] & 15) - 8) * low_scale;
    to[half + i] = static_cast<float>((from[i] >> 4) - 8) * high_scale;
  }
}

}  // namespace
}  // namespace pocketspec
