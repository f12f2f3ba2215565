// The low-rank addends of linear layers: out += scale * B (A x), in float32, since that is small
// beside W x, and training wants its gradients exact. All addends of a call, which are of different
// linears, experts and adapters, are multiplied together: one parallel loop for what A makes of
// their rows, one for B. A row's sums are those that it has alone.
#include <algorithm>

#include "backend/cpu/cpu_ops.h"

namespace m3::cpu {
namespace {

// Between A and B they lie in memory, so no more than these many numbers are computed at once.
constexpr std::int64_t kAddendValuesMax = 1 << 22;
// Elements of a task that does little with each.
constexpr std::int64_t kTaskElements = 32768;

std::int64_t rows_of_task(std::int64_t elements_of_row) {
  return std::max<std::int64_t>(1, kTaskElements / std::max<std::int64_t>(1, elements_of_row));
}

}  // namespace

void CpuBackend::plan_addends(const void* const* x, const std::int32_t* adapters,
                              std::span<const LinearOutput> outputs) {
  for (const LinearOutput& output : outputs) {
    const Linear& linear = *output.linear;
    if (linear.addend != nullptr) plan_addend(*linear.addend, x, output.out, nullptr, 0);
    if (adapters == nullptr) continue;
    for (std::size_t a = 0; a < linear.addends.size(); ++a)
      if (linear.addends[a] != nullptr)
        plan_addend(*linear.addends[a], x, output.out, adapters, static_cast<std::int32_t>(a));
  }
}

// Of the rows that name `adapter`; all, where `adapters` is null.
void CpuBackend::plan_addend(const LowRank& addend, const void* const* x, const Tensor& out,
                             const std::int32_t* adapters, std::int32_t adapter) {
  const std::size_t first = addend_x_.size();
  for (std::int64_t row = 0; row < out.dim(0); ++row) {
    if (adapters != nullptr && adapters[row] != adapter) continue;
    addend_x_.push_back(x[row]);
    addend_out_.push_back(out.row<float>(row));
  }
  const auto rows = static_cast<std::int64_t>(addend_x_.size() - first);
  if (rows == 0) return;
  addends_.push_back({&addend, first, rows});
  addend_values_ += rows * (addend.a.dim(0) + addend.b.dim(0));
  if (addend_values_ > kAddendValuesMax) add_addends();
}

void CpuBackend::add_addends() {
  low_rank_.reset();
  for (AddendRows& one : addends_) {
    one.compressed = low_rank_.take<float>(one.rows * one.addend->a.dim(0));
    plan(one.addend->a, for_dot(addend_x_.data() + one.first, one.rows), one.compressed);
  }
  multiply(kernels_.dot_f32);
  const Packing packing = f32_packing(kernels_);
  for (AddendRows& one : addends_) {
    const std::int64_t rank = one.addend->a.dim(0), outputs = one.addend->b.dim(0);
    const std::int64_t stride = packing.bytes(rank) + kPackedPadding;
    auto* packed = low_rank_.take<std::byte>(one.rows * stride);
    const void** pointers = addend_x_.data() + one.first;
    for_ranges(pool_, one.rows, rows_of_task(rank), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        packing.pack(one.compressed + t * rank, rank, packed + t * stride);
        pointers[t] = packed + t * stride;
      }
    });
    one.expanded = low_rank_.take<float>(one.rows * outputs);
    plan(one.addend->b, for_dot(pointers, one.rows), one.expanded);
  }
  multiply(kernels_.dot_f32);
  for (const AddendRows& one : addends_) {
    const std::int64_t outputs = one.addend->b.dim(0);
    float* const* out = addend_out_.data() + one.first;
    for_ranges(pool_, one.rows, rows_of_task(outputs), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t)
        kernels_.add_scaled(one.expanded + t * outputs, one.addend->scale, outputs, out[t]);
    });
  }
  addends_.clear();
  addend_x_.clear();
  addend_out_.clear();
  addend_values_ = 0;
}

}  // namespace m3::cpu
