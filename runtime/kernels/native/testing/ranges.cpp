// Tests ranges.h with real threads, and with pools as ONNX Runtime may have them: busy, late, or of one thread.
#include "../ranges.h"

#include <cstdio>
#include <thread>
#include <vector>

#include "comparison.h"

namespace pocketspec::testing {
namespace {

enum class Pool { kAtOnce, kFirstIsLate, kLastIsLate, kOneThread, kBackwards };
Pool pool = Pool::kAtOnce;

std::atomic<int64_t> num_taken{0};
int64_t num_taken_before_late = 0;

// Late threads start when all others are done.
void run_threads(void (*item)(void*, size_t), size_t total, void* user, size_t late) {
  std::vector<std::thread> threads;
  for (size_t i = 0; i < total; ++i) {
    if (i != late) threads.emplace_back(item, user, i);
  }
  for (std::thread& thread : threads) thread.join();
  num_taken_before_late = num_taken;
  if (late < total) std::thread(item, user, late).join();
}

Status parallel_for(const OrtKernelContext*, void (*item)(void*, size_t), size_t total, size_t, void* user) {
  switch (pool) {
    case Pool::kAtOnce: run_threads(item, total, user, total); break;
    case Pool::kFirstIsLate: run_threads(item, total, user, 0); break;
    case Pool::kLastIsLate: run_threads(item, total, user, total - 1); break;
    case Pool::kOneThread:
      for (size_t i = 0; i < total; ++i) item(user, i);
      break;
    case Pool::kBackwards:
      for (size_t i = total; i-- > 0;) item(user, i);
      break;
  }
  return nullptr;
}

// The function table of an ONNX Runtime that can do nothing else.
const void* get_api(uint32_t) {
  static const void* table[300] = {};
  table[274] = reinterpret_cast<const void*>(&parallel_for);
  return table;
}

bool check(int items, int piece, int threads) {
  // Not atomic: the thread sanitizer detects two threads that take the same item.
  std::vector<int> taken(static_cast<size_t>(items), 0);
  std::atomic<bool> sized{true};
  const auto work = [&](int64_t first, int64_t last) {
    if (first >= last || (last - first > piece && threads > 1 && items > piece)) sized = false;
    for (int64_t i = first; i < last; ++i) ++taken[static_cast<size_t>(i)];
    num_taken += last - first;
  };
  num_taken = num_taken_before_late = 0;
  const Status status = run_ranges(nullptr, threads, items, piece, work);
  bool once = !status;
  for (const int count : taken) once = once && count == 1;
  const bool is_late = pool == Pool::kFirstIsLate || pool == Pool::kLastIsLate;
  const bool waited = is_late && threads > 1 && items > piece && num_taken_before_late != items;
  if (once && sized && !waited) return true;
  std::printf("ranges: items=%d piece=%d threads=%d pool=%d: %s\n", items, piece, threads, static_cast<int>(pool),
              !once   ? "an item was not taken exactly once"
              : waited ? "the others left work to a thread that was late"
                       : "a piece has another size");
  return false;
}

}  // namespace

bool check_ranges() {
  const OrtApiBase base = {get_api, nullptr};
  ort::bind(&base);
  bool good = true;
  for (const Pool next : {Pool::kAtOnce, Pool::kFirstIsLate, Pool::kLastIsLate, Pool::kOneThread, Pool::kBackwards}) {
    pool = next;
    for (const int items : {0, 1, 2, 7, 64, 1000}) {
      for (const int piece : {1, 3, 100}) {
        for (const int threads : {1, 2, 3, 8}) good = check(items, piece, threads) && good;
      }
    }
    good = check(500, 2, kMaxThreads + 1) && good;
  }
  return good;
}

}  // namespace pocketspec::testing
