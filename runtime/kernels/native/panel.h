// The arithmetic of the native operators, and the shape of what they read. Every implementation obeys it bit for bit.
//
// A packed matrix holds a weight W[N, K] as panels of 16 columns (16 outputs). K is cut into blocks of 32, 64 or 128 and
// padded to whole blocks; the codes of the padding are the zero point. Weight = (code - zero point) * scale.
//   codes   uint8 [panels][blocks][lines][64]; 4 bits: line l has k = 8l .. 8l+7, byte 4c+j of column c holds k = 8l+j in
//           its low and k = 8l+4+j in its high nibble; 8 bits: line l has k = 4l .. 4l+3, byte 4c+j holds k = 4l+j
//   scales  float or half [panels][blocks][16]; a half is widened exactly
//   zeros   absent: 8 or 128; else uint8 [panels][blocks][8], column j low and column j+8 high, or [..][16] for 8 bits
//
// One row x[K] of activations, in float32 with round-to-nearest-even everywhere and no contraction but the stated fma:
// 1. Norm (with a gain g): lane i of 32 sums x[k]*x[k] over k = i, i+32, .. with fma; lanes i and i+16 are added, then
//    i and i+8, i+4, i+2, i+1. r = 1 / sqrt(sum / K + epsilon); x[k] becomes (x[k] * r) * g[k].
// 2. Quantization, block by block: m = max |x|. If m is infinite or not a number, the block's codes are 0 and its scale
//    is NaN, so that every output of the row is NaN. If m < 1e-30, codes and scale are 0. Otherwise the scale is m / 127
//    and code = round(x * (127 / m)), which lies in -127 .. 127.
// 3. Product, per column: sum = 0; block by block, d = the exact integer sum of (code of weight - zero point) * code of
//    activation, sum = fma(float(d), weight scale * activation scale, sum). |d| < 2^24, so float(d) is exact.
// 4. Finish: + bias; in gated matrices act(gate) * up, where act(v) = v / (1 + exp(-v)) for silu and
//    v / (1 + exp(-2u)), u = 0.7978845608 * fma(0.044715 * v * v, v, v), for gelu_tanh; + residual.
// exp(v): v is clamped to [-87, 88]; n = round(v * 1.44269504); f = fma(n, -0.693359375, v), then
//    f = fma(n, 2.12194440e-4, f); the polynomial of Cephes' expf, in Horner form with fma; times 2^n.
// A row's result depends on nothing but the row: neither on how many rows there are, nor on the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pocketspec {

constexpr int kColumns = 16;   // columns of a panel
constexpr int kTileRows = 16;  // most rows of a tile
constexpr int kLine = 64;      // bytes of a line of codes
constexpr int kLayout = 1;     // version of the packed layout

// One panel of a packed matrix.
struct Panel {
  const uint8_t* codes;
  const void* scales;
  const uint8_t* zeros;  // null: symmetric
  int bits;              // 4 or 8
  int block;             // 32, 64 or 128
  int blocks;
  bool half_scales;
};

// A packed matrix [n, k]; gated ones have two panels, gate and up, for every 16 outputs.
struct PackedMatrix {
  Panel first;  // panel 0
  int64_t k = 0;
  int64_t panels = 0;

  size_t code_bytes() const { return static_cast<size_t>(first.blocks) * first.block * first.bits * 2; }
  size_t scale_bytes() const { return static_cast<size_t>(first.blocks) * kColumns * (first.half_scales ? 2 : 4); }
  size_t zero_bytes() const { return static_cast<size_t>(first.blocks) * first.bits * 2; }

  Panel panel(int64_t index) const {
    Panel view = first;
    view.codes += static_cast<size_t>(index) * code_bytes();
    view.scales = static_cast<const uint8_t*>(view.scales) + static_cast<size_t>(index) * scale_bytes();
    if (view.zeros) view.zeros += static_cast<size_t>(index) * zero_bytes();
    return view;
  }
};

// Quantized activations of up to 16 rows, interleaved so that one address serves all rows of the tile.
struct Tile {
  int rows;
  const int8_t* values;  // [blocks * block / 8][rows][8]
  const float* scales;   // [blocks][rows]
  const int32_t* sums;   // [blocks][rows], of the codes
};

// One row on its way into a tile; the destinations point at this row's place in the tile's interleaved arrays.
struct RowSource {
  const float* x;
  const float* gain;  // null: no norm
  float inverse_rms;
  int64_t k;
  int block;
};
struct RowTarget {
  int8_t* values;
  float* scales;
  int32_t* sums;
  int rows;
};

enum class Activation { kNone, kSilu, kGeluTanh };

// What becomes of the sums of a panel: up to 16 columns of every row of a tile.
struct Finish {
  const float* bias;       // null: none; of these columns
  const float* gate_bias;  // of the gate's columns
  const float* residual;   // null: none; at the first row and these columns
  float* y;                // likewise
  int64_t stride;          // floats from row to row of y and residual
  int columns;             // how many of the 16 exist
  Activation activation;
};

}  // namespace pocketspec
