#include "ort_abi.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace pocketspec::ort {
namespace {

// Places in the function table of API version 18 and later.
enum Place {
  kCreateStatus = 0,
  kGetErrorCode = 1,
  kGetErrorMessage = 2,
  kCreateCustomOpDomain = 26,
  kCustomOpDomainAdd = 27,
  kAddCustomOpDomain = 28,
  kGetTensorMutableData = 51,
  kGetTensorElementType = 60,
  kGetDimensionsCount = 61,
  kGetDimensions = 62,
  kGetTensorTypeAndShape = 65,
  kKernelInfoGetAttributeFloat = 85,
  kKernelInfoGetAttributeInt64 = 86,
  kKernelInfoGetAttributeString = 87,
  kKernelContextGetInputCount = 88,
  kKernelContextGetInput = 90,
  kKernelContextGetOutput = 91,
  kReleaseStatus = 93,
  kReleaseTensorTypeAndShapeInfo = 99,
  kGetSessionConfigEntry = 238,
  kKernelInfoGetNodeName = 244,
  kKernelInfoGetConstantInputTensor = 249,
  kKernelContextParallelFor = 274,
};

void* const* table = nullptr;

template <class Result = Status, class... Arguments>
Result call(Place place, Arguments... arguments) {
  return reinterpret_cast<Result (*)(Arguments...)>(table[place])(arguments...);
}

}  // namespace

bool bind(const OrtApiBase* base) {
  table = static_cast<void* const*>(base->get_api(kApiVersion));
  return table != nullptr;
}

bool self_test() {
  static const char* const kText = "pocketspec";
  const Status status = call(kCreateStatus, int{kInvalidArgument}, kText);
  if (!status) return false;
  const bool same = call<int>(kGetErrorCode, static_cast<const OrtStatus*>(status)) == kInvalidArgument &&
                    std::strcmp(message(status), kText) == 0;
  release(status);
  return same;
}

Status error(ErrorCode code, const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return call(kCreateStatus, int{code}, static_cast<const char*>(text));
}

const char* message(Status status) {
  return call<const char*>(kGetErrorMessage, static_cast<const OrtStatus*>(status));
}

void release(Status status) {
  if (status) call<void>(kReleaseStatus, status);
}

Status create_domain(const char* name, OrtCustomOpDomain** domain) { return call(kCreateCustomOpDomain, name, domain); }
Status add_op(OrtCustomOpDomain* domain, const CustomOp* op) { return call(kCustomOpDomainAdd, domain, op); }
Status add_domain(OrtSessionOptions* options, OrtCustomOpDomain* domain) {
  return call(kAddCustomOpDomain, options, domain);
}

int64_t config_number(const OrtSessionOptions* options, const char* key, int64_t fallback) {
  char text[32] = {};
  size_t size = sizeof text;
  const Status status = call(kGetSessionConfigEntry, options, key, static_cast<char*>(text), &size);
  release(status);
  return status ? fallback : std::strtoll(text, nullptr, 10);
}

Status attribute(const OrtKernelInfo* info, const char* name, int64_t* value) {
  return call(kKernelInfoGetAttributeInt64, info, name, value);
}
Status attribute(const OrtKernelInfo* info, const char* name, float* value) {
  return call(kKernelInfoGetAttributeFloat, info, name, value);
}
Status attribute(const OrtKernelInfo* info, const char* name, char* text, size_t capacity) {
  return call(kKernelInfoGetAttributeString, info, name, text, &capacity);
}
bool optional_text(const OrtKernelInfo* info, const char* name, char* text, size_t capacity) {
  const Status status = attribute(info, name, text, capacity);
  release(status);
  if (status) text[0] = '\0';
  return status == nullptr;
}
void node_name(const OrtKernelInfo* info, char* text, size_t capacity) {
  const Status status = call(kKernelInfoGetNodeName, info, text, &capacity);
  release(status);
  if (status) text[0] = '\0';
}

Status run_parallel(const OrtKernelContext* context, void (*item)(void*, size_t), size_t items, void* user) {
  return call(kKernelContextParallelFor, context, item, items, size_t{0}, user);
}

size_t input_count(const OrtKernelContext* context) {
  size_t count = 0;
  release(call(kKernelContextGetInputCount, context, &count));
  return count;
}

bool is_constant(const OrtKernelInfo* info, size_t index) {
  int found = 0;
  const OrtValue* value = nullptr;
  const Status status = call(kKernelInfoGetConstantInputTensor, info, index, &found, &value);
  release(status);
  return !status && found != 0;
}

Status input(const OrtKernelContext* context, size_t index, Tensor* tensor) {
  *tensor = Tensor();
  if (index >= input_count(context)) return nullptr;
  const OrtValue* value = nullptr;
  POCKETSPEC_RETURN_IF_ERROR(call(kKernelContextGetInput, context, index, &value));
  if (!value) return nullptr;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  POCKETSPEC_RETURN_IF_ERROR(call(kGetTensorTypeAndShape, value, &info));
  const OrtTensorTypeAndShapeInfo* shape = info;
  size_t rank = 0;
  Status status = call(kGetTensorElementType, shape, &tensor->type);
  if (!status) status = call(kGetDimensionsCount, shape, &rank);
  if (!status && rank > kMaxRank) status = error(kInvalidArgument, "input %zu has %zu axes, allowed: %d", index, rank, kMaxRank);
  if (!status) status = call(kGetDimensions, shape, static_cast<int64_t*>(tensor->dims), rank);
  call<void>(kReleaseTensorTypeAndShapeInfo, info);
  POCKETSPEC_RETURN_IF_ERROR(status);
  tensor->rank = static_cast<int>(rank);
  return call(kGetTensorMutableData, const_cast<OrtValue*>(value), &tensor->data);
}

Status output(OrtKernelContext* context, size_t index, const int64_t* dims, int rank, void** data) {
  OrtValue* value = nullptr;
  POCKETSPEC_RETURN_IF_ERROR(
      call(kKernelContextGetOutput, context, index, dims, static_cast<size_t>(rank), &value));
  return call(kGetTensorMutableData, value, data);
}

}  // namespace pocketspec::ort
