// Sixteen floats in four NEON registers. Included once by an instruction set's file; all names stay inside that file.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace pocketspec {
namespace {

struct Lanes {
  float32x4_t v[4];

  template <class Function>
  static Lanes make(Function function) {
    return {{function(0), function(1), function(2), function(3)}};
  }
  static Lanes set(float value) {
    return make([=](int) { return vdupq_n_f32(value); });
  }
  static Lanes load(const float* from) {
    return make([=](int i) { return vld1q_f32(from + i * 4); });
  }
  static Lanes load_half(const uint16_t* from) {
    return make([=](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + i * 4))); });
  }
  static Lanes load_codes(const int8_t* from) {
    const int8x16_t codes = vld1q_s8(from);
    const int16x8_t low = vmovl_s8(vget_low_s8(codes)), high = vmovl_s8(vget_high_s8(codes));
    return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
             vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
  }
  void store(float* to) const {
    for (int i = 0; i < 4; ++i) vst1q_f32(to + i * 4, v[i]);
  }
};

inline Lanes operator+(Lanes a, Lanes b) {
  return Lanes::make([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
}
inline Lanes operator*(Lanes a, Lanes b) {
  return Lanes::make([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
}
inline Lanes operator/(Lanes a, Lanes b) {
  return Lanes::make([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
}
inline Lanes fma(Lanes a, Lanes b, Lanes c) {
  return Lanes::make([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
// min and max return their second argument if one is NaN, as on x86.
inline Lanes min(Lanes a, Lanes b) {
  return Lanes::make([&](int i) { return vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
inline Lanes max(Lanes a, Lanes b) {
  return Lanes::make([&](int i) { return vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
inline Lanes round(Lanes a) {
  return Lanes::make([&](int i) { return vrndnq_f32(a.v[i]); });
}
// a * 2^n for whole n in [-126, 127].
inline Lanes times_power(Lanes a, Lanes n) {
  return Lanes::make([&](int i) {
    const int32x4_t bits = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n.v[i]), vdupq_n_s32(127)), 23);
    return vmulq_f32(a.v[i], vreinterpretq_f32_s32(bits));
  });
}
inline uint32x4_t magnitude(float32x4_t a) { return vandq_u32(vreinterpretq_u32_f32(a), vdupq_n_u32(0x7fffffff)); }
// The larger magnitude, compared as bits: infinities and NaN are larger than numbers.
inline Lanes larger_magnitude(Lanes a, Lanes b) {
  return Lanes::make([&](int i) { return vreinterpretq_f32_u32(vmaxq_u32(magnitude(a.v[i]), magnitude(b.v[i]))); });
}
inline float top_magnitude(Lanes a) {
  const uint32x4_t low = vmaxq_u32(magnitude(a.v[0]), magnitude(a.v[1]));
  const uint32x4_t high = vmaxq_u32(magnitude(a.v[2]), magnitude(a.v[3]));
  const uint32_t bits = vmaxvq_u32(vmaxq_u32(low, high));
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}
// Sum of all lanes: i and i+8 are added, then i+4, i+2, i+1.
inline float sum(Lanes a) {
  const float32x4_t four = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
// Stores the rounded lanes as bytes and returns their sum.
inline int32_t store_rounded(Lanes a, int8_t* to) {
  int32x4_t whole[4];
  for (int i = 0; i < 4; ++i) whole[i] = vcvtnq_s32_f32(a.v[i]);
  const int16x8_t low = vcombine_s16(vmovn_s32(whole[0]), vmovn_s32(whole[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(whole[2]), vmovn_s32(whole[3]));
  vst1q_s8(to, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
  return vaddvq_s32(vaddq_s32(vaddq_s32(whole[0], whole[1]), vaddq_s32(whole[2], whole[3])));
}

}  // namespace
}  // namespace pocketspec
