// Sixteen floats in plain C++. Included once by an instruction set's file; all names stay inside that file.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace pocketspec {
namespace {

inline float widen_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 31;
  const uint32_t fraction = half & 1023;
  uint32_t bits = sign;
  if (exponent == 31) {
    bits |= 0x7f800000u | (fraction << 13);
  } else if (exponent != 0) {
    bits |= ((exponent + 112) << 23) | (fraction << 13);
  } else if (fraction != 0) {
    const float value = static_cast<float>(fraction) * 5.9604644775390625e-8f;  // 2^-24
    std::memcpy(&bits, &value, 4);
    bits |= sign;
  }
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

struct Lanes {
  float v[16];

  template <class Function>
  static Lanes make(Function function) {
    Lanes lanes;
    for (int i = 0; i < 16; ++i) lanes.v[i] = function(i);
    return lanes;
  }
  static Lanes set(float value) {
    return make([=](int) { return value; });
  }
  static Lanes load(const float* from) {
    return make([=](int i) { return from[i]; });
  }
  static Lanes load_half(const uint16_t* from) {
    return make([=](int i) { return widen_half(from[i]); });
  }
  static Lanes load_codes(const int8_t* from) {
    return make([=](int i) { return static_cast<float>(from[i]); });
  }
  void store(float* to) const { std::memcpy(to, v, sizeof v); }
};

inline Lanes operator+(Lanes a, Lanes b) {
  return Lanes::make([&](int i) { return a.v[i] + b.v[i]; });
}
inline Lanes operator*(Lanes a, Lanes b) {
  return Lanes::make([&](int i) { return a.v[i] * b.v[i]; });
}
inline Lanes operator/(Lanes a, Lanes b) {
  return Lanes::make([&](int i) { return a.v[i] / b.v[i]; });
}
inline Lanes fma(Lanes a, Lanes b, Lanes c) {
  return Lanes::make([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}
// min and max return their second argument if one is NaN, as on x86.
inline Lanes min(Lanes a, Lanes b) {
  return Lanes::make([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Lanes max(Lanes a, Lanes b) {
  return Lanes::make([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Lanes round(Lanes a) {
  return Lanes::make([&](int i) { return std::nearbyintf(a.v[i]); });
}
// a * 2^n for whole n in [-126, 127].
inline Lanes times_power(Lanes a, Lanes n) {
  return Lanes::make([&](int i) {
    if (n.v[i] != n.v[i]) return n.v[i];
    const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return a.v[i] * power;
  });
}
// The larger magnitude, compared as bits: infinities and NaN are larger than numbers.
inline Lanes larger_magnitude(Lanes a, Lanes b) {
  return Lanes::make([&](int i) {
    uint32_t x, y;
    std::memcpy(&x, &a.v[i], 4);
    std::memcpy(&y, &b.v[i], 4);
    x &= 0x7fffffffu;
    y &= 0x7fffffffu;
    const uint32_t larger = x > y ? x : y;
    float value;
    std::memcpy(&value, &larger, 4);
    return value;
  });
}
inline float top_magnitude(Lanes a) {
  for (int step = 8; step; step /= 2) {
    Lanes other = a;
    for (int i = 0; i < step; ++i) other.v[i] = a.v[i + step];
    a = larger_magnitude(a, other);
  }
  return a.v[0];
}
// Sum of all lanes: i and i+8 are added, then i+4, i+2, i+1.
inline float sum(Lanes a) {
  for (int step = 8; step; step /= 2) {
    for (int i = 0; i < step; ++i) a.v[i] += a.v[i + step];
  }
  return a.v[0];
}
// Stores the rounded lanes as bytes and returns their sum.
inline int32_t store_rounded(Lanes a, int8_t* to) {
  int32_t total = 0;
  for (int i = 0; i < 16; ++i) {
    to[i] = static_cast<int8_t>(std::nearbyintf(a.v[i]));
    total += to[i];
  }
  return total;
}

}  // namespace
}  // namespace pocketspec
