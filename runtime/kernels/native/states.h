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

// Rows of one head over some columns of its state. All strides are in floats.
struct RecurrenceUnit {
  float* state;  // [key_size][state_stride], of which `columns` columns are worked on
  int64_t state_stride, key_size;
  int columns;
  int64_t rows, known;  // the first `known` rows are repeated: what they add is given
  const float *keys, *queries, *decays, *rates, *values;  // of the first row; rates are null without the delta rule
  int64_t key_stride, query_stride, decay_stride, rate_stride, value_stride;
  float* added;  // [rows][added_stride]
  int64_t added_stride;
  float* y;  // of the first row that is not repeated
  int64_t y_stride;
};

}  // namespace pocketspec
