// Memory for what lives no longer than one op. It grows to the largest need and stays, so that a
// step loop soon allocates nothing.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/check.h"
#include "base/thread_pool.h"
#include "tensor/tensor.h"

namespace m3::cpu {

// One array for an op as a whole.
class OpScratch {
 public:
  // Room for `count` elements, undefined; valid until the next take(). 4 KiB aligned.
  template <typename T>
  T* take(std::int64_t count) {
    const std::int64_t bytes = count * static_cast<std::int64_t>(sizeof(T));
    if (bytes > buffer_.bytes()) buffer_ = Buffer(bytes + bytes / 4);
    return reinterpret_cast<T*>(buffer_.data());
  }

 private:
  Buffer buffer_;
};

// Any number of arrays for an op as a whole.
class OpArena {
 public:
  // What was taken is gone. From the second time on, an op finds its memory in one piece.
  void reset() {
    if (blocks_.size() > 1) {
      std::int64_t bytes = 0;
      for (const Buffer& block : blocks_) bytes += block.bytes();
      blocks_.clear();
      blocks_.emplace_back(bytes);
    }
    used_ = 0;
  }

  // Room for `count` elements, undefined; valid until reset(). 64-byte aligned.
  template <typename T>
  T* take(std::int64_t count) {
    const std::int64_t bytes = (count * static_cast<std::int64_t>(sizeof(T)) + 63) / 64 * 64;
    if (blocks_.empty() || used_ + bytes > blocks_.back().bytes()) {
      blocks_.emplace_back(std::max(bytes, kBlockBytes));
      used_ = 0;
    }
    auto* start = reinterpret_cast<T*>(blocks_.back().data() + used_);
    used_ += bytes;
    return start;
  }

 private:
  static constexpr std::int64_t kBlockBytes = 1 << 20;
  std::vector<Buffer> blocks_;
  std::int64_t used_ = 0;  // of the last one
};

// One slice for each thread that may run a task at the same time. A pool does not say which of its
// threads runs a task, so a task borrows a slice and returns it.
class TaskScratch {
 public:
  explicit TaskScratch(int threads)
      : threads_(threads), taken_(std::make_unique<std::atomic_flag[]>(threads)) {}

  // Before a parallel loop: each slice will hold at least `bytes`.
  void reserve(std::int64_t bytes) {
    if (bytes <= slice_bytes_) return;
    slice_bytes_ = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    buffer_ = Buffer(slice_bytes_ * threads_);
  }

  // A borrowed slice, cut from its start into arrays of 64-byte alignment.
  class Slice {
   public:
    explicit Slice(TaskScratch& owner) : owner_(owner), index_(owner.borrow()) {}
    ~Slice() { owner_.taken_[index_].clear(std::memory_order_release); }
    Slice(const Slice&) = delete;
    Slice& operator=(const Slice&) = delete;

    template <typename T>
    T* take(std::int64_t count) {
      const std::int64_t bytes = bytes_for<T>(count);
      M3_CHECK(used_ + bytes <= owner_.slice_bytes_, "a task takes {} bytes of a slice of {}",
               used_ + bytes, owner_.slice_bytes_);
      std::byte* start = owner_.buffer_.data() + index_ * owner_.slice_bytes_ + used_;
      used_ += bytes;
      return reinterpret_cast<T*>(start);
    }

   private:
    TaskScratch& owner_;
    std::int64_t index_;
    std::int64_t used_ = 0;
  };

  // What take<T>(count) uses up.
  template <typename T>
  static std::int64_t bytes_for(std::int64_t count) {
    return (count * static_cast<std::int64_t>(sizeof(T)) + 63) / 64 * 64;
  }

 private:
  static constexpr std::int64_t kAlignment = 4096;

  // There are as many slices as threads, so one is always free or about to be.
  std::int64_t borrow() {
    for (std::int64_t i = 0;; i = (i + 1) % threads_)
      if (!taken_[i].test_and_set(std::memory_order_acquire)) return i;
  }

  std::int64_t threads_;
  std::unique_ptr<std::atomic_flag[]> taken_;
  std::int64_t slice_bytes_ = 0;
  Buffer buffer_;
};

// parallel_for without the allocation that a large closure costs in a std::function.
template <typename Body>
void for_ranges(ThreadPool& pool, std::int64_t count, std::int64_t grain, const Body& body) {
  pool.parallel_for(count, grain, std::cref(body));
}

// The same, one index at a time.
template <typename Body>
void for_each_task(ThreadPool& pool, std::int64_t count, const Body& body) {
  for_ranges(pool, count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) body(i);
  });
}

}  // namespace m3::cpu
