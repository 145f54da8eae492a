// The functions that depend on the instruction set, in a table; choosing an instruction set is choosing a table.
#pragma once

#include "attention.h"
#include "panel.h"
#include "states.h"

namespace pocketspec {

struct Isa {
  const char* name;
  // 1 / sqrt(mean of squares + epsilon) of x[k] (MatMulPanel, step 1).
  float (*inverse_rms)(const float* x, int64_t k, float epsilon);
  // Step 2 for the blocks first .. last-1 of one row.
  void (*quantize)(const RowSource& source, const RowTarget& target, int first, int last);
  // Step 3 for one panel and one tile: sums [rows][16].
  void (*multiply)(const Panel& panel, const Tile& tile, float* sums);
  // Step 4; gate is null unless the matrix is gated.
  void (*finish)(const float* sums, const float* gate, int rows, const Finish& finish);
  // Weights [k] of one column of a panel, each (code - zero point) * scale * factor.
  void (*unpack)(const Panel& panel, int column, int64_t k, float factor, float* weights);
  // Prepares one head of a query or a key for attention (CachedAttention, step 1).
  void (*prepare_head)(const Head& head, float* y);
  // Stores one head of one row in the cache (step 2).
  void (*store_row)(const float* x, const KvRows& cache, int64_t head, int64_t index);
  // Steps 3 to 5 for some queries of one head of keys and values.
  void (*attend)(const Attention& call, const AttentionUnit& unit);
  // The channels first .. last-1 of one row (ShortConvolution).
  void (*convolve)(const ConvolutionRow& row, int64_t first, int64_t last);
  // x[size] * factor, of length one before if there is an epsilon (LinearRecurrence, step 1).
  void (*scale_head)(const float* x, int64_t size, float epsilon, float factor, float* y);
  // exp(x) of `count` numbers (step 2).
  void (*exponentials)(const float* x, int64_t count, float* y);
  // Step 3 for some columns of one head.
  void (*recur)(const RecurrenceUnit& unit);
  // The norm of y[size], multiplied by the activation of `gate` (step 4), in place.
  void (*gate_norm)(const float* gain, const float* gate, int64_t size, float epsilon, float* y);
  // The sum of a[k] * b[k] (MatMulPanel, step 1; Router, step 1).
  float (*dot)(const float* a, const float* b, int64_t k);
};

// The best instruction set that this CPU can run, or the one called `forced`; null if there is none of that name here.
const Isa* choose_isa(const char* forced);

// What `python -m runtime kernels` shows: a JSON object with the version, the layout and the instruction sets.
const char* describe_kernels();

extern const Isa kPortable;
extern const Isa kAvx2;
extern const Isa kAvxVnni;
extern const Isa kAvx512Vnni;
extern const Isa kNeonDot;
extern const Isa kNeonI8mm;

}  // namespace pocketspec
