#include "parallel.hpp"

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace lsp_fast {

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::int64_t kClosed = -1;
// An update asks for dozens of short jobs, one soon after the other, and waking a thread takes as long as one of them: a
// thread looks out for the next one that long before it sleeps.
constexpr std::chrono::microseconds kLookout{300};
constexpr std::int64_t kLongestRest = 64;

std::atomic<std::int64_t> limit{0};  // 0: not said

// How the processor rounds and whether it flushes denormals to zero.
std::uint64_t floating_point_mode() {
#if defined(__x86_64__)
  return __builtin_ia32_stmxcsr();
#elif defined(__aarch64__)
  std::uint64_t mode;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
#else
  return 0;
#endif
}

void set_floating_point_mode(std::uint64_t mode) {
#if defined(__x86_64__)
  __builtin_ia32_ldmxcsr(static_cast<unsigned>(mode));
#elif defined(__aarch64__)
  asm volatile("msr fpcr, %0" : : "r"(mode));
#else
  (void)mode;
#endif
}

template <typename Condition>
void spin_while(const Condition& condition, std::chrono::microseconds longest) {
  const auto end = Clock::now() + longest;
  while (condition() && Clock::now() < end) relax();
}

// Owned by all who were asked to it: one that comes late finds it closed, and touches nothing else.
struct Job {
  explicit Job(std::function<void(std::int64_t)> what) : work(std::move(what)) {}

  const std::function<void(std::int64_t)> work;
  const std::uint64_t mode = floating_point_mode();
  std::atomic<std::int64_t> joined{0}, left{0};
  std::mutex mutex;
  std::condition_variable done;

  // The worker's part: whether there was one.
  bool serve() {
    auto before = joined.load(std::memory_order_relaxed);
    do {
      if (before == kClosed) return false;
    } while (!joined.compare_exchange_weak(before, before + 1, std::memory_order_acq_rel));
    const auto own = floating_point_mode();
    set_floating_point_mode(mode);
    work(before + 1);
    set_floating_point_mode(own);
    left.fetch_add(1, std::memory_order_acq_rel);
    const std::lock_guard<std::mutex> lock(mutex);  // or it could fall between the caller's question and its sleep
    done.notify_one();
    return true;
  }

  // Nobody joins any more; returns how many have.
  std::int64_t close() { return joined.exchange(kClosed, std::memory_order_acq_rel); }

  void wait_for(std::int64_t members) {
    const auto busy = [&] { return left.load(std::memory_order_acquire) < members; };
    spin_while(busy, kLookout);
    if (!busy()) return;
    std::unique_lock<std::mutex> lock(mutex);
    done.wait(lock, [&] { return !busy(); });
  }
};

class Worker {
 public:
  void give(const std::shared_ptr<Job>& job) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      job_ = job;
      given_.store(true, std::memory_order_release);
    }
    wake_.notify_one();
  }

  [[noreturn]] void serve() {
    for (;;) {
      std::shared_ptr<Job> job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [this] { return given_.load(std::memory_order_relaxed); });
        given_.store(false, std::memory_order_relaxed);
        job.swap(job_);
      }
      const bool served = job->serve();
      job.reset();
      if (served) spin_while([this] { return !given_.load(std::memory_order_acquire); }, kLookout);
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  std::shared_ptr<Job> job_;
  std::atomic<bool> given_{false};
};

// Threads that sleep until there is work. They are detached and the pool is never destroyed, so that a process ends
// whatever they do.
class Pool {
 public:
  std::mutex busy;                                // held while a call uses the pool
  std::atomic<std::int64_t> resting{0}, rest{0};  // plans that teams still leave out, and left out the last time

  // Asks up to threads - 1 workers to the job, one by one; returns how many.
  std::int64_t ask(const std::shared_ptr<Job>& job, std::int64_t threads) {
    while (static_cast<std::int64_t>(workers_.size()) + 1 < threads) {
      try {
        auto worker = std::make_unique<Worker>();
        workers_.reserve(workers_.size() + 1);
        std::thread([at = worker.get()] { at->serve(); }).detach();
        workers_.push_back(std::move(worker));
      } catch (const std::exception&) {  // as many as there are will do
        break;
      }
    }
    const auto asked = std::min(threads - 1, static_cast<std::int64_t>(workers_.size()));
    for (std::int64_t i = 0; i < asked; ++i) workers_[static_cast<std::size_t>(i)]->give(job);
    return asked;
  }

 private:
  std::vector<std::unique_ptr<Worker>> workers_;
};

std::atomic<Pool*> current{nullptr};

#if defined(__unix__) || defined(__APPLE__)
// A forked child has none of its parent's threads, and perhaps a mutex that one of them held.
[[maybe_unused]] const int forks = pthread_atfork(nullptr, nullptr, [] { current.store(nullptr); });
#endif

Pool& pool() {
  if (Pool* made = current.load(std::memory_order_acquire)) return *made;
  auto fresh = std::make_unique<Pool>();
  Pool* expected = nullptr;
  return current.compare_exchange_strong(expected, fresh.get(), std::memory_order_acq_rel) ? *fresh.release() : *expected;
}

}  // namespace

void limit_threads(std::int64_t most) { limit.store(most, std::memory_order_relaxed); }

std::int64_t most_threads() {
  const auto said = limit.load(std::memory_order_relaxed);
  if (said > 0) return said;
  static const auto processors = static_cast<std::int64_t>(std::thread::hardware_concurrency());
  return std::max<std::int64_t>(1, processors);
}

void run_together(std::int64_t threads, const std::function<void(std::int64_t)>& work) {
  threads = std::min(threads, most_threads());
  if (threads > 1) {
    Pool& shared = pool();
    const std::unique_lock<std::mutex> lock(shared.busy, std::try_to_lock);
    if (lock.owns_lock()) {
      const auto job = std::make_shared<Job>(work);
      shared.ask(job, threads);
      work(0);
      job->wait_for(job->close());
      return;
    }
  }
  work(0);
}

std::int64_t team_members(std::int64_t threads) {
  threads = std::min(threads, most_threads());
  if (threads < 2) return 1;
  auto& resting = pool().resting;
  auto left = resting.load(std::memory_order_relaxed);
  while (left > 0) {
    if (resting.compare_exchange_weak(left, left - 1, std::memory_order_relaxed)) return 1;
  }
  return threads;
}

bool run_team(std::int64_t members, const std::function<void(std::int64_t)>& begin,
              std::function<bool(std::int64_t)> work) {
  struct Members {
    std::function<bool(std::int64_t)> work;
    std::atomic<std::int64_t> decided{0};
  };
  Pool& shared = pool();
  const std::unique_lock<std::mutex> lock(shared.busy, std::try_to_lock);
  if (!lock.owns_lock()) return false;
  const auto team = std::make_shared<Members>();
  team->work = std::move(work);
  const auto job = std::make_shared<Job>([team](std::int64_t member) {
    for (int spins = 0; team->decided.load(std::memory_order_acquire) == 0; ++spins) {
      spins < 5000 ? relax() : std::this_thread::yield();
    }
    if (team->decided.load(std::memory_order_relaxed) > 1) team->work(member);
  });
  const auto asked = shared.ask(job, members);
  spin_while([&] { return job->joined.load(std::memory_order_relaxed) < asked; }, patience.gathering);
  const auto together = job->close() + 1;
  if (together > 1) begin(together);
  team->decided.store(together, std::memory_order_release);
  const bool held = together > 1 && team->work(0);
  const auto before = shared.rest.load(std::memory_order_relaxed);
  const auto rest = held ? before / 2 : std::min(kLongestRest, std::max<std::int64_t>(2, 2 * before));
  shared.rest.store(rest, std::memory_order_relaxed);
  if (!held) shared.resting.store(rest, std::memory_order_relaxed);
  return held;
}

}  // namespace lsp_fast
