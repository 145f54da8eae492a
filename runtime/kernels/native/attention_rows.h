// CachedAttention over Lanes (ARITHMETIC.md). Include a lanes_*.h and rows.h first.
//
// Scores and weighted sums of values are computed by the same matrix product. The columns of the product are keys for
// scores, after transposing 16 rows at a time, and dimensions for values.
#pragma once

#include "attention.h"
#include "kv_rows.h"
#include "product.h"

namespace pocketspec {
namespace {

void turn_pairs(const Head& head, float* x) {
  const int64_t half = head.rotary_size / 2;
  float a[kMaxHeadSize / 2], b[kMaxHeadSize / 2];
  const int64_t step = head.interleaved ? 2 : 1, apart = head.interleaved ? 1 : half;
  for (int64_t i = 0; i < half; ++i) {
    a[i] = x[i * step];
    b[i] = x[i * step + apart];
  }
  for (int64_t i = 0; i < half; i += 16) {
    const int count = static_cast<int>(half - i < 16 ? half - i : 16);
    const Lanes cos = load_until(head.cos, i, half), sin = load_until(head.sin, i, half);
    const Lanes first = load_until(a, i, half), second = load_until(b, i, half);
    store_part(fma(second, sin * Lanes::set(-1.0f), first * cos), a + i, count);
    store_part(fma(first, sin, second * cos), b + i, count);
  }
  for (int64_t i = 0; i < half; ++i) {
    x[i * step] = a[i];
    x[i * step + apart] = b[i];
  }
}

void prepare_head(const Head& head, float* y) {
  const Lanes inverse = Lanes::set(head.gain ? inverse_rms(head.x, head.size, head.epsilon) : 1.0f);
  for (int64_t i = 0; i < head.size; i += 16) {
    const int count = static_cast<int>(head.size - i < 16 ? head.size - i : 16);
    Lanes x = load_until(head.x, i, head.size);
    if (head.gain) x = (x * inverse) * load_until(head.gain, i, head.size);
    store_part(x, y + i, count);
  }
  if (head.cos) turn_pairs(head, y);
  if (head.scale != 1.0f) {
    for (int64_t i = 0; i < head.size; ++i) y[i] = y[i] * head.scale;
  }
  if (!head.mixed) return;
  mix(y, head.size);
  unscale(y, head.size);
}

// One unit of work: steps 3 to 5.
class UnitRun {
 public:
  UnitRun(const Attention& call, const AttentionUnit& unit)
      : call_(call), unit_(unit), queries_(unit.last - unit.first), layout_(call, queries_), scores_(unit.memory) {
    first_row_ = unit.first / call.group();
    last_row_ = (unit.last - 1) / call.group();
    begin_ = call.total();
    end_ = shared_begin_ = 0;
    shared_end_ = call.total();
    for (int64_t row = first_row_; row <= last_row_; ++row) {
      const Sight& sight = call.sights[row];
      if (sight.first < begin_) begin_ = sight.first;
      if (sight.end > end_) end_ = sight.end;
      if (sight.first > shared_begin_) shared_begin_ = sight.first;
      if (sight.run_end < shared_end_) shared_end_ = sight.run_end;
    }
    if (shared_end_ < shared_begin_) shared_end_ = shared_begin_;
  }

  void run() {
    score_keys();
    float* sums = unit_.memory + layout_.sums;
    std::memset(sums, 0, static_cast<size_t>(queries_ * layout_.value_stride) * sizeof(float));
    for (int64_t query = 0; query < queries_; ++query) inverse(query) = weigh(query);
    for (int64_t row = first_row_; row <= last_row_; ++row) add_run(row, call_.sights[row].first, shared_begin_);
    add_values(0, queries_, shared_begin_ - begin_, shared_begin_, shared_end_);
    for (int64_t row = first_row_; row <= last_row_; ++row) {
      add_run(row, shared_end_, call_.sights[row].run_end);
      add_scattered(row);
    }
    for (int64_t query = 0; query < queries_; ++query) store(query);
  }

 private:
  float* scores(int64_t query) const { return scores_ + query * layout_.score_stride; }
  // Stored after the last score of the row.
  float& inverse(int64_t query) const { return scores(query)[layout_.score_stride - 1]; }
  int64_t row_of(int64_t query) const { return (unit_.first + query) / call_.group(); }
  int64_t head_of(int64_t query) const { return unit_.kv_head * call_.group() + (unit_.first + query) % call_.group(); }

  void score_keys() const;
  void pack_keys(int64_t key, int64_t count, float* panel) const;
  float weigh(int64_t query) const;
  void cap_and_bias(int64_t row, float* scores) const;
  int64_t close_up(int64_t row, float* scores) const;
  void add_values(int64_t first, int64_t last, int64_t weight, int64_t key, int64_t end) const;
  void add_run(int64_t row, int64_t key, int64_t end) const;
  void add_scattered(int64_t row) const;
  void add_row(int64_t row, int64_t weight, int64_t key, int64_t end) const;
  void store(int64_t query) const;

  const Attention& call_;
  const AttentionUnit& unit_;
  const int64_t queries_;
  const AttentionLayout layout_;
  float* const scores_;
  int64_t first_row_, last_row_;
  int64_t begin_, end_;                // keys that any of the rows sees
  int64_t shared_begin_, shared_end_;  // keys that all of the rows see
};

void UnitRun::pack_keys(int64_t key, int64_t count, float* panel) const {
  const int64_t size = call_.head_size;
  if (call_.keys.type == Stored::kFloat && count == kKeyLanes) {
    return turn_rows(reinterpret_cast<const float*>(call_.keys.row(unit_.kv_head, key)), size, size, panel);
  }
  float* rows = unit_.memory + layout_.rows;
  widen_rows(call_.keys, unit_.kv_head, key, count, size, rows);
  std::memset(rows + count * size, 0, static_cast<size_t>((kKeyLanes - count) * size) * sizeof(float));
  turn_rows(rows, size, size, panel);
}

void UnitRun::score_keys() const {
  const int64_t size = call_.head_size;
  const int64_t together = (queries_ + row_parts(queries_) - 1) / row_parts(queries_);
  const int64_t step = sixteens_for(static_cast<int>(together)) * kKeyLanes;
  float* panels = unit_.memory + layout_.panels;
  const float* queries = call_.queries + (unit_.kv_head * call_.rows * call_.group() + unit_.first) * size;
  for (int64_t key = begin_; key < end_; key += step) {
    int64_t used = 0;
    for (int64_t at = key; at < key + step && at < end_; at += kKeyLanes, ++used) {
      pack_keys(at, end_ - at < kKeyLanes ? end_ - at : kKeyLanes, panels + used * kKeyLanes * size);
    }
    const uint8_t* ahead = call_.keys.row(unit_.kv_head, key + step < end_ ? key + step : key);
    const Product job = {queries, size, panels, kKeyLanes, kKeyLanes * size, scores_ + (key - begin_),
                         layout_.score_stride, size, true, ahead, kKeyLanes * call_.keys.row_bytes() / size};
    add_product(job, queries_, used);
  }
}

// Adds the softcap to all scores of a row and the bias to those of its run; `scores` begins at the first key that it
// sees.
void UnitRun::cap_and_bias(int64_t row, float* scores) const {
  const Sight& sight = call_.sights[row];
  if (call_.softcap != 0) {
    const Lanes cap = Lanes::set(call_.softcap), one = Lanes::set(1.0f);
    for (int64_t i = 0; i < sight.end - sight.first; i += 16) {
      const Lanes power = exponential((Lanes::load(scores + i) / cap) * Lanes::set(2.0f));
      (cap * (one + Lanes::set(-2.0f) / (one + power))).store(scores + i);
    }
  }
  if (!sight.biased) return;
  for (int64_t key = sight.first; key < sight.run_end; ++key) scores[key - sight.first] += call_.bias_of(row, key);
}

// Moves the scores of visible keys after the run to the end of the run; returns how many keys the row sees.
int64_t UnitRun::close_up(int64_t row, float* scores) const {
  const Sight& sight = call_.sights[row];
  int64_t count = sight.run_end - sight.first;
  for (int64_t key = sight.run_end; key < sight.end; ++key) {
    if (call_.sees(row, key)) scores[count++] = scores[key - sight.first] + call_.bias_of(row, key);
  }
  return count;
}

// Turns the scores of a query into weights; returns 1 / their sum, or 0 if the query sees no key.
float UnitRun::weigh(int64_t query) const {
  const int64_t row = row_of(query);
  float* at = scores(query) + (call_.sights[row].first - begin_);
  cap_and_bias(row, at);
  const int64_t count = close_up(row, at);
  if (count == 0) return 0;
  const int64_t padded = (count + 15) / 16 * 16;
  for (int64_t i = count; i < padded; ++i) at[i] = at[0];
  Lanes top = Lanes::load(at);
  for (int64_t i = 16; i < padded; i += 16) top = max(top, Lanes::load(at + i));
  float tops[16];
  top.store(tops);
  for (int i = 1; i < 16; ++i) tops[0] = tops[0] > tops[i] ? tops[0] : tops[i];
  const float* sink = call_.sinks ? call_.sinks + head_of(query) : nullptr;
  if (sink && !(tops[0] > *sink)) tops[0] = *sink;
  const Lanes less = Lanes::set(-tops[0]);
  for (int64_t i = 0; i < padded; i += 16) exponential(Lanes::load(at + i) + less).store(at + i);
  for (int64_t i = count; i < padded; ++i) at[i] = 0;
  Lanes total = Lanes::load(at);
  for (int64_t i = 16; i < padded; i += 16) total = total + Lanes::load(at + i);
  if (!sink) return 1.0f / sum(total);
  float share[16];
  exponential(Lanes::set(*sink) + less).store(share);
  return 1.0f / (sum(total) + share[0]);
}

// Adds the values of keys key .. end-1, with weights from `weight` on, to the queries first .. last-1.
void UnitRun::add_values(int64_t first, int64_t last, int64_t weight, int64_t key, int64_t end) const {
  const bool direct = call_.values.type == Stored::kFloat && layout_.value_stride == call_.head_size;
  float* widened = unit_.memory + layout_.rows;
  float* sums = unit_.memory + layout_.sums + first * layout_.value_stride;
  const int64_t ahead_step = call_.values.row_bytes() * 16 / layout_.value_stride;
  for (; key < end; key += kValueRows, weight += kValueRows) {
    const int64_t count = end - key < kValueRows ? end - key : kValueRows;
    // Padding dimensions are left as they are: nothing reads their sums.
    if (!direct) widen_rows(call_.values, unit_.kv_head, key, count, layout_.value_stride, widened);
    const float* rows = direct ? reinterpret_cast<const float*>(call_.values.row(unit_.kv_head, key)) : widened;
    const uint8_t* ahead = call_.values.row(unit_.kv_head, key + count < end ? key + count : key);
    const Product job = {scores(first) + weight, layout_.score_stride, rows, layout_.value_stride, 16, sums,
                         layout_.value_stride, count, false, ahead, ahead_step};
    add_product(job, last - first, layout_.value_stride / 16);
  }
}

// The same for the unit's queries of one row.
void UnitRun::add_row(int64_t row, int64_t weight, int64_t key, int64_t end) const {
  const int64_t first = row * call_.group() - unit_.first, last = first + call_.group();
  add_values(first > 0 ? first : 0, last < queries_ ? last : queries_, weight, key, end);
}

// The same for the part of a row's run in key .. end-1.
void UnitRun::add_run(int64_t row, int64_t key, int64_t end) const {
  const Sight& sight = call_.sights[row];
  if (key < sight.first) key = sight.first;
  if (end > sight.run_end) end = sight.run_end;
  add_row(row, key - begin_, key, end);
}

// The same for the visible keys after a row's run, whose weights have been moved together.
void UnitRun::add_scattered(int64_t row) const {
  const Sight& sight = call_.sights[row];
  int64_t weight = sight.run_end - begin_;
  for (int64_t key = sight.run_end; key < sight.end; ++key) {
    const int64_t first = key;
    while (key < sight.end && call_.sees(row, key)) ++key;
    if (key > first) add_row(row, weight, first, key);
    weight += key - first;
  }
}

void UnitRun::store(int64_t query) const {
  const int64_t size = call_.head_size, head = head_of(query);
  const float* sums = unit_.memory + layout_.sums + query * layout_.value_stride;
  const Lanes factor = Lanes::set(inverse(query));
  float* y = call_.y + (row_of(query) * call_.heads + head) * size;
  for (int64_t d = 0; d < size; d += 16) {
    store_part(Lanes::load(sums + d) * factor, y + d, static_cast<int>(size - d < 16 ? size - d : 16));
  }
  if (call_.values.type != Stored::kInt4) return;
  mix(y, size);
  unscale(y, size);
}

void attend(const Attention& call, const AttentionUnit& unit) { UnitRun(call, unit).run(); }

}  // namespace
}  // namespace pocketspec
