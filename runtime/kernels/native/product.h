// The matrix product behind scores and sums of values: up to six rows by 16, 32 or 64 columns, with all sums in
// registers and one fma after another along the common axis. Include a lanes_*.h first.
#pragma once

#include <cstdint>

namespace pocketspec {
namespace {

constexpr int kRowsAtOnce = 6;
#if defined(__AVX512F__)
constexpr int kSumsAtOnce = 12;
#else
constexpr int kSumsAtOnce = 6;
#endif
// How many sixteens of columns to take at once: enough independent sums to hide the latency of an fma.
constexpr int sixteens_for(int rows) { return rows * 4 <= kSumsAtOnce ? 4 : rows * 2 <= kSumsAtOnce ? 2 : 1; }

// sums[row][column] += a[row][k] * b[k][column] for k = 0, 1, ..; columns come in sixteens.
struct Product {
  const float* a;
  int64_t a_stride;
  const float* b;
  int64_t b_stride, b_sixteen;  // strides: from k to k, and from sixteen columns to the next
  float* sums;
  int64_t sum_stride;
  int64_t count;
  bool fresh;  // sums start at 0
  // Memory that is read next and is prefetched meanwhile, since reading it afterwards would add to the time. Prefetched
  // are sixteens * count * step bytes, while the first rows are computed.
  const uint8_t* ahead;
  int64_t ahead_step;
};

template <int kRows, int kSixteens>
inline void add_sums(const Product& job, int64_t row, int64_t sixteen) {
  const float* a = job.a + row * job.a_stride;
  const float* b = job.b + sixteen * job.b_sixteen;
  float* sums = job.sums + row * job.sum_stride + sixteen * 16;
  Lanes total[kRows][kSixteens];
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int c = 0; c < kSixteens; ++c) {
      total[i][c] = job.fresh ? Lanes::set(0) : Lanes::load(sums + i * job.sum_stride + c * 16);
    }
  }
  const uintptr_t ahead = reinterpret_cast<uintptr_t>(job.ahead);
  const uintptr_t step = row == 0 ? static_cast<uintptr_t>(job.ahead_step) : 0;
  uintptr_t next = ahead + static_cast<uintptr_t>(sixteen * job.count) * step;
  for (int64_t k = 0; k < job.count; ++k) {
#pragma GCC unroll 4
    for (int c = 0; c < kSixteens; ++c) {
      __builtin_prefetch(reinterpret_cast<const void*>(next));
      next += step;
      const Lanes right = Lanes::load(b + c * job.b_sixteen);
#pragma GCC unroll 6
      for (int i = 0; i < kRows; ++i) {
        total[i][c] = fma(Lanes::set(a[i * job.a_stride + k]), right, total[i][c]);
      }
    }
    b += job.b_stride;
  }
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int c = 0; c < kSixteens; ++c) total[i][c].store(sums + i * job.sum_stride + c * 16);
  }
}

template <int kRows>
void add_rows(const Product& job, int64_t row, int64_t sixteens) {
  constexpr int kTogether = sixteens_for(kRows);
  int64_t at = 0;
  for (; at + kTogether <= sixteens; at += kTogether) add_sums<kRows, kTogether>(job, row, at);
  // A head of 32 or 96 leaves two sixteens. Taken one by one, they would have too few sums to hide latency.
  if constexpr (kTogether > 2) {
    for (; at + 2 <= sixteens; at += 2) add_sums<kRows, 2>(job, row, at);
  }
  if constexpr (kTogether > 1) {
    for (; at < sixteens; ++at) add_sums<kRows, 1>(job, row, at);
  }
}

// Rows are divided evenly: 4 and 3 rows keep more sums going than 6 and 1.
inline int64_t row_parts(int64_t rows) { return (rows + kRowsAtOnce - 1) / kRowsAtOnce; }

void add_product(const Product& job, int64_t rows, int64_t sixteens) {
  const int64_t parts = row_parts(rows);
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = rows * part / parts;
    switch (rows * (part + 1) / parts - first) {
      case 6: add_rows<6>(job, first, sixteens); break;
      case 5: add_rows<5>(job, first, sixteens); break;
      case 4: add_rows<4>(job, first, sixteens); break;
      case 3: add_rows<3>(job, first, sixteens); break;
      case 2: add_rows<2>(job, first, sixteens); break;
      default: add_rows<1>(job, first, sixteens); break;
    }
  }
}

}  // namespace
}  // namespace pocketspec
