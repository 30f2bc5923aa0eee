#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace lsp_fast {

// Calls begin(members), then work(member) for 0 .. members - 1, each on a thread of its own, the caller's among them; there
// are at most `threads`, and fewer where no more are to be had or the pool is in use. Neither may throw. The threads are
// kept and sleep in between.
void run_parts(std::int64_t threads, const std::function<void(std::int64_t)>& begin,
               const std::function<void(std::int64_t)>& work);

// The same for work whose threads wait for each other: one that is not there within some microseconds is left out. It may
// be waiting for the very core that the caller runs on, and would make every meeting wait for the scheduler.
void run_team(std::int64_t threads, const std::function<void(std::int64_t)>& begin,
              const std::function<void(std::int64_t)>& work);

// Calls work(first, last) for consecutive parts of [0, count), one part a thread, this one included. An exception of any
// part is thrown again once all parts have ended.
template <typename Work>
void parallel(std::int64_t threads, std::int64_t count, const Work& work) {
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(std::max<std::int64_t>(threads, 1)));
  std::int64_t parts = 1;
  run_parts(
      std::max<std::int64_t>(1, std::min(threads, count)), [&parts](std::int64_t members) { parts = members; },
      [&](std::int64_t i) {
        try {
          work(count * i / parts, count * (i + 1) / parts);
        } catch (...) {
          errors[static_cast<std::size_t>(i)] = std::current_exception();
        }
      });
  for (const auto& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

// Calls work(caller, next) on up to `threads` threads, of which one is the caller's; next() hands the numbers 0, 1, ... out
// to whoever asks first, so that a thread that is held up leaves more to the others.
template <typename Work>
void one_by_one(std::int64_t threads, std::int64_t count, const Work& work) {
  std::atomic<std::int64_t> taken{0};
  const auto next = [&taken] { return taken.fetch_add(1, std::memory_order_relaxed); };
  parallel(threads, count, [&](std::int64_t first, std::int64_t) { work(first == 0, next); });
}

// Leaves a core's other thread and its power alone for a moment.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Where the threads of a team meet: they spin for some microseconds, then let others run, and sleep where that takes long.
class Barrier {
 public:
  explicit Barrier(std::int64_t members) : members_(members) {}

  void wait() {
    const auto round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == members_) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1);
      if (sleeping_.load() == 0) return;
      const std::lock_guard<std::mutex> lock(mutex_);
      wake_.notify_all();
      return;
    }
    for (int spins = 0; spins < kSpins + kYields; ++spins) {
      if (round_.load(std::memory_order_acquire) != round) return;
      if (spins < kSpins) {
        relax();
      } else {
        std::this_thread::yield();
      }
    }
    std::unique_lock<std::mutex> lock(mutex_);
    ++sleeping_;  // before the round is read once more: the last one reads it after it has changed the round
    wake_.wait(lock, [&] { return round_.load() != round; });
    --sleeping_;
  }

  static void wait_at(void* barrier) { static_cast<Barrier*>(barrier)->wait(); }

 private:
  static constexpr int kSpins = 500, kYields = 200;
  const std::int64_t members_;
  std::atomic<std::int64_t> arrived_{0};
  std::atomic<std::uint64_t> round_{0};
  std::atomic<int> sleeping_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace lsp_fast
