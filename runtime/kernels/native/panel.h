// What the matrix operators read: a packed matrix, activations in tiles, and what follows the product.
//
// The arithmetic that every instruction set obeys bit for bit is in ../ARITHMETIC.md; the steps below are its steps. The
// bytes of a packed matrix (panels of 16 columns, lines of codes, scales, zero points) are in ../weights/layout.py.
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
  // Of eight bits in two planes: the low halves of `code + 8`, of which `codes` has the high ones. Null: whole codes.
  const uint8_t* low;
};

// Codes of two planes are stored with this added, and so is their zero point.
constexpr int kPlaneOffset = 8;

// A packed matrix [n, k]; gated ones have two panels, gate and up, for every 16 outputs. In two planes, the low halves
// of all panels follow the high ones.
struct PackedMatrix {
  Panel first;  // panel 0
  int64_t k = 0;
  int64_t panels = 0;

  // Of one panel, and of one plane of it.
  size_t code_bytes() const { return plane_bytes() * (first.low ? 2 : 1); }
  size_t plane_bytes() const { return static_cast<size_t>(first.blocks) * first.block * (first.low ? 4 : first.bits) * 2; }
  size_t scale_bytes() const { return static_cast<size_t>(first.blocks) * kColumns * (first.half_scales ? 2 : 4); }
  size_t zero_bytes() const { return static_cast<size_t>(first.blocks) * first.bits * 2; }

  Panel panel(int64_t index) const {
    Panel view = first;
    view.codes += static_cast<size_t>(index) * plane_bytes();
    if (view.low) view.low += static_cast<size_t>(index) * plane_bytes();
    view.scales = static_cast<const uint8_t*>(view.scales) + static_cast<size_t>(index) * scale_bytes();
    if (view.zeros) view.zeros += static_cast<size_t>(index) * zero_bytes();
    return view;
  }
};

// Quantized activations of up to 16 rows, interleaved: one address serves all rows of the tile.
struct Tile {
  int rows;
  const int8_t* values;  // [blocks * block / 8][rows][8]
  const float* scales;   // [blocks][rows]
  const int32_t* sums;   // [blocks][rows], of the codes
};

// One row to be quantized, and its place in the interleaved arrays of the tile.
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

enum class Activation { kNone, kSilu, kGeluTanh, kClampedSwiglu };

// What is done with the sums of a panel, for up to 16 columns of every row of a tile.
struct Finish {
  const float* bias;       // null: none; of these columns
  const float* gate_bias;  // of the gate's columns
  const float* residual;   // null: none; at the first row and these columns, like y
  float* y;                // at the first row and these columns
  int64_t stride;          // floats from row to row of y and residual
  int columns;             // how many of the 16 columns exist
  Activation activation;
  float alpha, limit;  // of kClampedSwiglu
};

}  // namespace pocketspec
