// Tests of the functions that work on codes: multiply, unpack.
#include "comparison.h"
#include "random.h"

namespace pocketspec::testing {
namespace {

struct Format {
  int bits, block, blocks;
  bool symmetric, half_scales, planes = false;
};

std::string text_of(const Format& format) {
  return text("bits=%d block=%d blocks=%d symmetric=%d half=%d planes=%d", format.bits, format.block,
              format.blocks, format.symmetric, format.half_scales, format.planes);
}

std::vector<uint8_t> random_bytes(Random& random, size_t count, bool extreme) {
  std::vector<uint8_t> bytes(count);
  const uint8_t all = random.below(2) ? 255 : 0;
  for (uint8_t& byte : bytes) byte = extreme ? all : static_cast<uint8_t>(random.bits());
  return bytes;
}

// One panel in memory of exactly its size, so that sanitizers detect reading outside.
class RandomPanel {
 public:
  RandomPanel(Random& random, const Format& format, Kind kind, bool extreme) {
    const size_t blocks = static_cast<size_t>(format.blocks), block = static_cast<size_t>(format.block);
    const size_t bits = static_cast<size_t>(format.bits);
    codes_ = random_bytes(random, blocks * block * bits * 2 / (format.planes ? 2 : 1), extreme);
    low_ = random_bytes(random, format.planes ? codes_.size() : 0, extreme);
    zeros_ = random_bytes(random, format.symmetric ? 0 : blocks * bits * 2, extreme);
    floats_ = numbers(random, kind, format.half_scales ? 0 : format.blocks * kColumns);
    halves_.resize(format.half_scales ? blocks * kColumns : 0);
    // Halves of magnitude 1/2 and less, or any bits.
    const int mask = kind == Kind::kOrdinary ? 0xb7ff : 0xffff;
    for (uint16_t& half : halves_) half = static_cast<uint16_t>(random.below(0x10000) & mask);
    const void* scales = format.half_scales ? static_cast<const void*>(halves_.data()) : floats_.data();
    panel_ = {codes_.data(), scales,       format.symmetric ? nullptr : zeros_.data(),
              format.bits,   format.block, format.blocks,
              format.half_scales, format.planes ? low_.data() : nullptr};
  }

  const Panel& panel() const { return panel_; }

 private:
  std::vector<uint8_t> codes_, low_, zeros_;
  std::vector<float> floats_;
  std::vector<uint16_t> halves_;
  Panel panel_;
};

// Quantized rows in memory of exactly their size.
class RandomTile {
 public:
  RandomTile(Random& random, const Format& format, int rows, Kind kind, bool extreme) {
    const int k = format.block * format.blocks;
    values_.resize(static_cast<size_t>(k * rows));
    sums_.assign(static_cast<size_t>(format.blocks * rows), 0);
    scales_ = numbers(random, kind, format.blocks * rows);
    const int sign = random.below(2) ? 1 : -1;
    for (int i = 0; i < k * rows; ++i) {
      const int code = extreme ? 127 * sign : random.below(255) - 127;
      values_[static_cast<size_t>(i)] = static_cast<int8_t>(code);
      const int line = i / (8 * rows), row = i / 8 % rows;
      sums_[static_cast<size_t>(line * 8 / format.block * rows + row)] += code;
    }
    tile_ = {rows, values_.data(), scales_.data(), sums_.data()};
  }

  const Tile& tile() const { return tile_; }

 private:
  std::vector<int8_t> values_;
  std::vector<float> scales_;
  std::vector<int32_t> sums_;
  Tile tile_;
};

void check_multiply(Comparison& comparison, Random& random, const Format& format) {
  for (int rows = 1; rows <= kTileRows; ++rows) {
    const bool extreme = random.below(4) == 0;
    const Kind kind = random.below(2) ? Kind::kOrdinary : kKinds[random.below(6)];
    const RandomPanel matrix(random, format, kind, extreme);
    const RandomTile activations(random, format, rows, kind, extreme);
    comparison.compare("multiply",
                       text("%s rows=%d %s extreme=%d", text_of(format).c_str(), rows,
                            kKindNames[static_cast<int>(kind)], extreme),
                       Output(static_cast<size_t>(rows) * kColumns, 0, 0), [&](const Isa& isa, Output& out) {
                         isa.multiply(matrix.panel(), activations.tile(), out.floats.data());
                       });
  }
}

void check_unpack(Comparison& comparison, Random& random, const Format& format) {
  for (int column = 0; column < kColumns; ++column) {
    const RandomPanel matrix(random, format, kKinds[random.below(6)], false);
    const int k = format.block * (format.blocks - 1) + 1 + random.below(format.block);
    const float factor = random.below(2) ? 1.0f : random.unit();
    comparison.compare("unpack", text("%s column=%d k=%d", text_of(format).c_str(), column, k),
                       Output(static_cast<size_t>(k), 0, 0), [&](const Isa& isa, Output& out) {
                         isa.unpack(matrix.panel(), column, k, factor, out.floats.data());
                       });
  }
}

}  // namespace

void check_products(Comparison& comparison) {
  Random random(2);
  for (const int bits : {4, 8}) {
    for (const int block : {32, 64, 128}) {
      for (const int blocks : {1, 2, 5}) {
        for (int flags = 0; flags < 4; ++flags) {
          const Format format = {bits, block, blocks, (flags & 1) != 0, (flags & 2) != 0};
          check_multiply(comparison, random, format);
          if (blocks != 5) check_unpack(comparison, random, format);
        }
        if (bits != 8) continue;
        for (const bool half : {false, true}) {
          const Format planes = {bits, block, blocks, true, half, true};
          check_multiply(comparison, random, planes);
          if (blocks != 5) check_unpack(comparison, random, planes);
        }
      }
    }
  }
}

}  // namespace pocketspec::testing
