// Fork and join over a fixed set of threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace m3 {

// One pool runs one parallel_for at a time; two models may each own a pool. The calling thread
// works too, so a pool of one thread starts none. What a task computes must not depend on which
// thread runs it: our promise of "same sequence, same bits" is kept by every task owning its
// outputs.
class ThreadPool {
 public:
  // threads >= 1. 0 means one per core that this process may run on.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls body(begin, end) for disjoint ranges that cover [0, count), each at most `grain` long,
  // and returns when all are done. Must not be called from inside a body. Ranges begin at multiples
  // of `grain`, so the cut does not depend on the number of threads.
  void parallel_for(std::int64_t count, std::int64_t grain,
                    const std::function<void(std::int64_t begin, std::int64_t end)>& body);

 private:
  struct State;
  void work(int seat);
  int threads_;
  std::unique_ptr<State> state_;
};

}  // namespace m3
