#include "comparison.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace pocketspec::testing {
namespace {

uint32_t bits_of(float value) {
  if (value != value) return 0x7fc00000u;
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
uint32_t bits_of(int32_t value) { return static_cast<uint32_t>(value); }
uint32_t bits_of(int8_t value) { return static_cast<uint8_t>(value); }

}  // namespace

Comparison::Comparison() {
  subjects_.push_back({choose_isa("portable"), false});
  for (const char* name : {"avx2", "avxvnni", "avx512vnni", "neon_dot", "neon_i8mm"}) {
    if (const Isa* isa = choose_isa(name)) subjects_.push_back({isa, false});
  }
#if defined(__x86_64__) && !defined(POCKETSPEC_NATIVE_ALONE)
  if (choose_isa("avx2")) {
    subjects_.push_back({&kEmulatedAvxVnni, true});
    subjects_.push_back({&kEmulatedAvx512Vnni, true});
  }
#endif
}

template <class Value>
void Comparison::judge_values(Subject& subject, const char* function, const std::string& what,
                              const std::vector<Value>& expected, const std::vector<Value>& output) {
  for (size_t i = 0; i < output.size(); ++i) {
    subject.checksum = (subject.checksum ^ bits_of(output[i])) * 1099511628211u;
    if (bits_of(output[i]) == bits_of(expected[i])) continue;
    if (++differences_ <= 20) {
      std::printf("%s %s differs: %s, place %zu, %.9g instead of %.9g\n", subject.isa->name, function, what.c_str(), i,
                  static_cast<double>(output[i]), static_cast<double>(expected[i]));
    }
    return;
  }
}

void Comparison::judge(Subject& subject, const char* function, const std::string& what, const Output& expected,
                       const Output& output) {
  judge_values(subject, function, what, expected.floats, output.floats);
  judge_values(subject, function, what, expected.bytes, output.bytes);
  judge_values(subject, function, what, expected.integers, output.integers);
}

void Comparison::report() const {
  for (const Subject& subject : subjects_) {
    std::printf("%s %s %016llx\n", subject.isa->name, subject.emulated ? "emulated" : "native",
                static_cast<unsigned long long>(subject.checksum));
  }
}

std::string text(const char* format, ...) {
  char buffer[256];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return buffer;
}

}  // namespace pocketspec::testing
