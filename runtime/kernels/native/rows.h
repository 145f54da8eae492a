// The steps of ARITHMETIC.md that work on floats, written once over Lanes. Include a lanes_*.h first.
#pragma once

#include <cmath>
#include <cstring>

#include "panel.h"

namespace pocketspec {
namespace {

constexpr float kSmallest = 1e-30f;

// Lanes k .. k+15 of x, zeros from `end` on.
inline Lanes load_until(const float* x, int64_t k, int64_t end) {
  if (k + 16 <= end) return Lanes::load(x + k);
  float part[16] = {};
  for (int64_t i = k; i < end; ++i) part[i - k] = x[i];
  return Lanes::load(part);
}

inline void store_part(Lanes lanes, float* to, int count) {
  if (count == 16) return lanes.store(to);
  float part[16];
  lanes.store(part);
  std::memcpy(to, part, static_cast<size_t>(count) * sizeof(float));
}

// The sum of a[k] * b[k] (MatMulPanel, step 1).
float dot(const float* a, const float* b, int64_t k) {
  Lanes even = Lanes::set(0), odd = Lanes::set(0);
  for (int64_t i = 0; i < k; i += 32) {
    even = fma(load_until(a, i, k), load_until(b, i, k), even);
    if (i + 16 < k) odd = fma(load_until(a, i + 16, k), load_until(b, i + 16, k), odd);
  }
  return sum(even + odd);
}

inline float sum_of_squares(const float* x, int64_t k) { return dot(x, x, k); }

float inverse_rms(const float* x, int64_t k, float epsilon) {
  return 1.0f / std::sqrt(sum_of_squares(x, k) / static_cast<float>(k) + epsilon);
}

// Sixteen activations of a row, normed if there is a gain.
inline Lanes activations(const RowSource& source, int64_t k) {
  const Lanes x = load_until(source.x, k, source.k);
  if (!source.gain) return x;
  return (x * Lanes::set(source.inverse_rms)) * load_until(source.gain, k, source.k);
}

void quantize_block(const RowSource& source, const RowTarget& target, int block) {
  const int64_t start = static_cast<int64_t>(block) * source.block;
  Lanes kept[8];
  Lanes top = Lanes::set(0);
  for (int i = 0; i < source.block / 16; ++i) {
    kept[i] = activations(source, start + i * 16);
    top = larger_magnitude(top, kept[i]);
  }
  const float largest = top_magnitude(top);
  const bool finite = largest <= 3.402823466e38f;
  const bool counts = finite && largest >= kSmallest;
  const Lanes factor = Lanes::set(counts ? 127.0f / largest : 0.0f);
  int32_t total = 0;
  for (int i = 0; i < source.block / 16; ++i) {
    alignas(16) int8_t codes[16] = {};
    if (counts) total += store_rounded(kept[i] * factor, codes);
    int8_t* to = target.values + (start / 8 + i * 2) * target.rows * 8;
    std::memcpy(to, codes, 8);
    std::memcpy(to + target.rows * 8, codes + 8, 8);
  }
  target.scales[static_cast<int64_t>(block) * target.rows] = finite ? (counts ? largest / 127.0f : 0.0f) : NAN;
  target.sums[static_cast<int64_t>(block) * target.rows] = total;
}

void quantize(const RowSource& source, const RowTarget& target, int first, int last) {
  for (int block = first; block < last; ++block) quantize_block(source, target, block);
}

inline Lanes exponential(Lanes v) {
  v = max(Lanes::set(-87.0f), min(Lanes::set(88.0f), v));
  const Lanes n = round(v * Lanes::set(1.44269504f));
  Lanes f = fma(n, Lanes::set(-0.693359375f), v);
  f = fma(n, Lanes::set(2.12194440e-4f), f);
  Lanes p = Lanes::set(1.9875691500e-4f);
  p = fma(p, f, Lanes::set(1.3981999507e-3f));
  p = fma(p, f, Lanes::set(8.3334519073e-3f));
  p = fma(p, f, Lanes::set(4.1665795894e-2f));
  p = fma(p, f, Lanes::set(1.6666665459e-1f));
  p = fma(p, f, Lanes::set(5.0000001201e-1f));
  p = fma(p * f, f, f + Lanes::set(1.0f));
  return times_power(p, n);
}

inline Lanes activated(Lanes v, Activation activation, float alpha = 1.0f) {
  Lanes exponent = v * Lanes::set(-alpha);
  if (activation == Activation::kGeluTanh) {
    const Lanes inner = fma((Lanes::set(0.044715f) * v) * v, v, v);
    exponent = (inner * Lanes::set(0.7978845608f)) * Lanes::set(-2.0f);
  }
  return v / (Lanes::set(1.0f) + exponential(exponent));
}

void finish(const float* sums, const float* gate, int rows, const Finish& job) {
  const Lanes bias = job.bias ? load_until(job.bias, 0, job.columns) : Lanes::set(0);
  const Lanes gate_bias = job.gate_bias ? load_until(job.gate_bias, 0, job.columns) : Lanes::set(0);
  const bool clamped = job.activation == Activation::kClampedSwiglu;
  for (int row = 0; row < rows; ++row) {
    Lanes y = Lanes::load(sums + row * kColumns);
    if (job.bias) y = y + bias;
    if (gate) {
      Lanes g = Lanes::load(gate + row * kColumns);
      if (job.gate_bias) g = g + gate_bias;
      if (clamped) {
        const Lanes limit = Lanes::set(job.limit);
        g = min(limit, g);
        y = max(Lanes::set(-job.limit), min(limit, y)) + Lanes::set(1.0f);
      }
      y = activated(g, job.activation, clamped ? job.alpha : 1.0f) * y;
    }
    if (job.residual) y = y + load_until(job.residual + row * job.stride, 0, job.columns);
    store_part(y, job.y + row * job.stride, job.columns);
  }
}

// code * scale, sixteen at a time.
inline void multiply_codes(const int8_t* codes, int64_t size, float scale, float* to) {
  const Lanes factor = Lanes::set(scale);
  int64_t i = 0;
  for (; i + 16 <= size; i += 16) (Lanes::load_codes(codes + i) * factor).store(to + i);
  for (; i < size; ++i) to[i] = static_cast<float>(codes[i]) * scale;
}

inline Lanes block_scales(const Panel& panel, int block) {
  const int64_t at = static_cast<int64_t>(block) * kColumns;
  if (panel.half_scales) return Lanes::load_half(static_cast<const uint16_t*>(panel.scales) + at);
  return Lanes::load(static_cast<const float*>(panel.scales) + at);
}

inline int zero_point(const Panel& panel, int block, int column) {
  if (panel.low) return 128 + kPlaneOffset;
  if (!panel.zeros) return panel.bits == 4 ? 8 : 128;
  if (panel.bits == 8) return panel.zeros[block * 16 + column];
  return (panel.zeros[block * 8 + (column & 7)] >> (column < 8 ? 0 : 4)) & 15;
}

// The code of k in one column of lines that have `bits` bits a code.
inline int code_at(const uint8_t* lines, int bits, int column, int64_t k) {
  const int per_line = 32 / bits, within = static_cast<int>(k % per_line);
  const uint8_t byte = lines[k / per_line * kLine + column * 4 + (within & 3)];
  return bits == 8 ? byte : (within < 4 ? byte & 15 : byte >> 4);
}

// The stored code of k in one column of a panel.
inline int code_of(const Panel& panel, int column, int64_t k) {
  if (!panel.low) return code_at(panel.codes, panel.bits, column, k);
  return code_at(panel.codes, 4, column, k) << 4 | code_at(panel.low, 4, column, k);
}

void unpack(const Panel& panel, int column, int64_t k, float factor, float* weights) {
  for (int block = 0; block < panel.blocks; ++block) {
    float scales[kColumns];
    block_scales(panel, block).store(scales);
    const int zero = zero_point(panel, block, column);
    const int64_t start = static_cast<int64_t>(block) * panel.block;
    for (int64_t i = start; i < start + panel.block && i < k; ++i) {
      weights[i] = (static_cast<float>(code_of(panel, column, i) - zero) * scales[column]) * factor;
    }
  }
}

}  // namespace
}  // namespace pocketspec
