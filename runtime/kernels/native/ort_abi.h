// The part of ONNX Runtime's C interface that custom operators need, declared here so that none of its headers is
// needed.
//
// The interface is a table of functions to which versions only add, so a function keeps its place (API version 18 is
// the first with all of these). A null status is success.
#pragma once

#include <cstddef>
#include <cstdint>

struct OrtStatus;
struct OrtValue;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtTensorTypeAndShapeInfo;

struct OrtApiBase {
  const void* (*get_api)(uint32_t version);
  const char* (*version_string)();
};

namespace pocketspec {

constexpr uint32_t kApiVersion = 18;
constexpr uint32_t kOpVersion = 16;  // of the custom-op structure: the first version whose kernels return a status

using Status = OrtStatus*;
enum ErrorCode { kFail = 1, kInvalidArgument = 2 };
enum ElementType { kAny = 0, kFloat = 1, kUint8 = 2, kInt8 = 3, kInt64 = 7, kHalf = 10 };
enum Characteristic { kRequired = 0, kOptional = 1 };

// The custom-op structure, in ONNX Runtime's order.
struct CustomOp {
  uint32_t version;
  void* (*create_kernel)(const CustomOp*, const void* api, const OrtKernelInfo*);
  const char* (*name)(const CustomOp*);
  const char* (*execution_provider)(const CustomOp*);
  int (*input_type)(const CustomOp*, size_t);
  size_t (*input_count)(const CustomOp*);
  int (*output_type)(const CustomOp*, size_t);
  size_t (*output_count)(const CustomOp*);
  void (*compute)(void* kernel, OrtKernelContext*);
  void (*destroy_kernel)(void* kernel);
  int (*input_characteristic)(const CustomOp*, size_t);
  int (*output_characteristic)(const CustomOp*, size_t);
  int (*input_memory_type)(const CustomOp*, size_t);
  int (*variadic_input_min)(const CustomOp*);
  int (*variadic_input_same)(const CustomOp*);
  int (*variadic_output_min)(const CustomOp*);
  int (*variadic_output_same)(const CustomOp*);
  Status (*create_kernel_v2)(const CustomOp*, const void* api, const OrtKernelInfo*, void** kernel);
  Status (*compute_v2)(void* kernel, OrtKernelContext*);
  void* later[16];  // members of later versions, all unused
};

namespace ort {

// Binds the function table; false if this ONNX Runtime is too old to have it.
bool bind(const OrtApiBase* base);
// Checks the table by functions that need no session; false if it is not the one declared here.
bool self_test();

Status error(ErrorCode code, const char* format, ...) __attribute__((format(printf, 2, 3)));
const char* message(Status status);
void release(Status status);

Status create_domain(const char* name, OrtCustomOpDomain** domain);
Status add_op(OrtCustomOpDomain* domain, const CustomOp* op);
Status add_domain(OrtSessionOptions* options, OrtCustomOpDomain* domain);
// The session's entry `key` as a number, `fallback` if there is none.
int64_t config_number(const OrtSessionOptions* options, const char* key, int64_t fallback);

Status attribute(const OrtKernelInfo* info, const char* name, int64_t* value);
Status attribute(const OrtKernelInfo* info, const char* name, float* value);
Status attribute(const OrtKernelInfo* info, const char* name, char* text, size_t capacity);
// The same for optional attributes; if absent, `value` does not change and the result is false.
template <class Value>
bool optional_attribute(const OrtKernelInfo* info, const char* name, Value* value) {
  const Status status = attribute(info, name, value);
  release(status);
  return status == nullptr;
}
bool optional_text(const OrtKernelInfo* info, const char* name, char* text, size_t capacity);
void node_name(const OrtKernelInfo* info, char* text, size_t capacity);

Status run_parallel(const OrtKernelContext* context, void (*item)(void*, size_t), size_t items, void* user);

constexpr int kMaxRank = 8;
// A tensor's memory and shape; data is null for an optional input that is absent.
struct Tensor {
  void* data = nullptr;
  int type = kAny;
  int rank = 0;
  int64_t dims[kMaxRank] = {};

  // Whether the input is present; it may have no elements.
  bool is_present() const { return type != kAny; }
  int64_t count() const {
    int64_t product = 1;
    for (int i = 0; i < rank; ++i) product *= dims[i];
    return product;
  }
};

size_t input_count(const OrtKernelContext* context);
Status input(const OrtKernelContext* context, size_t index, Tensor* tensor);
// Whether an input is a constant of the graph; false for an absent one.
bool is_constant(const OrtKernelInfo* info, size_t index);
Status output(OrtKernelContext* context, size_t index, const int64_t* dims, int rank, void** data);

}  // namespace ort

#define POCKETSPEC_RETURN_IF_ERROR(expression)          \
  do {                                                  \
    if (::OrtStatus* status_ = (expression)) return status_; \
  } while (false)

}  // namespace pocketspec
