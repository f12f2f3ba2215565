// Rotations, and the heads that are normalised and rotated: queries, and keys on their way into the
// cache (spec: text-model §3.3, §3.4). All in float32; rounded once, when stored in pairs.
#include <algorithm>
#include <cmath>

#include "backend/cpu/cpu_gradients.h"
#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/page_product.h"
#include "backend/cpu/paging.h"
#include "ops/arguments.h"

namespace m3::cpu {
namespace {

// One token's numbers to their places in a page.
template <typename T>
void scatter(const T* x, const PagePart& page, std::int64_t token) {
  auto* out = reinterpret_cast<T*>(page.data);
  const PairedMatrix shape = page.paired();
  if (page.sums_tokens) {
    for (std::int64_t panel = 0; panel < page.dim; panel += kPagePanel) {
      T* at = out + shape.place(token, panel);
      const std::int64_t columns = std::min(kPagePanel, page.dim - panel);
      for (std::int64_t c = 0; c < columns; ++c) at[2 * c] = x[panel + c];
    }
    return;
  }
  T* at = out + shape.place(0, token);
  const std::int64_t stride = 2 * shape.panel_columns(token / kPagePanel * kPagePanel);
  for (std::int64_t i = 0; i + 1 < page.dim; i += 2, at += stride) {
    at[0] = x[i];
    at[1] = x[i + 1];
  }
  if (page.dim % 2 != 0) {
    at[0] = x[page.dim - 1];
    at[1] = 0;
  }
}

// Tokens that one task stores: neighbours share lines of their page.
std::int64_t store_grain(std::int64_t rows, const ThreadPool& pool) {
  return std::clamp<std::int64_t>(rows / (4 * pool.threads()), 1, 32);
}

}  // namespace

void CpuBackend::rope_table(const Tensor& positions, const Rope& rope, const Tensor& out) {
  const std::int64_t axes = expect_rope_table(positions, rope, out);
  const std::int64_t frequencies = rope.inv_freq.dim(0), half = axes * frequencies;
  for_ranges(pool_, out.dim(0), 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      float* row = out.row<float>(t);
      for (std::int64_t i = 0; i < half; ++i) {
        const auto position = static_cast<float>(positions.row<std::int64_t>(t)[i / frequencies]);
        const float angle = position * rope.inv_freq.as<float>()[i % frequencies];
        row[i] = rope.scale * std::cos(angle);
        row[half + i] = rope.scale * std::sin(angle);
      }
    }
  });
}

void CpuBackend::rotate(const Tensor& rotations, std::int64_t dim, const Tensor& x) {
  expect_rotations("rotate", rotations, dim, x);
  for_each_task(pool_, x.dim(0), [&](std::int64_t row) {
    float* head = x.row<float>(row);
    for (std::int64_t at = 0; at < x.dim(1); at += dim)
      kernels_.rotate(head + at, rotations.row<float>(row), rotations.dim(1));
  });
}

void CpuBackend::norm_rope_head(const float* x, std::int64_t dim, const HeadNorm& norm,
                                std::int64_t row, float* out) const {
  if (norm.weight)
    kernels_.rms_norm(x, {norm.weight.as<float>(), norm.eps, dim}, out);
  else
    std::copy(x, x + dim, out);
  kernels_.rotate(out, norm.rotations.row<float>(row), norm.rotations.dim(1));
}

void CpuBackend::store_token(const float* x, const PagePart& page, std::int64_t token,
                             void* scratch) const {
  if (page.dtype == DType::kBF16) {
    auto* rounded = static_cast<std::uint16_t*>(scratch);
    kernels_.to_bf16(x, page.dim, rounded);
    scatter(rounded, page, token);
  } else {
    auto* rounded = static_cast<std::uint8_t*>(scratch);
    std::transform(x, x + page.dim, rounded, float_to_e4m3);
    scatter(rounded, page, token);
  }
}

void CpuBackend::norm_rope(const Tensor& x, const HeadNorm& norm, const Tensor& out) {
  expect_rank("norm_rope: x", x, 2);
  const std::int64_t rows = x.dim(0), width = x.dim(1), dim = norm.weight.dim(0);
  expect_head_norm("norm_rope: norm", norm, rows, dim);
  expect_tensor("norm_rope: out", out, DType::kF32, {rows, width});
  M3_CHECK(width % dim == 0, "norm_rope: rows of {} in heads of {}", width, dim);
  for_each_task(pool_, rows, [&](std::int64_t row) {
    for (std::int64_t at = 0; at < width; at += dim)
      norm_rope_head(x.row<float>(row) + at, dim, norm, row, out.row<float>(row) + at);
  });
}

void CpuBackend::store_kv(const Tensor& k, const Tensor& v, const HeadNorm& norm, const Rows& rows,
                          const KvView& cache) {
  expect_cache("store_kv: cache", cache);
  expect_rank("store_kv: k", k, 2);
  const std::int64_t count = k.dim(0), dim = cache.head_dim;
  expect_tensor("store_kv: k", k, DType::kF32, {count, cache.kv_heads * dim});
  expect_tensor("store_kv: v", v, DType::kF32, {count, cache.kv_heads * dim});
  expect_head_rotation("store_kv: norm", norm, count, dim);
  expect_rows("store_kv: rows", rows, count);
  expect_pairs("store_kv", cache);
  tasks_.reserve(2 * TaskScratch::bytes_for<float>(dim));
  for_ranges(pool_, count, store_grain(count, pool_), [&](std::int64_t begin, std::int64_t end) {
    TaskScratch::Slice slice(tasks_);
    float* key = slice.take<float>(dim);
    void* rounded = slice.take<float>(dim);
    for (std::int64_t row = begin; row < end; ++row) {
      const SeenPages seen(rows, row, cache.page_tokens);
      const std::int64_t page = seen.page(seen.count() - 1);
      const std::int64_t token = seen.slot() % cache.page_tokens;
      for (std::int64_t h = 0; h < cache.kv_heads; ++h) {
        norm_rope_head(k.row<float>(row) + h * dim, dim, norm, row, key);
        store_token(key, cache.keys(page, h), token, rounded);
        store_token(v.row<float>(row) + h * dim, cache.values(page, h), token, rounded);
      }
    }
  });
}

void CpuBackend::store_index(const Tensor& k, const HeadNorm& norm, const Rows& rows,
                             const IndexView& cache) {
  expect_cache("store_index: cache", cache);
  expect_rank("store_index: k", k, 2);
  const std::int64_t count = k.dim(0);
  expect_tensor("store_index: k", k, DType::kF32, {count, cache.dim});
  expect_head_norm("store_index: norm", norm, count, cache.dim);
  expect_rows("store_index: rows", rows, count);
  expect_pairs("store_index", cache);
  tasks_.reserve(2 * TaskScratch::bytes_for<float>(cache.dim));
  for_ranges(pool_, count, store_grain(count, pool_), [&](std::int64_t begin, std::int64_t end) {
    TaskScratch::Slice slice(tasks_);
    float* key = slice.take<float>(cache.dim);
    void* rounded = slice.take<float>(cache.dim);
    for (std::int64_t row = begin; row < end; ++row) {
      const SeenPages seen(rows, row, cache.page_tokens);
      norm_rope_head(k.row<float>(row), cache.dim, norm, row, key);
      store_token(key, cache.keys(seen.page(seen.count() - 1)), seen.slot() % cache.page_tokens,
                  rounded);
    }
  });
}

void CpuGradients::norm_rope(const Tensor& x, const HeadNorm& norm, const Tensor& d_out,
                             const Tensor& d_x, const Tensor& d_weight) {
  expect_rank("norm_rope gradient: x", x, 2);
  const std::int64_t rows = x.dim(0), width = x.dim(1), dim = norm.weight.dim(0);
  const std::int64_t rotary = norm.rotations.dim(1), half = rotary / 2;
  expect_head_norm("norm_rope gradient: norm", norm, rows, dim);
  M3_CHECK(width % dim == 0, "norm_rope gradient: rows of {} are no heads of {}", width, dim);
  expect_tensor("norm_rope gradient: d_out", d_out, DType::kF32, {rows, width});
  expect_tensor("norm_rope gradient: d_x", d_x, DType::kF32, {rows, width});
  tasks_.reserve(TaskScratch::bytes_for<float>(rotary));
  for_rows_and_weight(rows, d_weight, dim, [&](std::int64_t row, float* d_share) {
    TaskScratch::Slice slice(tasks_);
    float* back = slice.take<float>(rotary);  // by the opposite angles
    std::copy_n(norm.rotations.row<float>(row), half, back);
    for (std::int64_t i = half; i < rotary; ++i) back[i] = -norm.rotations.row<float>(row)[i];
    for (std::int64_t at = 0; at < width; at += dim) {
      float* d = d_x.row<float>(row) + at;
      const float* given = d_out.row<float>(row) + at;
      if (d != given) std::copy_n(given, dim, d);
      kernels_.rotate(d, back, rotary);
      kernels_.rms_norm_gradient({.x = x.row<float>(row) + at,
                                  .norm = {norm.weight.as<float>(), norm.eps, dim},
                                  .d_out = d,
                                  .d_x = d,
                                  .d_weight = d_share});
    }
  });
}

}  // namespace m3::cpu
