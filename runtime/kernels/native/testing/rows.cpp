// Tests of the functions that work on floats: inverse_rms, dot, quantize, finish.
#include <cmath>

#include "comparison.h"
#include "random.h"

namespace pocketspec::testing {
namespace {

const char* name_of(Kind kind) { return kKindNames[static_cast<int>(kind)]; }

void check_inverse_rms(Comparison& comparison, Random& random) {
  for (const int k : {1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 100, 255, 256, 300}) {
    for (const Kind kind : kKinds) {
      for (const float epsilon : {0.0f, 1e-6f}) {
        const std::vector<float> x = numbers(random, kind, k);
        comparison.compare("inverse_rms", text("k=%d %s epsilon=%g", k, name_of(kind), static_cast<double>(epsilon)),
                           Output(1, 0, 0),
                           [&](const Isa& isa, Output& out) { out.floats[0] = isa.inverse_rms(x.data(), k, epsilon); });
      }
    }
  }
}

void check_dot(Comparison& comparison, Random& random) {
  for (const int k : {1, 15, 16, 17, 31, 32, 33, 48, 64, 100, 300}) {
    for (const Kind kind : kKinds) {
      const std::vector<float> a = numbers(random, kind, k), b = numbers(random, Kind::kOrdinary, k);
      comparison.compare("dot", text("k=%d %s", k, name_of(kind)), Output(1, 0, 0),
                         [&](const Isa& isa, Output& out) { out.floats[0] = isa.dot(a.data(), b.data(), k); });
    }
  }
}

// One row among the `rows` of a tile; the places of other rows must not change.
void check_row(Comparison& comparison, Random& random, int k, int block, int rows, Kind kind, bool gained) {
  const int blocks = (k + block - 1) / block, row = random.below(rows);
  const std::vector<float> x = numbers(random, kind, k);
  const std::vector<float> gain = numbers(random, rows % 2 ? Kind::kOrdinary : kind, k);
  const RowSource source = {x.data(), gained ? gain.data() : nullptr, gained ? 1.25f + random.unit() : 0.0f, k, block};
  const int first = random.below(blocks), last = first + 1 + random.below(blocks - first);
  const size_t places = static_cast<size_t>(blocks) * static_cast<size_t>(rows);
  comparison.compare(
      "quantize", text("k=%d block=%d row %d of %d, blocks %d to %d %s gain=%d", k, block, row, rows, first, last,
                       name_of(kind), gained),
      Output(places, places * static_cast<size_t>(block), places), [&](const Isa& isa, Output& out) {
        const RowTarget target = {out.bytes.data() + row * 8, out.floats.data() + row, out.integers.data() + row, rows};
        isa.quantize(source, target, first, last);
      });
}

void check_quantize(Comparison& comparison, Random& random) {
  for (const int k : {1, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200, 256, 300}) {
    for (const int block : {32, 64, 128}) {
      for (const Kind kind : kKinds) {
        for (const int rows : {1, 2, 5, 16}) check_row(comparison, random, k, block, rows, kind, random.below(2));
      }
    }
  }
}

void check_finished(Comparison& comparison, Random& random, int rows, int columns, Kind kind, int parts) {
  const int64_t stride = columns + random.below(20);
  const bool biased = parts & 1, added = parts & 2;
  const Activation activation = static_cast<Activation>(parts >> 2);
  const bool gated = activation != Activation::kNone;
  const std::vector<float> sums = numbers(random, kind, rows * kColumns);
  const std::vector<float> gates = numbers(random, kind, rows * kColumns);
  const std::vector<float> bias = numbers(random, Kind::kOrdinary, columns), gate_bias = numbers(random, kind, columns);
  const int64_t size = stride * (rows - 1) + columns;
  const std::vector<float> residual = numbers(random, kind, size);
  comparison.compare("finish",
                     text("rows=%d columns=%d stride=%d %s bias=%d residual=%d activation=%d", rows, columns,
                          static_cast<int>(stride), name_of(kind), biased, added, parts >> 2),
                     Output(static_cast<size_t>(size), 0, 0), [&](const Isa& isa, Output& out) {
                       const Finish job = {biased ? bias.data() : nullptr,
                                           biased && gated ? gate_bias.data() : nullptr,
                                           added ? residual.data() : nullptr,
                                           out.floats.data(),
                                           stride,
                                           columns,
                                           activation,
                                           1.702f,
                                           2.5f};
                       isa.finish(sums.data(), gated ? gates.data() : nullptr, rows, job);
                     });
}

// Gates over the whole range in which the exponential is not clamped, and those whose quotient by ln 2 is halfway
// between two integers, or next to that.
std::vector<float> exponents() {
  std::vector<float> gates;
  for (int i = -1600; i < 1600; ++i) gates.push_back(static_cast<float>(i) * 0.0625f);
  for (int n = -120; n < 120; ++n) {
    float near = (static_cast<float>(n) + 0.5f) / 1.44269504f;
    for (int i = 0; i < 4; ++i) near = std::nextafter(near, -1000.0f);
    for (int i = 0; i < 8; ++i) gates.push_back(near = std::nextafter(near, 1000.0f));
  }
  return gates;
}

void check_activations(Comparison& comparison) {
  const std::vector<float> gates = exponents(), ones(kColumns, 1.0f);
  for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh, Activation::kClampedSwiglu}) {
    for (size_t first = 0; first + kColumns <= gates.size(); first += kColumns) {
      const float* from = gates.data() + first;
      comparison.compare("finish", text("gates from %.9g, activation %d", static_cast<double>(*from),
                                        static_cast<int>(activation)),
                         Output(kColumns, 0, 0), [&](const Isa& isa, Output& out) {
                           const Finish job = {nullptr,  nullptr,  nullptr,   out.floats.data(),
                                               kColumns, kColumns, activation, 1.702f, 7.0f};
                           isa.finish(ones.data(), from, 1, job);
                         });
    }
  }
}

void check_finish(Comparison& comparison, Random& random) {
  for (int rows = 1; rows <= kTileRows; rows += 5) {
    for (int columns = 1; columns <= kColumns; ++columns) {
      for (const Kind kind : kKinds) {
        for (int parts = 0; parts < 16; ++parts) check_finished(comparison, random, rows, columns, kind, parts);
      }
    }
  }
}

}  // namespace

void check_rows(Comparison& comparison) {
  Random random(1);
  check_inverse_rms(comparison, random);
  check_dot(comparison, random);
  check_quantize(comparison, random);
  check_finish(comparison, random);
  check_activations(comparison);
}

}  // namespace pocketspec::testing
