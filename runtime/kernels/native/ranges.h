// Work split into one contiguous range for each thread, worked off in pieces; whoever is done helps the others.
//
// Long streams are what the hardware's prefetchers want: two threads that took pieces in turn ran 1.6 x slower. Pieces
// are what keeps a step from waiting for a thread whose core was taken away.
#pragma once

#include <atomic>
#include <cstdint>

#include "ort_abi.h"

namespace pocketspec {

constexpr int kMaxThreads = 64;

template <class Work>  // work(first, last)
class Ranges {
 public:
  Ranges(const Work& work, int64_t items, int64_t piece, int threads) : work_(work), items_(items), piece_(piece) {
    const int64_t pieces = (items + piece - 1) / piece;
    count_ = static_cast<int>(pieces < threads ? pieces : threads);
    for (int i = 0; i < count_; ++i) next_[i].value.store(items * i / count_, std::memory_order_relaxed);
  }

  Status run(const OrtKernelContext* context) {
    if (count_ <= 1) {
      if (items_ > 0) work_(int64_t{0}, items_);
      return nullptr;
    }
    return ort::run_parallel(context, &participate, static_cast<size_t>(count_), this);
  }

 private:
  struct alignas(64) Counter {
    std::atomic<int64_t> value;
  };

  static void participate(void* self, size_t thread) { static_cast<Ranges*>(self)->work_from(static_cast<int>(thread)); }

  void work_from(int start) {
    for (int i = 0; i < count_; ++i) {
      const int range = (start + i) % count_;
      const int64_t end = items_ * (range + 1) / count_;
      for (;;) {
        const int64_t first = next_[range].value.fetch_add(piece_, std::memory_order_relaxed);
        if (first >= end) break;
        work_(first, first + piece_ < end ? first + piece_ : end);
      }
    }
  }

  const Work& work_;
  const int64_t items_, piece_;
  int count_;
  Counter next_[kMaxThreads];
};

template <class Work>
Status run_ranges(const OrtKernelContext* context, int threads, int64_t items, int64_t piece, const Work& work) {
  return Ranges<Work>(work, items, piece, threads < kMaxThreads ? threads : kMaxThreads).run(context);
}

}  // namespace pocketspec
