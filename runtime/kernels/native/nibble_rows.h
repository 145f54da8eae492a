// Rows of keys and values in four bits (attention.h, step 2): mixed, so that no dimension sticks out, then two halves
// with a scale each. Mixing keeps products: keys stay mixed, and queries are mixed too; sums of values are mixed back.
// Include a lanes_*.h and rows.h first.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "attention.h"

namespace pocketspec {
namespace {

// Hadamard's matrix times every block of mixed_together(size) values, in place.
void mix(float* x, int64_t size) {
  const int64_t together = mixed_together(size), half = together / 2;
  float other[kMaxHeadSize];
  for (float* block = x; block < x + size; block += together) {
    float *from = block, *to = other;
    // The pair that is `half` apart goes to neighbouring places, so that every round has the same loop, which the
    // compiler turns into vectors; after the last round all values are where they belong.
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

// What undoes a second mixing; exact, since it is a power of two.
inline void unscale(float* x, int64_t size) {
  const float factor = 1.0f / static_cast<float>(mixed_together(size));
  for (int64_t i = 0; i < size; ++i) x[i] *= factor;
}

// A finite float to the nearest bfloat16, ties to even.
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

// Codes -8 .. 7 of half a row, which are 0 until then, and its scale. The largest magnitude becomes -8, whatever its sign.
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

// The row as it is read: still mixed.
inline void widen_nibbles(const uint8_t* from, int64_t size, float* to) {
  const int64_t half = size / 2;
  int8_t low[kMaxHeadSize / 2], high[kMaxHeadSize / 2];
  for (int64_t i = 0; i < half; ++i) {
    low[i] = static_cast<int8_t>((from[i] & 15) - 8);
    high[i] = static_cast<int8_t>((from[i] >> 4) - 8);
  }
  uint16_t scales[2];
  std::memcpy(scales, from + half, sizeof scales);
  multiply_codes(low, half, widen_scale(scales[0]), to);
  multiply_codes(high, half, widen_scale(scales[1]), to + half);
}

}  // namespace
}  // namespace pocketspec
