// How many threads of a session's pool its operators use: a number that may change from one call to the next.
//
// Results do not depend on it, so whoever watches what steps take may try another one at any time; runtime.models.thread_choice does.
#pragma once

#include <atomic>
#include <cstdint>

namespace pocketspec {

// Read and written from outside: two whole numbers of 64 bits, in this order. Lives as long as the process.
struct Crew {
  std::atomic<int64_t> workers;  // at least 1
  std::atomic<int64_t> held_up;  // nanoseconds that callers waited for the others, since the session was made

  int count() const { return static_cast<int>(workers.load(std::memory_order_relaxed)); }
};

// Makes the crew that `find_crew` knows by `id`; with the id 0 it is known to nobody. Null where there is no memory.
Crew* make_crew(int64_t id, int64_t workers);
// The latest one of this id, or null.
Crew* find_crew(int64_t id);

}  // namespace pocketspec
