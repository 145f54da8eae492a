// isa_avx512vnni.cpp unchanged, with every 512-bit instruction replaced by AVX2 or C++. Not tested this way: the
// assembly in add_products, and what compilers make of the real intrinsics.
#if defined(__x86_64__)

#include "target_avx2.h"

#include "emulated_avx512.h"

#undef __AVX512VNNI__
#define kAvx512Vnni kEmulatedAvx512Vnni
#include "../isa_avx512vnni.cpp"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
