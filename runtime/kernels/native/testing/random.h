// Random numbers for the tests: the same on every machine, with values that break kernels among them.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

namespace pocketspec::testing {

// SplitMix64.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t bits() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int below(int bound) { return static_cast<int>(bits() % static_cast<uint64_t>(bound)); }
  // Between -1 and 1, in steps of 2^-23.
  float unit() { return static_cast<float>(static_cast<int32_t>(bits() >> 40) - (1 << 23)) * 0x1p-23f; }

 private:
  uint64_t state_;
};

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// The floats in a buffer: of ordinary size; halves (ties when rounded); near the smallest normal number; near the
// largest; any bits; or ordinary ones with an infinity or a NaN among them.
enum class Kind { kOrdinary, kTies, kTiny, kHuge, kAny, kSpoiled };
constexpr Kind kKinds[] = {Kind::kOrdinary, Kind::kTies, Kind::kTiny, Kind::kHuge, Kind::kAny, Kind::kSpoiled};
constexpr const char* kKindNames[] = {"ordinary", "ties", "tiny", "huge", "any", "spoiled"};

inline float number(Random& random, Kind kind) {
  constexpr float kSpecial[] = {0.0f, -0.0f, 1e-30f, 1e-45f, -1e-38f, 1.0f};
  const float unit = random.unit();
  switch (kind) {
    case Kind::kTies: return static_cast<float>(random.below(509) - 254) * 0.5f;
    case Kind::kTiny: return unit * (random.below(2) ? 1e-38f : 3e-30f);
    case Kind::kHuge: return unit * 3.4e38f;
    case Kind::kAny: return float_of(static_cast<uint32_t>(random.bits()));
    default: return random.below(16) ? unit * 8.0f : kSpecial[random.below(6)];
  }
}

inline std::vector<float> numbers(Random& random, Kind kind, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = number(random, kind);
  if (kind == Kind::kSpoiled && count > 0) {
    constexpr uint32_t kSpoilers[] = {0x7f800000u, 0xff800000u, 0x7fc00000u, 0xffc00001u, 0x7f800001u};
    values[static_cast<size_t>(random.below(static_cast<int>(count)))] = float_of(kSpoilers[random.below(5)]);
  }
  // For ties, the largest magnitude of a block is 127, so that the factor is 1.
  if (kind == Kind::kTies && count > 0) values[0] = 127.0f;
  return values;
}

}  // namespace pocketspec::testing
