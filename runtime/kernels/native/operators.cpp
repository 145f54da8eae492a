#include "operators.h"

#include <cstdio>

namespace pocketspec {
namespace {

Status check_shape(const char* label, const char* what, const ort::Tensor& tensor, const int64_t (&wanted)[3]) {
  if (tensor.rank == 3 && tensor.dims[0] == wanted[0] && tensor.dims[1] == wanted[1] && tensor.dims[2] == wanted[2]) {
    return nullptr;
  }
  return ort::error(kInvalidArgument, "%s: %s has %lld elements in %d axes, expected shape [%lld, %lld, %lld]; pack again",
                    label, what, static_cast<long long>(tensor.count()), tensor.rank,
                    static_cast<long long>(wanted[0]), static_cast<long long>(wanted[1]),
                    static_cast<long long>(wanted[2]));
}

}  // namespace

Label label_of(const OrtKernelInfo* info, const char* op) {
  char node[120];
  ort::node_name(info, node, sizeof node);
  Label label;
  std::snprintf(label.text, sizeof label.text, "%s %s", op, node);
  return label;
}

Status MatrixSpec::read(const OrtKernelInfo* info, const char* label) {
  POCKETSPEC_RETURN_IF_ERROR(ort::attribute(info, "K", &k));
  POCKETSPEC_RETURN_IF_ERROR(ort::attribute(info, "N", &n));
  POCKETSPEC_RETURN_IF_ERROR(ort::attribute(info, "bits", &bits));
  POCKETSPEC_RETURN_IF_ERROR(ort::attribute(info, "block_size", &block));
  if (k < 1 || n < 1 || k > (int64_t{1} << 31) || n > (int64_t{1} << 31)) {
    return ort::error(kInvalidArgument, "%s: K %lld and N %lld must be at least 1 and below 2^31", label,
                      static_cast<long long>(k), static_cast<long long>(n));
  }
  if ((bits != 4 && bits != 8) || (block != 32 && block != 64 && block != 128)) {
    return ort::error(kInvalidArgument, "%s: bits %lld, block_size %lld; allowed: 4 or 8 bits, blocks of 32, 64, 128",
                      label, static_cast<long long>(bits), static_cast<long long>(block));
  }
  ort::optional_attribute(info, "planes", &planes);
  if (planes != 1 && !(planes == 2 && bits == 8)) {
    return ort::error(kInvalidArgument, "%s: planes %lld of %lld bits; allowed: 1, or 2 of 8 bits", label,
                      static_cast<long long>(planes), static_cast<long long>(bits));
  }
  return nullptr;
}

Status MatrixSpec::check(const char* label, const ort::Tensor& codes, const ort::Tensor& scales,
                         const ort::Tensor& zeros, PackedMatrix* matrix) const {
  const int64_t blocks = (k + block - 1) / block;
  const int64_t panels = this->panels() * count;
  if (codes.type != kUint8) return ort::error(kInvalidArgument, "%s: codes must be uint8", label);
  POCKETSPEC_RETURN_IF_ERROR(check_shape(label, "codes", codes, {planes * panels, blocks, 2 * block * bits / planes}));
  if (scales.type != kFloat && scales.type != kHalf) {
    return ort::error(kInvalidArgument, "%s: scales must be float32 or float16", label);
  }
  POCKETSPEC_RETURN_IF_ERROR(check_shape(label, "scales", scales, {panels, blocks, kColumns}));
  if (zeros.is_present()) {
    if (planes == 2) return ort::error(kInvalidArgument, "%s: zero_points of codes in two planes; allowed: none", label);
    if (zeros.type != kUint8) return ort::error(kInvalidArgument, "%s: zero_points must be uint8", label);
    POCKETSPEC_RETURN_IF_ERROR(check_shape(label, "zero_points", zeros, {panels, blocks, 2 * bits}));
  }
  matrix->first = {static_cast<const uint8_t*>(codes.data), scales.data, static_cast<const uint8_t*>(zeros.data),
                   static_cast<int>(bits), static_cast<int>(block), static_cast<int>(blocks), scales.type == kHalf,
                   nullptr};
  if (planes == 2) matrix->first.low = matrix->first.codes + panels * blocks * 8 * block;
  matrix->k = k;
  matrix->panels = panels;
  return nullptr;
}

}  // namespace pocketspec
