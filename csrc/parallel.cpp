#include "parallel.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace lsp_fast {

namespace {

long process() {
#if defined(__unix__) || defined(__APPLE__)
  return static_cast<long>(getpid());
#else
  return 0;
#endif
}

// Threads that sleep until there is work. They are detached and the pool is never destroyed, so that a process ends
// whatever they do.
class Pool {
 public:
  std::mutex busy;  // held while a call uses the pool

  // How many calls of work there will be, the caller's among them.
  std::int64_t grow(std::int64_t threads) {
    while (workers_ + 1 < threads) {
      try {
        std::thread([this, member = workers_ + 1, seen = generation_.load()] { serve(member, seen); }).detach();
      } catch (const std::exception&) {  // as many as there are will do
        break;
      }
      ++workers_;
    }
    return std::min(threads, workers_.load() + 1);
  }

  void run(std::int64_t members, const std::function<void(std::int64_t)>& work) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      work_ = &work;
      members_ = members;
      running_.store(members - 1, std::memory_order_relaxed);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    work(0);
    spin_while([this] { return running_.load(std::memory_order_acquire) != 0; });
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return running_.load(std::memory_order_acquire) == 0; });
  }

 private:
  // An update asks for dozens of short jobs, one soon after the other, and waking a thread takes as long as one of them.
  // Where every thread has a processor, it therefore looks out for the next job a while before it sleeps.
  template <typename Condition>
  void spin_while(const Condition& condition) const {
    if (workers_ + 1 > processors_) return;
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(300);
    while (condition() && std::chrono::steady_clock::now() < end) relax();
  }

  void serve(std::int64_t member, std::uint64_t seen) {
    for (;;) {
      spin_while([&] { return generation_.load(std::memory_order_acquire) == seen; });
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
      seen = generation_.load(std::memory_order_relaxed);
      if (member >= members_) continue;
      const auto* work = work_;
      lock.unlock();
      (*work)(member);
      if (running_.fetch_sub(1, std::memory_order_acq_rel) != 1) continue;
      lock.lock();  // or whoever waits could miss it between its question and its sleep
      done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(std::int64_t)>* work_ = nullptr;
  std::int64_t members_ = 0;
  std::atomic<std::int64_t> running_{0}, workers_{0};
  std::atomic<std::uint64_t> generation_{0};
  const std::int64_t processors_ = static_cast<std::int64_t>(std::thread::hardware_concurrency());  // that it may use
};

// This process's pool: a forked child has none of its parent's threads, and perhaps a mutex that one of them held.
Pool& pool() {
  static std::atomic<Pool*> current{nullptr};
  static std::atomic<long> owner{-1};
  static std::mutex making;
  const long id = process();
  if (owner.load(std::memory_order_acquire) != id) {
    const std::lock_guard<std::mutex> lock(making);
    if (owner.load(std::memory_order_relaxed) != id) {
      current.store(new Pool, std::memory_order_relaxed);
      owner.store(id, std::memory_order_release);
    }
  }
  return *current.load(std::memory_order_acquire);
}

}  // namespace

namespace {

// Calls use(pool, members to be had) and returns true, or returns false where the pool is of no use.
template <typename Use>
bool with_pool(std::int64_t threads, const Use& use) {
  if (threads < 2) return false;
  Pool& shared = pool();
  const std::unique_lock<std::mutex> lock(shared.busy, std::try_to_lock);
  if (!lock.owns_lock()) return false;
  const auto members = shared.grow(threads);
  if (members < 2) return false;
  use(shared, members);
  return true;
}

}  // namespace

void run_parts(std::int64_t threads, const std::function<void(std::int64_t)>& begin,
               const std::function<void(std::int64_t)>& work) {
  const auto use = [&](Pool& shared, std::int64_t members) {
    begin(members);
    shared.run(members, work);
  };
  if (with_pool(threads, use)) return;
  begin(1);
  work(0);
}

void run_team(std::int64_t threads, const std::function<void(std::int64_t)>& begin,
              const std::function<void(std::int64_t)>& work) {
  const auto use = [&](Pool& shared, std::int64_t members) {
    constexpr std::int64_t kClosed = -1;
    constexpr auto kPatience = std::chrono::microseconds(250);  // waking takes 5 to 150
    const auto end = std::chrono::steady_clock::now() + kPatience;
    std::atomic<std::int64_t> joined{0}, decided{0};
    shared.run(members, [&](std::int64_t number) {
      if (number == 0) {
        while (joined.load(std::memory_order_relaxed) < members - 1 && std::chrono::steady_clock::now() < end) relax();
        const auto team = joined.exchange(kClosed, std::memory_order_acq_rel) + 1;
        begin(team);
        decided.store(team, std::memory_order_release);
        work(0);
        return;
      }
      auto before = joined.load(std::memory_order_relaxed);
      do {
        if (before == kClosed) return;
      } while (!joined.compare_exchange_weak(before, before + 1, std::memory_order_acq_rel));
      while (decided.load(std::memory_order_acquire) == 0) {
        if (std::chrono::steady_clock::now() < end) {
          relax();
        } else {
          std::this_thread::yield();
        }
      }
      work(before + 1);
    });
  };
  // Members wait for each other: one without a processor of its own would make all wait for the scheduler.
  const auto processors = static_cast<std::int64_t>(std::max(1u, std::thread::hardware_concurrency()));
  if (with_pool(std::min(threads, processors), use)) return;
  begin(1);
  work(0);
}

}  // namespace lsp_fast
