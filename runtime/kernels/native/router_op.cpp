// pocketspec::Router: which experts a row uses, and with which weights. What its inputs mean is specified in
// export/graph/expert_functions.py.
#include "operators.h"
#include "ranges.h"

namespace pocketspec {
namespace {

constexpr int64_t kParallelProducts = 128 * 1024;  // below, waking another thread costs more than it saves
constexpr int64_t kMostExperts = 65536;

// Step 2: scores in place of logits.
void score(const Isa& isa, bool sigmoid, int64_t count, float* logits, float* spare) {
  if (sigmoid) {
    for (int64_t i = 0; i < count; ++i) spare[i] = logits[i] * -1.0f;
    isa.exponentials(spare, count, logits);
    for (int64_t i = 0; i < count; ++i) logits[i] = 1.0f / (1.0f + logits[i]);
    return;
  }
  float top = logits[0], sum = 0;
  for (int64_t i = 1; i < count; ++i) top = logits[i] > top ? logits[i] : top;
  for (int64_t i = 0; i < count; ++i) spare[i] = logits[i] - top;
  isa.exponentials(spare, count, logits);
  for (int64_t i = 0; i < count; ++i) sum = sum + logits[i];
  for (int64_t i = 0; i < count; ++i) logits[i] = logits[i] / sum;
}

class Router {
 public:
  static constexpr const char* kName = "Router";
  static constexpr InputSpec kInputs[] = {
      {kFloat, kRequired}, {kFloat, kRequired}, {kFloat, kOptional}, {kFloat, kOptional}};
  static constexpr InputSpec kOutputs[] = {{kInt64, kRequired}, {kFloat, kRequired}};

  explicit Router(const Settings& settings) : settings_(settings) {}

  Status init(const OrtKernelInfo* info) {
    label_ = label_of(info, kName);
    POCKETSPEC_RETURN_IF_ERROR(ort::attribute(info, "used", &used_));
    ort::optional_attribute(info, "sigmoid", &sigmoid_);
    ort::optional_attribute(info, "normalized", &normalized_);
    ort::optional_attribute(info, "epsilon", &epsilon_);
    ort::optional_attribute(info, "scale", &scale_);
    return nullptr;
  }

  Status compute(OrtKernelContext* context) {
    ort::Tensor x, weight, bias, choice_bias;
    ort::Tensor* inputs[] = {&x, &weight, &bias, &choice_bias};
    for (size_t i = 0; i < 4; ++i) POCKETSPEC_RETURN_IF_ERROR(ort::input(context, i, inputs[i]));
    const int64_t hidden = x.rank ? x.dims[x.rank - 1] : 0;
    const int64_t experts = weight.rank == 2 && weight.dims[1] == hidden ? weight.dims[0] : 0;
    if (hidden < 1 || experts < 1 || experts > kMostExperts || used_ < 1 || used_ > experts ||
        (bias.is_present() && bias.count() != experts) || (choice_bias.is_present() && choice_bias.count() != experts)) {
      return ort::error(kInvalidArgument, "%s: its inputs do not fit weight [experts, %lld] of at least %lld experts",
                        label_.text, static_cast<long long>(hidden), static_cast<long long>(used_));
    }
    const int64_t rows = x.count() / hidden;
    x.dims[x.rank - 1] = used_;
    void *ids = nullptr, *weights = nullptr;
    POCKETSPEC_RETURN_IF_ERROR(ort::output(context, 0, x.dims, x.rank, &ids));
    POCKETSPEC_RETURN_IF_ERROR(ort::output(context, 1, x.dims, x.rank, &weights));
    thread_local Scratch scratch;
    auto* logits = static_cast<float*>(scratch.at_least(static_cast<size_t>((rows + 1) * experts) * sizeof(float)));
    if (!logits) return ort::error(kFail, "%s: no memory for %lld rows", label_.text, static_cast<long long>(rows));
    const auto* from = static_cast<const float*>(x.data);
    const auto* matrix = static_cast<const float*>(weight.data);
    const auto* added = bias.is_present() ? static_cast<const float*>(bias.data) : nullptr;
    const auto multiply = [&](int64_t first, int64_t last) {
      for (int64_t expert = first; expert < last; ++expert) {
        for (int64_t row = 0; row < rows; ++row) {
          const float product = settings_.isa->dot(from + row * hidden, matrix + expert * hidden, hidden);
          logits[row * experts + expert] = added ? product + added[expert] : product;
        }
      }
    };
    const int threads = rows * experts * hidden < kParallelProducts ? 1 : settings_.crew->count();
    // Sixteen experts at a time, so that threads do not write to the same cache lines.
    POCKETSPEC_RETURN_IF_ERROR(run_ranges(context, threads, experts, 16, multiply, settings_.crew));
    const auto* choice = choice_bias.is_present() ? static_cast<const float*>(choice_bias.data) : nullptr;
    for (int64_t row = 0; row < rows; ++row) {
      choose(logits + row * experts, logits + rows * experts, experts, choice, static_cast<int64_t*>(ids) + row * used_,
             static_cast<float*>(weights) + row * used_);
    }
    return nullptr;
  }

 private:
  // Steps 2 to 4 for one row.
  void choose(float* scores, float* spare, int64_t experts, const float* choice, int64_t* ids, float* weights) const {
    score(*settings_.isa, sigmoid_ != 0, experts, scores, spare);
    float sum = 0;
    for (int64_t place = 0; place < used_; ++place) {
      int64_t best = -1;
      float liked = 0;
      for (int64_t expert = 0; expert < experts; ++expert) {
        bool taken = false;
        for (int64_t before = 0; before < place; ++before) taken |= ids[before] == expert;
        if (taken) continue;
        const float value = choice ? scores[expert] + choice[expert] : scores[expert];
        if (best >= 0 && !(value > liked)) continue;
        best = expert;
        liked = value;
      }
      ids[place] = best;
      weights[place] = scores[best];
      sum = sum + scores[best];
    }
    for (int64_t place = 0; place < used_; ++place) {
      if (normalized_) weights[place] = weights[place] / (sum + epsilon_);
      weights[place] = weights[place] * scale_;
    }
  }

  const Settings settings_;
  Label label_;
  int64_t used_ = 0, sigmoid_ = 0, normalized_ = 0;
  float epsilon_ = 0, scale_ = 1;
};

}  // namespace

CustomOp* make_router(const Settings& settings) { return new (std::nothrow) Operator<Router>(settings); }

}  // namespace pocketspec
