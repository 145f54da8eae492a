// How many threads of a session's pool its operators use. The number may change between calls.
//
// Results do not depend on it, so another number may be tried at any time; runtime.models.thread_choice does that.
#pragma once

#include <atomic>
#include <cstdint>

namespace pocketspec {

// Read and written from outside, as two 64-bit integers in this order. Lives until the process ends.
struct Crew {
  std::atomic<int64_t> workers;  // at least 1
  std::atomic<int64_t> held_up;  // nanoseconds that callers have waited for other threads since the session was made

  int count() const { return static_cast<int>(workers.load(std::memory_order_relaxed)); }
};

// Makes a crew for `find_crew(id)`; with id 0 it cannot be found. Null if there is no memory.
Crew* make_crew(int64_t id, int64_t workers);
// The latest crew with this id, or null.
Crew* find_crew(int64_t id);

}  // namespace pocketspec
