// Runs a function of every instruction set on the same input and compares the outputs bit by bit.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../isa.h"

namespace pocketspec {

// In emulated_*.cpp; x86 only.
extern const Isa kEmulatedAvx512Vnni;
extern const Isa kEmulatedAvxVnni;

namespace testing {

// The output of a function; it is filled with a pattern before, so that writing outside is detected.
struct Output {
  std::vector<float> floats;
  std::vector<int8_t> bytes;
  std::vector<int32_t> integers;

  Output(size_t num_floats, size_t num_bytes, size_t num_integers)
      : floats(num_floats, -77.0f), bytes(num_bytes, -77), integers(num_integers, -77) {}
};

// An instruction set to test: native, or with the missing instructions emulated in C++.
struct Subject {
  const Isa* isa;
  bool emulated;
  uint64_t checksum = 14695981039346656037u;  // FNV-1a over all outputs; all NaN count as equal
};

class Comparison {
 public:
  // All instruction sets that run here; the first is the portable one, the reference.
  Comparison();

  // run(isa, output) for every instruction set, with the same empty output; `what` names the case in messages.
  template <class Run>
  void compare(const char* function, const std::string& what, const Output& empty, const Run& run) {
    Output expected = empty;
    for (Subject& subject : subjects_) {
      Output output = empty;
      run(*subject.isa, output);
      if (&subject == &subjects_.front()) expected = output;
      judge(subject, function, what, expected, output);
    }
  }

  // Prints a line for every instruction set.
  void report() const;
  int differences() const { return differences_; }

 private:
  void judge(Subject& subject, const char* function, const std::string& what, const Output& expected,
             const Output& output);
  template <class Value>
  void judge_values(Subject& subject, const char* function, const std::string& what, const std::vector<Value>& expected,
                    const std::vector<Value>& output);

  std::vector<Subject> subjects_;
  int differences_ = 0;
};

// The parts of the test.
void check_rows(Comparison& comparison);       // inverse_rms, quantize, finish
void check_products(Comparison& comparison);   // multiply, unpack
void check_attention(Comparison& comparison);  // prepare_head, store_row, attend
// Every item exactly once, with real threads; prints a line and returns false if not.
bool check_ranges();

std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace testing
}  // namespace pocketspec
