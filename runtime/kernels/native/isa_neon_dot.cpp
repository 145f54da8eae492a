// NEON with dotprod: sdot multiplies four codes of four columns by the activations of one row.
#include "isa.h"
#include "quarters_neon.h"
#include "attention_rows.h"
#include "state_rows.h"

namespace pocketspec {
namespace {

template <int kBits, bool kPlanes, int kRows>
inline void sum_block(const uint8_t* codes, const uint8_t* low, const int8_t* values, int rows, int block, int32x4_t (&total)[kRows][4]) {
#pragma GCC unroll 4
  for (auto& row : total) {
    for (int32x4_t& quarter : row) quarter = vdupq_n_s32(0);
  }
  for (int k = 0; k < block; k += 8) {
    const Eight eight = load_eight<kBits, kPlanes>(codes, low);
    if constexpr (kRows >= 2) add_two(eight, values, total[0], total[1]);
    if constexpr (kRows >= 4) add_two(eight, values + 16, total[2], total[3]);
    if constexpr (kRows % 2 == 1) add_one(eight, values + (kRows - 1) * 8, total[kRows - 1]);
    codes += (kPlanes ? 4 : kBits) * kColumns;
    if constexpr (kPlanes) low += 4 * kColumns;
    values += rows * 8;
  }
}

}  // namespace

const Isa kNeonDot = {"neon_dot", inverse_rms, quantize, multiply, finish, unpack, prepare_head, store_row, attend, convolve, scale_head, exponentials, recur, gate_norm, dot};

}  // namespace pocketspec
