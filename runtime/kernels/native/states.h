// What the operators of states hand to an instruction set: one row of a convolution, and rows of a recurrence.
#pragma once

#include <cstdint>

namespace pocketspec {

constexpr int kMaxTaps = 64;
constexpr int64_t kStateColumns = 64;  // columns of a state that are worked on together
constexpr int64_t kMaxKeySize = 4096;

// The row that follows `taps[0 .. width-1]`, the last of which is the row itself.
struct ConvolutionRow {
  const float* taps[kMaxTaps];
  int width;
  const float* weight;  // [width][channels]
  const float* bias;    // [channels], or null
  bool silu;
  int64_t channels;
  float* y;
};

// Rows of one head over some columns of its state. All strides are in floats. The first `known` rows are repeated: what
// they add is given. The others are new.
struct RecurrenceUnit {
  float* base;  // [key_size][base_stride]: the state before all rows; `columns` columns of it are worked on
  int64_t base_stride, key_size;
  int columns;
  // After so many rows the state is written to the base: at most `known`, or all rows.
  int64_t folded;
  float* state;  // [key_size][kStateColumns] for what lies between two rows
  int64_t known, fresh;
  const float *known_keys, *known_decays, *known_added;  // of the first repeated row
  int64_t known_stride;
  const float *keys, *queries, *decays, *rates;  // of the new rows, one after another; no rates without the delta rule
  const float* values;                           // of the first new row
  int64_t value_stride;
  float *added, *y;  // of the first new row
  int64_t added_stride, y_stride;
  // Memory that is read next: 256 bytes of it are prefetched for every key.
  const float* ahead;
};

}  // namespace pocketspec
