// Tests of CachedAttention: prepare_head, store_row, attend.
#include <algorithm>
#include <cstring>

#include "../attention_inputs.h"
#include "comparison.h"
#include "random.h"

namespace pocketspec::testing {
namespace {

const char* name_of(Kind kind) { return kKindNames[static_cast<int>(kind)]; }
int stored_index(Stored type) { return static_cast<int>(type); }

void check_head(Comparison& comparison, Random& random, int size, Kind kind) {
  const int rotary = 2 * (1 + random.below(size / 2));
  const bool normed = random.below(2), turned = random.below(4) != 0, interleaved = random.below(2);
  const std::vector<float> x = numbers(random, kind, size), gain = numbers(random, Kind::kOrdinary, size);
  const std::vector<float> cos = numbers(random, Kind::kOrdinary, rotary / 2);
  const std::vector<float> sin = numbers(random, kind, rotary / 2);
  Head head = {x.data(), size, normed ? gain.data() : nullptr, 1e-6f, nullptr, nullptr, 0, interleaved, 0.125f, false};
  if (turned) {
    head.cos = cos.data();
    head.sin = sin.data();
    head.rotary_size = rotary;
  }
  if (random.below(2)) head.scale = 1.0f;
  head.mixed = random.below(2);
  comparison.compare("prepare_head",
                     text("size=%d %s norm=%d rotary=%d interleaved=%d mixed=%d", size, name_of(kind), normed,
                          turned ? rotary : 0, interleaved, head.mixed),
                     Output(static_cast<size_t>(size) + 1, 0, 0),
                     [&](const Isa& isa, Output& out) { isa.prepare_head(head, out.floats.data()); });
}

// A cache of two heads and three rows, one of which is written. All NaN count as equal, halves included.
void check_store(Comparison& comparison, Random& random, int size, Kind kind, Stored type) {
  const std::vector<float> x = numbers(random, kind, size);
  KvRows rows = {nullptr, type, size, 3};
  const size_t bytes = static_cast<size_t>(6 * rows.row_bytes());
  comparison.compare("store_row", text("size=%d %s type=%d", size, name_of(kind), stored_index(type)),
                     Output(0, bytes, bytes / 2), [&](const Isa& isa, Output& out) {
                       KvRows own = rows;
                       own.data = reinterpret_cast<uint8_t*>(out.bytes.data());
                       isa.store_row(x.data(), own, 1, 1);
                       if (type == Stored::kInt8 || type == Stored::kInt4) return;
                       const size_t width = type == Stored::kHalf ? 2 : 4;
                       for (size_t i = 0; i < bytes / width; ++i) {
                         uint32_t bits = 0;
                         std::memcpy(&bits, own.data + i * width, width);
                         const uint32_t infinity = width == 2 ? 0x7c00u : 0x7f800000u;
                         if ((bits & (width == 2 ? 0x7fffu : 0x7fffffffu)) > infinity) bits = ~0u;
                         out.integers[i] = static_cast<int32_t>(bits);
                       }
                       std::fill(out.bytes.begin(), out.bytes.end(), int8_t{0});
                     });
}

// The sizes of a step, and what its rows see.
struct Shape {
  int rows, past, size, group, kv_heads, window;
  float softcap;
  bool biased;
  Stored type;
};

std::vector<uint8_t> random_cache(Random& random, const KvRows& rows, int heads, Kind kind) {
  std::vector<uint8_t> bytes(static_cast<size_t>(heads * rows.capacity * rows.row_bytes()));
  for (int64_t row = 0; row < heads * rows.capacity; ++row) {
    uint8_t* to = bytes.data() + row * rows.row_bytes();
    if (rows.type == Stored::kFloat) {
      const std::vector<float> values = numbers(random, kind, rows.head_size);
      std::memcpy(to, values.data(), values.size() * 4);
    }
    // Halves of magnitude 1/2 and less, or any bits.
    const int mask = rows.type == Stored::kHalf && kind != Kind::kAny ? 0xb7ff : 0xffff;
    for (int64_t i = 0; rows.type != Stored::kFloat && i + 2 <= rows.row_bytes(); i += 2) {
      const uint16_t two = static_cast<uint16_t>(random.below(0x10000) & mask);
      std::memcpy(to + i, &two, 2);
    }
    const float scale = number(random, kind);
    if (rows.type == Stored::kInt8) std::memcpy(to + rows.head_size, &scale, 4);
    // The upper half of a float is a bfloat16.
    const uint8_t* upper = reinterpret_cast<const uint8_t*>(&scale) + 2;
    for (int i = 0; i < 4 && rows.type == Stored::kInt4; ++i) to[rows.head_size / 2 + i] = upper[i % 2];
  }
  return bytes;
}

// Mostly zeros, and anything that a mask may contain.
std::vector<float> random_bias(Random& random, int64_t count) {
  constexpr float kSome[] = {0.0f, 0.0f, 0.0f, 0.0f, 1.5f, -1e30f, -3.402823466e38f};
  std::vector<float> bias(static_cast<size_t>(count));
  for (float& value : bias) value = kSome[random.below(7)];
  return bias;
}

// One call, with everything that it points to.
class RandomCall {
 public:
  RandomCall(Random& random, const Shape& shape, Kind kind) {
    call_ = {};
    call_.rows = shape.rows;
    call_.past = shape.past;
    call_.head_size = shape.size;
    call_.heads = shape.group * shape.kv_heads;
    call_.kv_heads = shape.kv_heads;
    call_.softcap = shape.softcap;
    call_.window = shape.window;
    const KvRows rows = {nullptr, shape.type, shape.size, call_.total() + random.below(3)};
    keys_ = random_cache(random, rows, shape.kv_heads, kind);
    values_ = random_cache(random, rows, shape.kv_heads, kind);
    call_.keys = call_.values = rows;
    call_.keys.data = keys_.data();
    call_.values.data = values_.data();
    queries_ = numbers(random, kind, call_.rows * call_.heads * call_.head_size);
    call_.queries = queries_.data();
    for (int64_t row = 0; row < call_.rows; ++row) positions_.push_back(call_.past + random.below(shape.rows));
    call_.positions = positions_.data();
    bias_ = random_bias(random, shape.biased ? call_.rows * call_.total() : 0);
    if (shape.biased) {
      call_.bias = bias_.data();
      call_.bias_row = call_.total();
      call_.bias_key = 1;
    }
    sinks_ = numbers(random, kind, call_.heads);
    if (random.below(2)) call_.sinks = sinks_.data();
    for (int64_t row = 0; row < call_.rows; ++row) sights_.push_back(call_.look(row));
    call_.sights = sights_.data();
  }

  // All queries, `together` at a time; memory is filled with other content before.
  void attend(const Isa& isa, int64_t together, std::vector<float>& y) const {
    Attention call = call_;
    call.y = y.data();
    const int64_t queries = call.rows * call.group();
    for (int64_t head = 0; head < call.kv_heads; ++head) {
      for (int64_t first = 0; first < queries; first += together) {
        const int64_t last = first + together < queries ? first + together : queries;
        std::vector<float> memory(static_cast<size_t>(AttentionLayout(call, last - first).size), float_of(0x7fc00000u));
        isa.attend(call, {head, first, last, memory.data()});
      }
    }
  }

 private:
  AttentionCall call_;
  std::vector<uint8_t> keys_, values_;
  std::vector<float> queries_, bias_, sinks_;
  std::vector<int64_t> positions_;
  std::vector<Sight> sights_;
};

void check_attend(Comparison& comparison, Random& random, const Shape& shape, Kind kind) {
  const RandomCall call(random, shape, kind);
  const int queries = shape.rows * shape.group, together = 1 + random.below(queries);
  comparison.compare(
      "attend",
      text("rows=%d past=%d size=%d group=%d heads=%d window=%d softcap=%g bias=%d type=%d %s, %d queries together",
           shape.rows, shape.past, shape.size, shape.group, shape.kv_heads, shape.window,
           static_cast<double>(shape.softcap), shape.biased, stored_index(shape.type), name_of(kind), together),
      Output(static_cast<size_t>(queries * shape.kv_heads * shape.size), 0, 0),
      [&](const Isa& isa, Output& out) { call.attend(isa, together, out.floats); });
}

}  // namespace

void check_attention(Comparison& comparison) {
  Random random(3);
  constexpr Stored kTypes[] = {Stored::kFloat, Stored::kHalf, Stored::kInt8, Stored::kInt4};
  for (const Kind kind : kKinds) {
    for (const int size : {2, 8, 16, 18, 30, 32, 64, 80, 128}) {
      for (int i = 0; i < 8; ++i) check_head(comparison, random, size, kind);
      for (const Stored type : kTypes) check_store(comparison, random, size, kind, type);
    }
  }
  for (int i = 0; i < 400; ++i) {
    constexpr int kSizes[] = {8, 16, 24, 64, 72};
    const Shape shape = {1 + random.below(9),      random.below(3) ? random.below(90) : 0,
                         kSizes[random.below(5)],  1 + random.below(4),
                         1 + random.below(2),      random.below(3) ? 0 : 1 + random.below(40),
                         random.below(2) ? 0.0f : 30.0f, random.below(2) != 0,
                         kTypes[i % 4]};
    check_attend(comparison, random, shape, random.below(2) ? Kind::kOrdinary : kKinds[random.below(6)]);
  }
}

}  // namespace pocketspec::testing
