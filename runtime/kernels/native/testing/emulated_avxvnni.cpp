// isa_avxvnni.cpp unchanged, with its only instruction beyond AVX2 replaced by C++.
#if defined(__x86_64__)

#include "target_avx2.h"

namespace pocketspec {
namespace {

// Per lane: sum + four unsigned bytes of a times four signed bytes of b.
__attribute__((noinline)) __m256i emulated_dpbusd(__m256i sum, __m256i a, __m256i b) {
  uint8_t unsigned_bytes[32];
  int8_t signed_bytes[32];
  uint32_t lanes[8];
  std::memcpy(unsigned_bytes, &a, 32);
  std::memcpy(signed_bytes, &b, 32);
  std::memcpy(lanes, &sum, 32);
  for (int i = 0; i < 32; ++i) lanes[i / 4] += static_cast<uint32_t>(unsigned_bytes[i] * signed_bytes[i]);
  std::memcpy(&sum, lanes, 32);
  return sum;
}

}  // namespace
}  // namespace pocketspec

#define _mm256_dpbusd_avx_epi32 emulated_dpbusd
#define kAvxVnni kEmulatedAvxVnni
#include "../isa_avxvnni.cpp"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
