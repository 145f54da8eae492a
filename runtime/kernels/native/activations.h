// Quantized activations of the rows of a product, cut into tiles.
#pragma once

#include "isa.h"

namespace pocketspec {

// Rows of one product, cut into tiles.
struct Rows {
  int64_t count;
  int64_t tile_rows;  // of every tile but the last

  explicit Rows(int64_t rows) : count(rows) {
    const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
    // A multiple of four, which is what the narrower instruction sets take at once.
    tile_rows = tiles ? ((rows + tiles - 1) / tiles + 3) / 4 * 4 : 0;
  }
  int rows_from(int64_t first) const { return static_cast<int>(count - first < tile_rows ? count - first : tile_rows); }
};

// Codes, scales and sums of all rows, tile after tile; their places, for `blocks` blocks of `block`.
struct QuantizedRows {
  Rows rows;
  int block, blocks;
  int8_t* values = nullptr;
  float* scales = nullptr;
  int32_t* sums = nullptr;

  QuantizedRows(int64_t count, int block_size, int num_blocks) : rows(count), block(block_size), blocks(num_blocks) {}

  int64_t padded_k() const { return static_cast<int64_t>(blocks) * block; }
  size_t value_count() const { return static_cast<size_t>(rows.count) * static_cast<size_t>(padded_k()); }
  size_t factor_count() const { return static_cast<size_t>(rows.count) * static_cast<size_t>(blocks); }
  size_t bytes() const { return value_count() + factor_count() * 8; }

  // Places the arrays at `memory`, which has bytes() bytes.
  void place(void* memory) {
    values = static_cast<int8_t*>(memory);
    scales = reinterpret_cast<float*>(values + value_count());
    sums = reinterpret_cast<int32_t*>(scales + factor_count());
  }
  // The tile that begins with row `first`.
  Tile tile(int64_t first) const {
    return {rows.rows_from(first), values + first * padded_k(), scales + first * blocks, sums + first * blocks};
  }
  RowTarget target(int64_t row) const {
    const int64_t start = row / rows.tile_rows * rows.tile_rows, place = row - start;
    return {values + start * padded_k() + place * 8, scales + start * blocks + place, sums + start * blocks + place,
            rows.rows_from(start)};
  }
};

}  // namespace pocketspec
