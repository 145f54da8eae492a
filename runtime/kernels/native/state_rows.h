// ShortConvolution and LinearRecurrence over Lanes (ARITHMETIC.md). Include a lanes_*.h and rows.h first.
#pragma once

#include "states.h"

namespace pocketspec {
namespace {

void convolve(const ConvolutionRow& row, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; i += 16) {
    Lanes y = load_until(row.taps[0], i, last) * load_until(row.weight, i, last);
    for (int tap = 1; tap < row.width; ++tap) {
      y = fma(load_until(row.taps[tap], i, last), load_until(row.weight + tap * row.channels, i, last), y);
    }
    if (row.bias) y = y + load_until(row.bias, i, last);
    if (row.silu) y = activated(y, Activation::kSilu);
    store_part(y, row.y + i, static_cast<int>(last - i < 16 ? last - i : 16));
  }
}

// x * factor, of length one before if there is an epsilon.
void scale_head(const float* x, int64_t size, float epsilon, float factor, float* y) {
  const float inverse = epsilon > 0 ? 1.0f / std::sqrt(sum_of_squares(x, size) + epsilon) : 1.0f;
  for (int64_t i = 0; i < size; i += 16) {
    const int count = static_cast<int>(size - i < 16 ? size - i : 16);
    store_part((load_until(x, i, size) * Lanes::set(inverse)) * Lanes::set(factor), y + i, count);
  }
}

void exponentials(const float* x, int64_t count, float* y) {
  for (int64_t i = 0; i < count; i += 16) {
    store_part(exponential(load_until(x, i, count)), y + i, static_cast<int>(count - i < 16 ? count - i : 16));
  }
}

// Step 3 for the rows that are repeated, all of them at once for every number of the state.
template <int kWide>
void repeat_rows(const RecurrenceUnit& unit, int column) {
  if (unit.known == 0) return;
  float* at = unit.state + column;
  for (int64_t i = 0; i < unit.key_size; ++i, at += unit.state_stride) {
    Lanes state[kWide];
#pragma GCC unroll 4
    for (int wide = 0; wide < kWide; ++wide) state[wide] = Lanes::load(at + wide * 16);
    for (int64_t row = 0; row < unit.known; ++row) {
      const Lanes k = Lanes::set(unit.keys[row * unit.key_stride + i]);
      const Lanes decay = Lanes::set(unit.decays[row * unit.decay_stride]);
      const float* change = unit.added + row * unit.added_stride + column;
#pragma GCC unroll 4
      for (int wide = 0; wide < kWide; ++wide) {
        state[wide] = fma(k, Lanes::load(change + wide * 16), state[wide] * decay);
      }
    }
#pragma GCC unroll 4
    for (int wide = 0; wide < kWide; ++wide) state[wide].store(at + wide * 16);
  }
}

// Step 3 for kWide times 16 columns, all of which exist.
template <int kWide>
void recur_columns(const RecurrenceUnit& unit, int column) {
  repeat_rows<kWide>(unit, column);
  for (int64_t row = unit.known; row < unit.rows; ++row) {
    const float* key = unit.keys + row * unit.key_stride;
    const Lanes decay = Lanes::set(unit.decays[row * unit.decay_stride]);
    const float* value = unit.values + row * unit.value_stride + column;
    Lanes change[kWide], read[kWide];
#pragma GCC unroll 4
    for (int wide = 0; wide < kWide; ++wide) {
      change[wide] = Lanes::load(value + wide * 16);
      read[wide] = Lanes::set(0);
    }
    if (unit.rates) {
      Lanes memory[kWide];
#pragma GCC unroll 4
      for (int wide = 0; wide < kWide; ++wide) memory[wide] = Lanes::set(0);
      const float* at = unit.state + column;
      for (int64_t i = 0; i < unit.key_size; ++i, at += unit.state_stride) {
        const Lanes k = Lanes::set(key[i]);
#pragma GCC unroll 4
        for (int wide = 0; wide < kWide; ++wide) {
          memory[wide] = fma(k, Lanes::load(at + wide * 16) * decay, memory[wide]);
        }
      }
      const Lanes rate = Lanes::set(unit.rates[row * unit.rate_stride]), minus = Lanes::set(-1.0f);
#pragma GCC unroll 4
      for (int wide = 0; wide < kWide; ++wide) change[wide] = fma(memory[wide], minus, change[wide]) * rate;
    }
    float* added = unit.added + row * unit.added_stride + column;
#pragma GCC unroll 4
    for (int wide = 0; wide < kWide; ++wide) change[wide].store(added + wide * 16);
    const float* query = unit.queries + row * unit.query_stride;
    float* at = unit.state + column;
    for (int64_t i = 0; i < unit.key_size; ++i, at += unit.state_stride) {
      const Lanes k = Lanes::set(key[i]), q = Lanes::set(query[i]);
#pragma GCC unroll 4
      for (int wide = 0; wide < kWide; ++wide) {
        const Lanes state = fma(k, change[wide], Lanes::load(at + wide * 16) * decay);
        state.store(at + wide * 16);
        read[wide] = fma(q, state, read[wide]);
      }
    }
    float* y = unit.y + (row - unit.known) * unit.y_stride + column;
#pragma GCC unroll 4
    for (int wide = 0; wide < kWide; ++wide) read[wide].store(y + wide * 16);
  }
}

// The same for one column at a time: the rest that fills no register.
void recur_column(const RecurrenceUnit& unit, int column) {
  for (int64_t row = 0; row < unit.rows; ++row) {
    const float* key = unit.keys + row * unit.key_stride;
    const float decay = unit.decays[row * unit.decay_stride];
    float* added = unit.added + row * unit.added_stride + column;
    const bool known = row < unit.known;
    if (!known) {
      float change = unit.values[row * unit.value_stride + column];
      if (unit.rates) {
        float memory = 0;
        for (int64_t i = 0; i < unit.key_size; ++i) {
          const float faded = unit.state[i * unit.state_stride + column] * decay;
          memory = std::fma(key[i], faded, memory);
        }
        change = std::fma(memory, -1.0f, change) * unit.rates[row * unit.rate_stride];
      }
      *added = change;
    }
    float read = 0;
    for (int64_t i = 0; i < unit.key_size; ++i) {
      float& state = unit.state[i * unit.state_stride + column];
      const float faded = state * decay;
      state = std::fma(key[i], *added, faded);
      if (!known) read = std::fma(unit.queries[row * unit.query_stride + i], state, read);
    }
    if (!known) unit.y[(row - unit.known) * unit.y_stride + column] = read;
  }
}

void recur(const RecurrenceUnit& unit) {
  int column = 0;
  for (; column + 64 <= unit.columns; column += 64) recur_columns<4>(unit, column);
  for (; column + 32 <= unit.columns; column += 32) recur_columns<2>(unit, column);
  for (; column + 16 <= unit.columns; column += 16) recur_columns<1>(unit, column);
  for (; column < unit.columns; ++column) recur_column(unit, column);
}

}  // namespace
}  // namespace pocketspec
