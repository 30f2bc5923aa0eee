#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <thread>

namespace lsp_fast {

// Threads that work at a time, at most: by default the processors that this process may run on. A container may grant less.
void limit_threads(std::int64_t most);
std::int64_t most_threads();

// Calls work(worker) on the calling thread, whose number is 0, and on up to `threads` - 1 others that come while it is at
// work there, numbered 1, 2, ... They come when the scheduler lets them: nobody waits for one that has not begun, so
// whoever is there must be able to do all of it. `work` may not throw. Fewer threads come, or none, where no more are to be
// had or others use them. All compute in the caller's floating-point mode (flush to zero, say).
void run_together(std::int64_t threads, const std::function<void(std::int64_t)>& work);

// Calls work(caller, next) on up to `threads` threads, of which one is the caller's; next() hands the numbers 0, 1, ... out
// to whoever asks first, so that a thread that is held up leaves more to the others. What one of them throws is thrown
// again once all have ended; the others then get no more numbers.
template <typename Work>
void one_by_one(std::int64_t threads, std::int64_t count, const Work& work) {
  std::atomic<std::int64_t> taken{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  const auto next = [&] { return failed.load(std::memory_order_relaxed) ? count : taken.fetch_add(1, std::memory_order_relaxed); };
  run_together(std::min(threads, count), [&](std::int64_t worker) {
    try {
      work(worker == 0, next);
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);
}

// Calls work(first, last) for consecutive parts of [0, count), as many as there may be threads.
template <typename Work>
void parallel(std::int64_t threads, std::int64_t count, const Work& work) {
  const auto parts = std::max<std::int64_t>(1, std::min({threads, count, most_threads()}));
  one_by_one(threads, parts, [&](bool, const auto& next) {
    for (std::int64_t i; (i = next()) < parts;) work(count * i / parts, count * (i + 1) / parts);
  });
}

// How long a team's threads wait for each other: to begin with (waking takes 5 to 150 microseconds), and where they meet.
// Tests change it.
struct Patience {
  std::chrono::microseconds gathering{150}, meeting{100};
};
inline Patience patience;

// Members that a team may have now: 1 where teams rest, since one came apart not long ago.
std::int64_t team_members(std::int64_t threads);

// The same for work whose threads wait for each other. Those that come within some microseconds are its members; the caller
// calls begin(members), and each work(member), which says whether the team held together to its end. Returns what work(0)
// said, or false where nobody came: then nothing was called. A member that the scheduler took away may come back after
// this has returned: all that `work` touches it must own. Teams rest for a while after one that did not hold.
bool run_team(std::int64_t members, const std::function<void(std::int64_t)>& begin,
              std::function<bool(std::int64_t)> work);

// Leaves a core's other thread and its power alone for a moment.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Where the threads of a team meet. They spin; whoever has waited in vain for long breaks it, for all and for good.
class Barrier {
 public:
  explicit Barrier(std::int64_t members) : members_(static_cast<std::uint64_t>(members)) {}

  // Whether all have come.
  bool wait() {
    auto seen = state_.load(std::memory_order_acquire);
    for (;;) {
      if (seen == kBroken) return false;
      const bool last = (seen & kArrived) + 1 == members_;
      const auto then = last ? (seen | kArrived) + 1 : seen + 1;
      if (state_.compare_exchange_weak(seen, then, std::memory_order_acq_rel, std::memory_order_acquire)) {
        if (last) return true;
        break;
      }
    }
    const auto round = seen & ~kArrived;
    std::chrono::steady_clock::time_point end{};
    for (int spins = 1;; ++spins) {
      seen = state_.load(std::memory_order_acquire);
      if (seen == kBroken) return false;
      if ((seen & ~kArrived) != round) return true;
      relax();
      if (spins % 64 != 0) continue;
      if (spins > kYield) std::this_thread::yield();
      const auto now = std::chrono::steady_clock::now();
      if (spins == 64) end = now + patience_;
      // It holds still where the last one comes in between.
      if (now > end && state_.compare_exchange_strong(seen, kBroken, std::memory_order_acq_rel)) return false;
    }
  }

  static bool wait_at(void* barrier) { return static_cast<Barrier*>(barrier)->wait(); }

 private:
  static constexpr std::uint64_t kArrived = 0xffff, kBroken = ~std::uint64_t{0};
  static constexpr int kYield = 8192;  // later than the usual patience
  const std::uint64_t members_;
  const std::chrono::microseconds patience_ = patience.meeting;
  std::atomic<std::uint64_t> state_{0};  // rounds that are over, and in the lowest 16 bits who has come to this one
};

}  // namespace lsp_fast
