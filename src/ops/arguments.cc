#include "ops/arguments.h"

#include <algorithm>

#include "base/check.h"
#include "ops/gradients.h"

namespace m3 {
namespace {

void expect_cache_dtype(std::string_view what, DType dtype) {
  M3_CHECK(dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF8E4M3,
           "{} is of {}, not F32, BF16 or F8_E4M3", what, dtype_name(dtype));
}

// Rotations of `rows` rows for heads of `dim`.
void expect_rotation_table(std::string_view what, const Tensor& rotations, std::int64_t rows,
                           std::int64_t dim) {
  expect_rank(what, rotations, 2);
  const std::int64_t rotary_dim = rotations.dim(1);
  expect_tensor(what, rotations, DType::kF32, {rows, rotary_dim});
  M3_CHECK(rotary_dim <= dim && rotary_dim % 2 == 0, "{}: {} rotated of {}", what, rotary_dim, dim);
}

void expect_low_rank(std::string_view what, const LowRank& addend, std::int64_t outputs,
                     std::int64_t cols) {
  M3_CHECK(addend.a.rank == 2, "{}: A is {}", what, addend.a.describe());
  const std::int64_t rank = addend.a.dim(0);
  expect_tensor(what, addend.a, DType::kF32, {rank, cols});
  expect_tensor(what, addend.b, DType::kF32, {outputs, rank});
}

}  // namespace

void expect_tensor(std::string_view what, const Tensor& tensor, DType dtype,
                   std::initializer_list<std::int64_t> shape) {
  const bool same_shape = tensor.rank == static_cast<int>(shape.size()) &&
                          std::equal(shape.begin(), shape.end(), tensor.shape.begin());
  M3_CHECK(tensor.dtype == dtype && same_shape, "{} is {}, expected {} {}", what, tensor.describe(),
           dtype_name(dtype), describe_shape(std::span(shape.begin(), shape.size())));
  M3_CHECK(tensor.data != nullptr || tensor.elements() == 0, "{} {} has no data", what,
           tensor.describe());
}

void expect_rank(std::string_view what, const Tensor& tensor, int rank) {
  M3_CHECK(tensor.rank == rank && tensor.dtype == DType::kF32, "{} is {}, expected F32 of rank {}",
           what, tensor.describe(), rank);
}

void expect_matrix(std::string_view what, const Matrix& matrix, std::int64_t rows,
                   std::int64_t cols) {
  M3_CHECK(matrix.codec != nullptr, "{} has no format", what);
  M3_CHECK(matrix.rows == rows && matrix.cols == cols, "{} is [{}, {}], expected [{}, {}]", what,
           matrix.rows, matrix.cols, rows, cols);
  const Codec& codec = *matrix.codec;
  expect_tensor(what, matrix.values, codec.values_dtype, {rows, values_cols(codec, cols)});
  M3_CHECK(matrix.scale == 1 || codec.whole_scale != nullptr, "{} is {} with a factor of {}", what,
           codec.name, matrix.scale);
  if (codec.scale_columns == 0) return;
  M3_CHECK(matrix.scales.rank == 2 && matrix.scales.dim(0) == rows &&
               matrix.scales.dim(1) == scale_cols(codec, cols),
           "{} has scales {}, expected [{}, {}]", what, matrix.scales.describe(), rows,
           scale_cols(codec, cols));
}

void expect_ids(std::string_view what, const Tensor& ids, std::int64_t limit, std::int64_t least) {
  const std::int32_t* id = ids.as<std::int32_t>();
  for (std::int64_t i = 0; i < ids.elements(); ++i)
    M3_CHECK(id[i] >= least && id[i] < limit, "{}: entry {} is {}, expected one in [{}, {})", what,
             i, id[i], least, limit);
}

void expect_rows(std::string_view what, const Rows& rows, std::int64_t count) {
  expect_tensor(what, rows.slots, DType::kI64, {count});
  expect_tensor(what, rows.sequences, DType::kI32, {count});
  M3_CHECK(rows.pages.rank == 2, "{}: pages are {}, expected rank 2", what, rows.pages.describe());
  expect_ids(what, rows.sequences, rows.pages.dim(0));
  const std::int64_t* slot = rows.slots.as<std::int64_t>();
  for (std::int64_t row = 0; row < count; ++row)
    M3_CHECK(slot[row] >= 0, "{}: slot of row {} is {}", what, row, slot[row]);
  if (!rows.mask.bias) return;
  const std::int64_t* last = rows.mask.last_slots.as<std::int64_t>();
  expect_tensor(what, rows.mask.last_slots, DType::kI64, {count});
  const std::int64_t slots = count == 0 ? 0 : *std::max_element(last, last + count) + 1;
  M3_CHECK(rows.mask.bias.rank == 2 && rows.mask.bias.dim(1) >= slots, "{}: a mask {} for {} slots",
           what, rows.mask.bias.describe(), slots);
  expect_tensor(what, rows.mask.bias, DType::kF32, {count, rows.mask.bias.dim(1)});
}

void expect_cache(std::string_view what, const KvView& cache) {
  expect_cache_dtype(what, cache.dtype);
  const std::int64_t head_bytes = cache.head_bytes();
  M3_CHECK(cache.page_tokens > 0 && cache.kv_heads > 0 && cache.head_dim > 0,
           "{}: page of {} tokens, {} heads of {}", what, cache.page_tokens, cache.kv_heads,
           cache.head_dim);
  M3_CHECK(cache.head_stride >= head_bytes && cache.page_stride >= head_bytes,
           "{}: strides {} and {} hold no {} bytes", what, cache.head_stride, cache.page_stride,
           head_bytes);
}

void expect_cache(std::string_view what, const IndexView& cache) {
  expect_cache_dtype(what, cache.dtype);
  M3_CHECK(cache.page_tokens > 0 && cache.dim > 0, "{}: page of {} tokens of {}", what,
           cache.page_tokens, cache.dim);
  const std::int64_t page_bytes = cache.keys(0).bytes();
  M3_CHECK(cache.page_stride >= page_bytes, "{}: stride {} holds no {} bytes", what,
           cache.page_stride, page_bytes);
}

void expect_linear(std::string_view what, const Linear& linear, std::int64_t cols) {
  const std::int64_t outputs = linear.weight.rows;
  expect_matrix(what, linear.weight, outputs, cols);
  M3_CHECK(linear.addend == nullptr || linear.addends.empty(),
           "{}: an addend of every row, and {} that rows name", what, linear.addends.size());
  if (linear.addend != nullptr) expect_low_rank(what, *linear.addend, outputs, cols);
  for (const LowRank* addend : linear.addends)
    if (addend != nullptr) expect_low_rank(what, *addend, outputs, cols);
}

const std::int32_t* expect_adapters(std::string_view what, const Tensor& adapters,
                                    std::int64_t rows, const Linear& linear) {
  if (!adapters) return nullptr;
  if (!linear.addends.empty()) {
    expect_tensor(what, adapters, DType::kI32, {rows});
    expect_ids(what, adapters, static_cast<std::int64_t>(linear.addends.size()), /*least=*/-1);
  }
  return adapters.as<std::int32_t>();
}

// Experts that have addends have them of equally many adapters.
const std::int32_t* expect_adapters(std::string_view what, const Tensor& adapters,
                                    const Dispatch& dispatch,
                                    std::span<const GroupedOutput> outputs) {
  if (!adapters) return nullptr;
  const std::int64_t tokens = dispatch.places.dim(0);
  expect_ids(what, dispatch.rows, tokens);
  const auto has_some = [](const Linear& expert) { return !expert.addends.empty(); };
  for (const GroupedOutput& output : outputs) {
    const auto adapted = std::find_if(output.experts.begin(), output.experts.end(), has_some);
    if (adapted != output.experts.end()) expect_adapters(what, adapters, tokens, *adapted);
  }
  return adapters.as<std::int32_t>();
}

void expect_head_norm(std::string_view what, const HeadNorm& norm, std::int64_t rows,
                      std::int64_t dim) {
  expect_tensor(what, norm.weight, DType::kF32, {dim});
  expect_head_rotation(what, norm, rows, dim);
}

void expect_head_rotation(std::string_view what, const HeadNorm& norm, std::int64_t rows,
                          std::int64_t dim) {
  if (norm.weight) expect_tensor(what, norm.weight, DType::kF32, {dim});
  expect_rotation_table(what, norm.rotations, rows, dim);
}

std::int64_t expect_rope_table(const Tensor& positions, const Rope& rope, const Tensor& out) {
  const std::int64_t tokens = positions.dim(0);
  const std::int64_t axes = positions.rank == 1 ? 1 : positions.dim(1);
  M3_CHECK(positions.dtype == DType::kI64 && positions.rank <= 2, "rope_table: positions are {}",
           positions.describe());
  expect_rank("rope_table: inv_freq", rope.inv_freq, 1);
  expect_tensor("rope_table: out", out, DType::kF32, {tokens, 2 * axes * rope.inv_freq.dim(0)});
  return axes;
}

void expect_rotations(std::string_view what, const Tensor& rotations, std::int64_t dim,
                      const Tensor& x) {
  expect_rank(what, x, 2);
  expect_rotation_table(what, rotations, x.dim(0), dim);
  M3_CHECK(x.dim(1) % dim == 0, "{}: rows of {} in heads of {}", what, x.dim(1), dim);
}

std::int64_t expect_segments(const Tensor& q, const Tensor& k, const Tensor& v,
                             const Tensor& segments, std::int64_t dim, const Tensor& out) {
  expect_rank("segment_attention: q", q, 2);
  const std::int64_t rows = q.dim(0), width = q.dim(1);
  M3_CHECK(dim > 0 && width % dim == 0, "segment_attention: rows of {} in heads of {}", width, dim);
  for (const Tensor& other : {k, v, out})
    expect_tensor("segment_attention: k, v, out", other, DType::kF32, {rows, width});
  M3_CHECK(segments.rank == 1 && segments.dim(0) >= 1, "segment_attention: segments are {}",
           segments.describe());
  expect_tensor("segment_attention: segments", segments, DType::kI32, {segments.dim(0)});
  const std::int32_t* first = segments.as<std::int32_t>();
  const std::int32_t* last = first + segments.dim(0) - 1;
  M3_CHECK(*first == 0 && *last == rows && std::is_sorted(first, last + 1),
           "segment_attention: segments run from {} to {}, not rising from 0 to {}", *first, *last,
           rows);
  return segments.dim(0) - 1;
}

void expect_undispatch(const Tensor& d, const Dispatch& dispatch, const Tensor& d_x) {
  expect_dispatch("undispatch: dispatch", dispatch);
  expect_rank("undispatch: d_x", d_x, 2);
  const std::int64_t tokens = dispatch.places.dim(0), k = dispatch.places.dim(1);
  expect_tensor("undispatch: d", d, DType::kF32, {tokens * k, d_x.dim(1)});
  expect_tensor("undispatch: d_x", d_x, DType::kF32, {tokens, d_x.dim(1)});
  expect_ids("undispatch: places", dispatch.places, tokens * k);
}

void expect_cross_entropy(const Tensor& logits, const Tensor& labels, const Tensor& losses) {
  expect_rank("cross_entropy: logits", logits, 2);
  const std::int64_t rows = logits.dim(0);
  expect_tensor("cross_entropy: labels", labels, DType::kI32, {rows});
  expect_tensor("cross_entropy: losses", losses, DType::kF32, {rows});
}

void expect_divergence(const Tensor& index_q, const Rows& rows, const IndexView& index,
                       const Selection& selection, const Tensor& blocks,
                       const AttentionScores& attention, const RankingMeasures& measures,
                       const Tensor& d_q, const Tensor& d_k) {
  const KvView& cache = attention.cache;
  const std::int64_t count = index_q.dim(0), heads = cache.kv_heads, dim = index.dim;
  expect_cache("divergence: index", index);
  expect_cache("divergence: cache", cache);
  expect_tensor("divergence: index_q", index_q, DType::kF32, {count, heads * dim});
  expect_tensor("divergence: d_q", d_q, DType::kF32, {count, heads * dim});
  expect_tensor("divergence: d_k", d_k, DType::kF32, {count, dim});
  expect_tensor("divergence: blocks", blocks, DType::kI32, {count, heads, selection.topk});
  for (const Tensor& out : {measures.divergences, measures.overlaps, measures.masses})
    expect_tensor("divergence: out", out, DType::kF32, {count, heads});
  expect_rank("divergence: q", attention.q, 2);
  M3_CHECK(attention.q.dim(0) == count && attention.q.dim(1) % (heads * cache.head_dim) == 0,
           "divergence: q {} for {} rows and {} heads of {}", attention.q.describe(), count, heads,
           cache.head_dim);
  expect_rows("divergence: rows", rows, count);
}

void expect_addend(const Tensor& x, const Tensor& sum) {
  const bool same = x.rank == sum.rank && x.shape == sum.shape;
  const bool one_row = x.rank == 1 && sum.rank == 2 && x.dim(0) == sum.dim(1);
  M3_CHECK(x.dtype == DType::kF32 && sum.dtype == DType::kF32 && (same || one_row), "add: {} to {}",
           x.describe(), sum.describe());
}

std::int64_t expect_dispatch(std::string_view what, const Dispatch& d) {
  M3_CHECK(d.places.rank == 2 && d.offsets.rank == 1 && d.offsets.dim(0) >= 1,
           "{}: places {}, offsets {}", what, d.places.describe(), d.offsets.describe());
  expect_tensor(what, d.offsets, DType::kI32, {d.offsets.dim(0)});
  expect_tensor(what, d.rows, DType::kI32, {d.places.elements()});
  expect_tensor(what, d.places, DType::kI32, {d.places.dim(0), d.places.dim(1)});
  return d.offsets.dim(0) - 1;
}

}  // namespace m3
