// Plain C++: every other instruction set is tested against it, and it runs where none of them does.
#include "isa.h"
#include "lanes_portable.h"
#include "rows.h"
#include "attention_rows.h"
#include "state_rows.h"

namespace pocketspec {
namespace {

// The exact sum of code * activation over one block of one column.
int32_t block_sum(const Panel& panel, int block, int column, const Tile& tile, int row) {
  int32_t total = 0;
  for (int i = 0; i < panel.block; ++i) {
    const int64_t k = static_cast<int64_t>(block) * panel.block + i;
    const int32_t activation = tile.values[(k / 8 * tile.rows + row) * 8 + k % 8];
    total += code_of(panel, column, k) * activation;
  }
  return total;
}

void multiply(const Panel& panel, const Tile& tile, float* sums) {
  std::memset(sums, 0, static_cast<size_t>(tile.rows) * kColumns * sizeof(float));
  for (int block = 0; block < panel.blocks; ++block) {
    float scales[kColumns];
    block_scales(panel, block).store(scales);
    for (int row = 0; row < tile.rows; ++row) {
      const int64_t place = static_cast<int64_t>(block) * tile.rows + row;
      for (int column = 0; column < kColumns; ++column) {
        const int32_t d =
            block_sum(panel, block, column, tile, row) - zero_point(panel, block, column) * tile.sums[place];
        float& sum = sums[row * kColumns + column];
        sum = std::fma(static_cast<float>(d), scales[column] * tile.scales[place], sum);
      }
    }
  }
}

}  // namespace

const Isa kPortable = {"portable", inverse_rms, quantize, multiply, finish, unpack, prepare_head, store_row, attend, convolve, scale_head, exponentials, recur, gate_norm, dot};

}  // namespace pocketspec
