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

// The pieces [begin, end) of a loop that one thread has yet to run, as one word: the owner takes
// from the front, who has nothing left takes from the back.
class Share {
 public:
  void set(std::uint32_t begin, std::uint32_t end) {
    word_.store(join(begin, end), std::memory_order_relaxed);
  }

  bool take_first(std::uint32_t& piece) {
    std::uint64_t seen = word_.load(std::memory_order_relaxed);
    do {
      if (begin_of(seen) >= end_of(seen)) return false;
      piece = begin_of(seen);
    } while (!word_.compare_exchange_weak(seen, join(piece + 1, end_of(seen)),
                                          std::memory_order_relaxed));
    return true;
  }

  bool take_last_half(std::uint32_t& begin, std::uint32_t& end) {
    std::uint64_t seen = word_.load(std::memory_order_relaxed);
    do {
      if (begin_of(seen) >= end_of(seen)) return false;
      end = end_of(seen);
      begin = end - (end - begin_of(seen) + 1) / 2;
    } while (
        !word_.compare_exchange_weak(seen, join(begin_of(seen), begin), std::memory_order_relaxed));
    return true;
  }

 private:
  static std::uint64_t join(std::uint32_t begin, std::uint32_t end) {
    return static_cast<std::uint64_t>(end) << 32 | begin;
  }
  static std::uint32_t begin_of(std::uint64_t word) { return static_cast<std::uint32_t>(word); }
  static std::uint32_t end_of(std::uint64_t word) { return static_cast<std::uint32_t>(word >> 32); }

  alignas(64) std::atomic<std::uint64_t> word_{0};
};

}  // namespace

struct ThreadPool::State {
  explicit State(int threads) : shares(static_cast<std::size_t>(threads)) {}

  // One loop. Written by the caller before `gate` opens, read by workers that have passed it.
  const std::function<void(std::int64_t, std::int64_t)>* body = nullptr;
  std::int64_t count = 0;
  std::int64_t grain = 1;

  std::vector<Share> shares;            // of each thread, the caller's first
  std::atomic<std::uint64_t> epoch{0};  // loops started so far
  std::atomic<std::uint32_t> gate{0};   // kOpen while the loop runs, and the workers inside
  std::atomic<bool> stop{false};

  int spins = kSpins;
  std::mutex mutex;  // guards the two sleeps below
  std::condition_variable started;
  std::vector<std::thread> workers;

  // A worker that comes late, as others have its core, finds the gate shut: nobody has waited for
  // it, and its pieces are done.
  static constexpr std::uint32_t kOpen = std::uint32_t{1} << 31;
  bool enter() {
    std::uint32_t seen = gate.load(std::memory_order_relaxed);
    do {
      if ((seen & kOpen) == 0) return false;
    } while (!gate.compare_exchange_weak(seen, seen + 1, std::memory_order_acquire,
                                         std::memory_order_relaxed));
    return true;
  }
  void leave() { gate.fetch_sub(1, std::memory_order_release); }

  // Consecutive pieces to each thread. A thread that walks through neighbouring rows of a weight
  // reads memory at full speed (a third more than in pieces of 100 KB dealt out in turn), and meets
  // the same rows, on its own node's memory, at every step.
  void deal() {
    const std::int64_t pieces = (count + grain - 1) / grain;
    M3_CHECK(pieces < std::int64_t{1} << 32, "a loop of {} pieces", pieces);
    const std::int64_t threads = std::ssize(shares);
    for (std::int64_t i = 0; i < threads; ++i)
      shares[static_cast<std::size_t>(i)].set(
          static_cast<std::uint32_t>(pieces * i / threads),
          static_cast<std::uint32_t>(pieces * (i + 1) / threads));
  }

  // Runs the thread's own pieces, then those that others have left.
  void run_ranges(int seat) {
    Share& own = shares[static_cast<std::size_t>(seat)];
    do {
      std::uint32_t piece = 0;
      while (own.take_first(piece)) {
        const std::int64_t begin = piece * grain;
        (*body)(begin, std::min(begin + grain, count));
      }
    } while (steal(seat));
  }

  bool steal(int seat) {
    const int threads = static_cast<int>(shares.size());
    for (int i = 1; i < threads; ++i) {
      std::uint32_t begin = 0, end = 0;
      if (!shares[static_cast<std::size_t>((seat + i) % threads)].take_last_half(begin, end))
        continue;
      shares[static_cast<std::size_t>(seat)].set(begin, end);
      return true;
    }
    return false;
  }
};

ThreadPool::ThreadPool(int threads)
    : threads_(threads > 0 ? threads : available_cores()),
      state_(std::make_unique<State>(threads_)) {
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

void ThreadPool::work(int seat) {
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
    if (!s.enter()) continue;
    s.run_ranges(seat);
    s.leave();
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
  s.deal();
  s.gate.store(State::kOpen, std::memory_order_release);
  {
    // The lock keeps a worker from missing the change between its check and its sleep.
    std::lock_guard lock(s.mutex);
    s.epoch.fetch_add(1, std::memory_order_release);
  }
  s.started.notify_all();
  s.run_ranges(0);
  s.gate.fetch_and(~State::kOpen, std::memory_order_relaxed);
  for (int i = 0; s.gate.load(std::memory_order_acquire) != 0; ++i) {
    if (i < s.spins) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace m3
