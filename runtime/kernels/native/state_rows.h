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

// The norm of a row, multiplied by the activation of its gate (LinearRecurrence, step 4).
void gate_norm(const float* gain, const float* gate, int64_t size, float epsilon, float* y) {
  const Lanes inverse = Lanes::set(inverse_rms(y, size, epsilon));
  for (int64_t i = 0; i < size; i += 16) {
    const Lanes normed = (load_until(y, i, size) * inverse) * load_until(gain, i, size);
    const Lanes result = normed * activated(load_until(gate, i, size), Activation::kSilu);
    store_part(result, y + i, static_cast<int>(size - i < 16 ? size - i : 16));
  }
}

// How many sixteens of columns are worked on at once: their states and sums should fit the registers.
#if defined(__AVX512F__)
constexpr int kWidest = 4;
#else
constexpr int kWidest = 2;
#endif

template <int kWide>
inline void store_all(const Lanes (&values)[kWide], float* to) {
#pragma GCC unroll 4
  for (int wide = 0; wide < kWide; ++wide) values[wide].store(to + wide * 16);
}

// The state at one key fades for the next row, and is added to what that row finds in the state.
template <int kWide, bool kDelta>
inline void fade(Lanes (&state)[kWide], Lanes decay, float key, Lanes (&found)[kWide]) {
  const Lanes k = Lanes::set(key);
#pragma GCC unroll 4
  for (int wide = 0; wide < kWide; ++wide) {
    state[wide] = state[wide] * decay;
    if constexpr (kDelta) found[wide] = fma(k, state[wide], found[wide]);
  }
}

// Repeats the known rows, all of them at once for every number of the state, and fades it for the first new row.
template <int kWide, bool kDelta>
void begin_columns(const RecurrenceUnit& unit, int column, float* found_after) {
  const int64_t known = unit.known, stride = unit.known_stride, folded = unit.folded;
  const float *keys = unit.known_keys, *decays = unit.known_decays, *added = unit.known_added + column;
  const float* next_key = unit.fresh > 0 ? unit.keys : nullptr;
  const Lanes decay = Lanes::set(next_key ? unit.decays[0] : 0.0f);
  float *from = unit.base + column, *to = unit.state + column;
  const float* ahead = unit.ahead;
  Lanes found[kWide];
#pragma GCC unroll 4
  for (Lanes& sum : found) sum = Lanes::set(0);
  for (int64_t i = 0; i < unit.key_size; ++i, from += unit.base_stride, to += kStateColumns) {
    for (int line = 0; ahead && line < 4; ++line, ahead += 16) __builtin_prefetch(ahead, 0, 2);
    Lanes state[kWide];
#pragma GCC unroll 4
    for (int wide = 0; wide < kWide; ++wide) state[wide] = Lanes::load(from + wide * 16);
    for (int64_t row = 0; row < known; ++row) {
      const Lanes k = Lanes::set(keys[row * stride + i]), fading = Lanes::set(decays[row * stride]);
#pragma GCC unroll 4
      for (int wide = 0; wide < kWide; ++wide) {
        state[wide] = fma(k, Lanes::load(added + row * stride + wide * 16), state[wide] * fading);
      }
      if (row + 1 == folded) store_all(state, from);
    }
    if (!next_key) continue;
    fade<kWide, kDelta>(state, decay, next_key[i], found);
    store_all(state, to);
  }
  store_all(found, found_after);
}

// One new row. The state is read and written once: it fades for the next row as soon as it is made.
template <int kWide, bool kDelta>
void add_row(const RecurrenceUnit& unit, int64_t row, int column, float* found_after) {
  Lanes change[kWide], read[kWide], found[kWide];
  const float* value = unit.values + row * unit.value_stride + column;
#pragma GCC unroll 4
  for (int wide = 0; wide < kWide; ++wide) {
    change[wide] = Lanes::load(value + wide * 16);
    if constexpr (kDelta) {
      const Lanes lacking = fma(Lanes::load(found_after + wide * 16), Lanes::set(-1.0f), change[wide]);
      change[wide] = lacking * Lanes::set(unit.rates[row]);
    }
    read[wide] = found[wide] = Lanes::set(0);
  }
  store_all(change, unit.added + row * unit.added_stride + column);
  const int64_t size = unit.key_size, base_stride = unit.base_stride;
  const bool goes_on = row + 1 < unit.fresh, stays = !goes_on && unit.folded == unit.known + unit.fresh;
  const float *key = unit.keys + row * size, *query = unit.queries + row * size, *next_key = key + size;
  const Lanes decay = Lanes::set(goes_on ? unit.decays[row + 1] : 0.0f);
  float *at = unit.state + column, *base = unit.base + column;
  for (int64_t i = 0; i < size; ++i, at += kStateColumns, base += base_stride) {
    const Lanes k = Lanes::set(key[i]), q = Lanes::set(query[i]);
    Lanes state[kWide];
#pragma GCC unroll 4
    for (int wide = 0; wide < kWide; ++wide) {
      state[wide] = fma(k, change[wide], Lanes::load(at + wide * 16));
      read[wide] = fma(q, state[wide], read[wide]);
    }
    if (goes_on) {
      fade<kWide, kDelta>(state, decay, next_key[i], found);
      store_all(state, at);
    } else if (stays) {
      store_all(state, base);
    }
  }
  store_all(read, unit.y + row * unit.y_stride + column);
  store_all(found, found_after);
}

// Step 3 for kWide times 16 columns.
template <int kWide, bool kDelta>
void recur_rows(const RecurrenceUnit& unit, int column) {
  float found[kWide * 16];
  begin_columns<kWide, kDelta>(unit, column, found);
  for (int64_t row = 0; row < unit.fresh; ++row) add_row<kWide, kDelta>(unit, row, column, found);
}

template <int kWide>
void recur_columns(const RecurrenceUnit& unit, int column) {
  unit.rates ? recur_rows<kWide, true>(unit, column) : recur_rows<kWide, false>(unit, column);
}

// The same for one column at a time: the rest that fills no register.
void recur_column(const RecurrenceUnit& unit, int column) {
  float *base = unit.base + column, *state = unit.state + column;
  const auto keep = [&] {
    for (int64_t i = 0; i < unit.key_size; ++i) base[i * unit.base_stride] = state[i * kStateColumns];
  };
  for (int64_t i = 0; i < unit.key_size; ++i) state[i * kStateColumns] = base[i * unit.base_stride];
  for (int64_t row = 0; row < unit.known; ++row) {
    const int64_t at = row * unit.known_stride;
    for (int64_t i = 0; i < unit.key_size; ++i) {
      float& number = state[i * kStateColumns];
      const float faded = number * unit.known_decays[at];
      number = std::fma(unit.known_keys[at + i], unit.known_added[at + column], faded);
    }
    if (row + 1 == unit.folded) keep();
  }
  for (int64_t row = 0; row < unit.fresh; ++row) {
    const float *key = unit.keys + row * unit.key_size, *query = unit.queries + row * unit.key_size;
    float change = unit.values[row * unit.value_stride + column], memory = 0, read = 0;
    for (int64_t i = 0; i < unit.key_size; ++i) {
      float& number = state[i * kStateColumns];
      number = number * unit.decays[row];
      memory = std::fma(key[i], number, memory);
    }
    if (unit.rates) change = std::fma(memory, -1.0f, change) * unit.rates[row];
    unit.added[row * unit.added_stride + column] = change;
    for (int64_t i = 0; i < unit.key_size; ++i) {
      float& number = state[i * kStateColumns];
      number = std::fma(key[i], change, number);
      read = std::fma(query[i], number, read);
    }
    unit.y[row * unit.y_stride + column] = read;
  }
  if (unit.fresh > 0 && unit.folded == unit.known + unit.fresh) keep();
}

void recur(const RecurrenceUnit& unit) {
  int column = 0;
  for (; column + 16 * kWidest <= unit.columns; column += 16 * kWidest) recur_columns<kWidest>(unit, column);
  for (; column + 32 <= unit.columns; column += 32) recur_columns<2>(unit, column);
  for (; column + 16 <= unit.columns; column += 16) recur_columns<1>(unit, column);
  for (; column < unit.columns; ++column) recur_column(unit, column);
}

}  // namespace
}  // namespace pocketspec
