// The exported functions: ONNX Runtime's entry point, and the library's description of itself.
#include <cstdlib>
#include <initializer_list>

#include "crew.h"
#include "isa.h"
#include "operators.h"
#include "ort_abi.h"

#if defined(_WIN32)
#define POCKETSPEC_EXPORT extern "C" __declspec(dllexport)
#else
#define POCKETSPEC_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace pocketspec {
namespace {

Status add_operators(OrtSessionOptions* options, const Settings& settings) {
  OrtCustomOpDomain* domain = nullptr;
  POCKETSPEC_RETURN_IF_ERROR(ort::create_domain("pocketspec", &domain));
  for (CustomOp* op : {make_matmul_panel(settings), make_gather_panel(settings), make_cached_attention(settings, kFloat),
                       make_cached_attention(settings, kHalf), make_cached_attention(settings, kInt8),
                       make_cached_attention(settings, kUint8), make_short_convolution(settings),
                       make_linear_recurrence(settings), make_router(settings), make_routed_experts(settings)}) {
    if (!op) return ort::error(kFail, "pocketspec: no memory for its operators");
    POCKETSPEC_RETURN_IF_ERROR(ort::add_op(domain, op));
  }
  return ort::add_domain(options, domain);
}

}  // namespace
}  // namespace pocketspec

// Called by ONNX Runtime for the options of every session. The entry pocketspec.threads is the size of the session's
// pool, and pocketspec.crew is the number under which its crew is found.
POCKETSPEC_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace pocketspec;
  // Without a table no status can be made; the runtime has checked the version before.
  if (!ort::bind(base)) return nullptr;
  if (!ort::self_test()) return nullptr;
  const char* forced = std::getenv("POCKETSPEC_ISA");
  const Isa* isa = choose_isa(forced);
  if (!isa) {
    return ort::error(kInvalidArgument, "POCKETSPEC_ISA=%s: this CPU or this build has no such instruction set; there is: %s",
                      forced, describe_kernels());
  }
  const int64_t threads = ort::config_number(options, "pocketspec.threads", 1);
  Crew* crew = make_crew(ort::config_number(options, "pocketspec.crew", 0), threads < 1 ? 1 : threads);
  if (!crew) return ort::error(kFail, "pocketspec: no memory for its operators");
  return add_operators(options, {isa, crew});
}

POCKETSPEC_EXPORT pocketspec::Crew* pocketspec_crew(int64_t id) { return pocketspec::find_crew(id); }

POCKETSPEC_EXPORT const char* pocketspec_kernels() { return pocketspec::describe_kernels(); }
