#include "crew.h"

#include <mutex>
#include <new>

namespace pocketspec {
namespace {

struct Entry {
  Crew crew;
  int64_t id;
  Entry* before;
};

std::mutex guard;
Entry* latest = nullptr;

}  // namespace

Crew* make_crew(int64_t id, int64_t workers) {
  auto* entry = new (std::nothrow) Entry{{{workers}, {0}}, id, nullptr};
  if (!entry) return nullptr;
  const std::lock_guard<std::mutex> lock(guard);
  entry->before = latest;
  latest = entry;
  return &entry->crew;
}

Crew* find_crew(int64_t id) {
  const std::lock_guard<std::mutex> lock(guard);
  for (Entry* entry = id ? latest : nullptr; entry; entry = entry->before) {
    if (entry->id == id) return &entry->crew;
  }
  return nullptr;
}

}  // namespace pocketspec
