// The instruction sets in this library, those that this CPU can run, and the choice among them.
#include <cstdio>
#include <cstring>

#include "isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace pocketspec {
namespace {

#if defined(__x86_64__)
bool has_avx2() {
  unsigned a, b, c, d;
  // Not every compiler's __builtin_cpu_supports knows f16c.
  const bool has_f16c = __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
  return has_f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
[[maybe_unused]] bool has_avxvnni() {
  unsigned a, b, c, d;
  return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
[[maybe_unused]] bool has_avx512vnni() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}
#elif defined(__aarch64__) && defined(__linux__)
bool has_neon_dot() { return getauxval(AT_HWCAP) >> 20 & 1; }
bool has_neon_i8mm() { return has_neon_dot() && (getauxval(AT_HWCAP2) >> 13 & 1); }
#elif defined(__aarch64__) && defined(__APPLE__)
bool has_feature(const char* name) {
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value;
}
bool has_neon_dot() { return has_feature("hw.optional.arm.FEAT_DotProd"); }
bool has_neon_i8mm() { return has_neon_dot() && has_feature("hw.optional.arm.FEAT_I8MM"); }
#endif
bool always() { return true; }

struct Candidate {
  const Isa* isa;
  bool (*usable)();
};

// From the fastest to the one that always runs. The build defines which ones could be compiled.
const Candidate kCandidates[] = {
#if defined(POCKETSPEC_HAS_AVX512VNNI)
    {&kAvx512Vnni, has_avx512vnni},
#endif
#if defined(POCKETSPEC_HAS_AVXVNNI)
    {&kAvxVnni, has_avxvnni},
#endif
#if defined(POCKETSPEC_HAS_AVX2)
    {&kAvx2, has_avx2},
#endif
#if defined(POCKETSPEC_HAS_NEON_I8MM)
    {&kNeonI8mm, has_neon_i8mm},
#endif
#if defined(POCKETSPEC_HAS_NEON_DOT)
    {&kNeonDot, has_neon_dot},
#endif
    {&kPortable, always},
};

}  // namespace

const Isa* choose_isa(const char* forced) {
  for (const Candidate& candidate : kCandidates) {
    const bool wanted = !forced || !forced[0] || std::strcmp(candidate.isa->name, forced) == 0;
    if (wanted && candidate.usable()) return candidate.isa;
  }
  return nullptr;
}

const char* describe_kernels() {
  static char text[512];
  char compiled[160] = "", usable[160] = "";
  for (const Candidate& candidate : kCandidates) {
    char item[40];
    std::snprintf(item, sizeof item, "%s\"%s\"", compiled[0] ? ", " : "", candidate.isa->name);
    std::strncat(compiled, item, sizeof compiled - std::strlen(compiled) - 1);
    if (!candidate.usable()) continue;
    std::snprintf(item, sizeof item, "%s\"%s\"", usable[0] ? ", " : "", candidate.isa->name);
    std::strncat(usable, item, sizeof usable - std::strlen(usable) - 1);
  }
  std::snprintf(text, sizeof text, "{\"version\": \"%s\", \"layout\": %d, \"compiled\": [%s], \"usable\": [%s]}",
                POCKETSPEC_VERSION, kLayout, compiled, usable);
  return text;
}

}  // namespace pocketspec
