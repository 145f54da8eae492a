// Compares every instruction set that runs here with the portable one, bit by bit, and tests the division of work.
//
// Prints a line "name native|emulated checksum" for each set; the checksums of all sets and machines are equal. Where
// outputs differ, a line names the instruction set, the function and the case, and the exit code is 1. With an argument
// no threads are started, for machines without them.
#include <cstdio>

#include "comparison.h"

int main(int num_arguments, char**) {
  using namespace pocketspec::testing;
  Comparison comparison;
  check_rows(comparison);
  check_products(comparison);
  check_attention(comparison);
  comparison.report();
  const bool once = num_arguments > 1 || check_ranges();
  if (comparison.differences() > 0) std::printf("%d differences\n", comparison.differences());
  return comparison.differences() == 0 && once ? 0 : 1;
}
