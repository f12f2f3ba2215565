#include "base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/machine.h"

namespace m3 {
namespace {

// A decode step is a few hundred short loops: a worker that slept between them would spend longer
// waking up than working. It spins for about 50 us, then sleeps; where there are more threads than
// cores, spinning would only keep others from working.
constexpr int kSpins = 20000;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

struct ThreadPool::State {
  // One loop. Written by the caller before `epoch` moves on, read by workers after.
  const std::function<void(std::int64_t, std::int64_t)>* body = nullptr;
  std::int64_t count = 0;
  std::int64_t grain = 1;

  std::atomic<std::int64_t> next{0};    // first range that nobody took
  std::atomic<std::uint64_t> epoch{0};  // loops started so far
  std::atomic<int> busy{0};             // workers that have not finished this loop
  std::atomic<bool> stop{false};

  int spins = kSpins;
  std::mutex mutex;  // guards the two sleeps below
  std::condition_variable started;
  std::vector<std::thread> workers;

  void run_ranges() {
    for (;;) {
      const std::int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) return;
      (*body)(begin, std::min(begin + grain, count));
    }
  }
};

ThreadPool::ThreadPool(int threads)
    : threads_(threads > 0 ? threads : available_cores()), state_(std::make_unique<State>()) {
  if (threads_ > available_cores()) state_->spins = 0;
  for (int i = 1; i < threads_; ++i) state_->workers.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stop = true;
    state_->epoch.fetch_add(1, std::memory_order_release);
  }
  state_->started.notify_all();
  for (auto& worker : state_->workers) worker.join();
}

void ThreadPool::work(int) {
  State& s = *state_;
  std::uint64_t seen = 0;
  for (;;) {
    for (int i = 0; i < s.spins && s.epoch.load(std::memory_order_acquire) == seen; ++i) pause();
    if (s.epoch.load(std::memory_order_acquire) == seen) {
      std::unique_lock lock(s.mutex);
      s.started.wait(lock, [&] { return s.epoch.load(std::memory_order_acquire) != seen; });
    }
    seen = s.epoch.load(std::memory_order_acquire);
    if (s.stop) return;
    s.run_ranges();
    s.busy.fetch_sub(1, std::memory_order_release);
  }
}

void ThreadPool::parallel_for(std::int64_t count, std::int64_t grain,
                              const std::function<void(std::int64_t, std::int64_t)>& body) {
  M3_CHECK(grain >= 1, "grain is {}", grain);
  if (count <= 0) return;
  State& s = *state_;
  if (threads_ == 1 || count <= grain) {
    for (std::int64_t begin = 0; begin < count; begin += grain)
      body(begin, std::min(begin + grain, count));
    return;
  }
  s.body = &body;
  s.count = count;
  s.grain = grain;
  s.next.store(0, std::memory_order_relaxed);
  s.busy.store(threads_ - 1, std::memory_order_relaxed);
  {
    // The lock keeps a worker from missing the change between its check and its sleep.
    std::lock_guard lock(s.mutex);
    s.epoch.fetch_add(1, std::memory_order_release);
  }
  s.started.notify_all();
  s.run_ranges();
  for (int i = 0; s.busy.load(std::memory_order_acquire) != 0; ++i) {
    if (i < s.spins) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace m3
