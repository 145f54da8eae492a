// Shared by the operators: the settings of a session, ONNX Runtime's structure made from a kernel class, and scratch
// memory.
#pragma once

#include <cstdlib>
#include <new>

#include "crew.h"
#include "isa.h"
#include "ort_abi.h"

namespace pocketspec {

// Settings of one session: its instruction set, and how many threads work.
struct Settings {
  const Isa* isa;
  Crew* crew;
};

struct InputSpec {
  int type;
  int characteristic;
};

// A custom op of one session. A kernel class has kName, kInputs, kOutputs, init(info) and compute(context).
template <class Kernel>
struct Operator : CustomOp {
  Settings settings;

  explicit Operator(const Settings& given) : CustomOp{}, settings(given) {
    version = kOpVersion;
    name = [](const CustomOp*) -> const char* { return Kernel::kName; };
    execution_provider = [](const CustomOp*) -> const char* { return nullptr; };
    input_type = [](const CustomOp*, size_t i) { return Kernel::kInputs[i].type; };
    input_count = [](const CustomOp*) { return sizeof(Kernel::kInputs) / sizeof(InputSpec); };
    output_type = [](const CustomOp*, size_t i) { return Kernel::kOutputs[i].type; };
    output_count = [](const CustomOp*) { return sizeof(Kernel::kOutputs) / sizeof(InputSpec); };
    input_characteristic = [](const CustomOp*, size_t i) { return Kernel::kInputs[i].characteristic; };
    output_characteristic = [](const CustomOp*, size_t i) { return Kernel::kOutputs[i].characteristic; };
    input_memory_type = [](const CustomOp*, size_t) { return 0; };
    variadic_input_min = variadic_input_same = [](const CustomOp*) { return 1; };
    variadic_output_min = variadic_output_same = [](const CustomOp*) { return 1; };
    create_kernel_v2 = &create;
    compute_v2 = [](void* kernel, OrtKernelContext* context) -> Status {
      return static_cast<Kernel*>(kernel)->compute(context);
    };
    destroy_kernel = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  }

  static Status create(const CustomOp* op, const void*, const OrtKernelInfo* info, void** out) {
    Kernel* kernel = new (std::nothrow) Kernel(static_cast<const Operator*>(op)->settings);
    if (!kernel) return ort::error(kFail, "%s: no memory for a kernel", Kernel::kName);
    const Status status = kernel->init(info);
    if (status) {
      delete kernel;
      return status;
    }
    *out = kernel;
    return nullptr;
  }
};

// Memory of the calling thread that grows to the largest request and is kept, so that steps do not allocate.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(memory_); }

  // At least `bytes`, aligned to 64; null if there is no memory.
  void* at_least(size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    if (bytes > size_) {
      std::free(memory_);
      memory_ = std::aligned_alloc(64, bytes);
      size_ = memory_ ? bytes : 0;
    }
    return memory_;
  }

 private:
  void* memory_ = nullptr;
  size_t size_ = 0;
};

// Node and operator, for error messages.
struct Label {
  char text[160];
};
Label label_of(const OrtKernelInfo* info, const char* op);

// The operators that register.cpp adds. Each lives until the process ends, since nothing tells when a session ends.
CustomOp* make_matmul_panel(const Settings& settings);
CustomOp* make_gather_panel(const Settings& settings);
CustomOp* make_cached_attention(const Settings& settings, ElementType cache);
CustomOp* make_short_convolution(const Settings& settings);
CustomOp* make_linear_recurrence(const Settings& settings);
CustomOp* make_router(const Settings& settings);
CustomOp* make_routed_experts(const Settings& settings);

// Checks codes, scales and zero_points against K, N, bits and block size, and fills `matrix`: one, or `count` of them,
// one after another.
struct MatrixSpec {
  int64_t k = 0, n = 0, bits = 0, block = 0, count = 1, planes = 1;
  bool gated = false;

  int64_t panels() const { return (n + kColumns - 1) / kColumns * (gated ? 2 : 1); }

  Status read(const OrtKernelInfo* info, const char* label);
  Status check(const char* label, const ort::Tensor& codes, const ort::Tensor& scales, const ort::Tensor& zeros,
               PackedMatrix* matrix) const;
};

}  // namespace pocketspec
