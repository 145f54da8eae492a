// pocketspec::GatherPanel: rows of the embedding, read from the packed matrix of the head.
#include "operators.h"

namespace pocketspec {
namespace {

class GatherPanel {
 public:
  static constexpr const char* kName = "GatherPanel";
  static constexpr InputSpec kInputs[] = {{kInt64, kRequired}, {kUint8, kRequired}, {kAny, kRequired}, {kUint8, kOptional}};
  static constexpr InputSpec kOutputs[] = {{kFloat, kRequired}};

  explicit GatherPanel(const Settings& settings) : settings_(settings) {}

  Status init(const OrtKernelInfo* info) {
    label_ = label_of(info, kName);
    POCKETSPEC_RETURN_IF_ERROR(spec_.read(info, label_.text));
    ort::optional_attribute(info, "scale", &factor_);
    return nullptr;
  }

  Status compute(OrtKernelContext* context) {
    ort::Tensor ids, codes, scales, zeros;
    POCKETSPEC_RETURN_IF_ERROR(ort::input(context, 0, &ids));
    POCKETSPEC_RETURN_IF_ERROR(ort::input(context, 1, &codes));
    POCKETSPEC_RETURN_IF_ERROR(ort::input(context, 2, &scales));
    POCKETSPEC_RETURN_IF_ERROR(ort::input(context, 3, &zeros));
    PackedMatrix matrix;
    POCKETSPEC_RETURN_IF_ERROR(spec_.check(label_.text, codes, scales, zeros, &matrix));
    if (ids.rank == ort::kMaxRank) return ort::error(kInvalidArgument, "%s: ids has too many axes", label_.text);
    const int64_t count = ids.count();
    ids.dims[ids.rank] = spec_.k;
    void* rows = nullptr;
    POCKETSPEC_RETURN_IF_ERROR(ort::output(context, 0, ids.dims, ids.rank + 1, &rows));
    for (int64_t i = 0; i < count; ++i) {
      const int64_t id = static_cast<const int64_t*>(ids.data)[i];
      if (id < 0 || id >= spec_.n) {
        return ort::error(kInvalidArgument, "%s: id %lld is outside 0 .. %lld", label_.text, static_cast<long long>(id),
                          static_cast<long long>(spec_.n - 1));
      }
      settings_.isa->unpack(matrix.panel(id / kColumns), static_cast<int>(id % kColumns), spec_.k, factor_,
                            static_cast<float*>(rows) + i * spec_.k);
    }
    return nullptr;
  }

 private:
  const Settings settings_;
  Label label_;
  MatrixSpec spec_;
  float factor_ = 1;
};

}  // namespace

CustomOp* make_gather_panel(const Settings& settings) { return new (std::nothrow) Operator<GatherPanel>(settings); }

}  // namespace pocketspec
