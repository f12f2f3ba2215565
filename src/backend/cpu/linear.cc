// Linear layers: x is packed once, then tasks of (some outputs) x (some rows) run the dot kernel of
// loops_dot.h. All outputs of a call are one parallel loop, so that narrow ones (the keys of four
// heads, the index) do not leave threads without work. How the work is cut changes no sum.
#include <algorithm>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/panels.h"
#include "ops/arguments.h"

namespace m3::cpu {
namespace {

// Of a product, for each thread: those that end late leave something to steal.
constexpr std::int64_t kTasksPerThread = 8;
// With few rows a task is little more than reading its weights. 64 outputs of them are streams long
// enough for the memory (Zen 4, one core, BF16: 27 GB/s; 25 with 16 outputs); small matrices, or
// many threads, make do with 16: 100-200 KB, some ten microseconds.
constexpr std::int64_t kFewRows = 12;
constexpr std::int64_t kFewRowsOutputsMin = 16, kFewRowsOutputsMax = 64;
// Rows of such a task: fewer would be too little work for the weights that it fetches; more would
// not stay in the third-level cache (512 x 6144: 6 MiB) while all weights pass by.
constexpr std::int64_t kRowsMin = 48, kRowsMax = 512;

WeightFormat format_of(const Matrix& w) {
  switch (w.codec->format) {
    case Format::kBF16:
      return WeightFormat::kBF16;
    case Format::kMxfp8:
      return WeightFormat::kMxfp8;
    case Format::kF16:
      return WeightFormat::kF16;
    case Format::kF32:
      return WeightFormat::kF32;
    case Format::kMxfp4:
      return WeightFormat::kMxfp4;
    case Format::kNvfp4:
      return WeightFormat::kNvfp4;
    case Format::kInt8:
      return WeightFormat::kInt8;
  }
  M3_CHECK(false, "format {} has no kernel", w.codec->name);
}

WeightRows stored_rows(const Matrix& w) {
  return {format_of(w), w.values.data, static_cast<const std::uint8_t*>(w.scales.data), w.scale};
}

// Outputs [begin, ...) of w.
WeightRows rows_from(const WeightRows& w, std::int64_t begin, std::int64_t k) {
  WeightRows rows = w;
  rows.values = static_cast<const std::byte*>(w.values) + begin * value_row_bytes(w.format, k);
  if (w.scales != nullptr) rows.scales = w.scales + begin * scale_row_bytes(w.format, k);
  return rows;
}

// x packed as panel_dot_int8 wants it, or as dot and panel_dot do.
bool wants_int8(const Matrix& w) {
  return w.packed != nullptr && w.codec->format == Format::kInt8;
}

void add_form(const Matrix& w, XForms& forms) {
  (wants_int8(w) ? forms.int8 : forms.bf16) = true;
}

// Outputs from `output` on, of the rows from `row` on.
void run_panels(const Kernels& kernels, const Product& p, std::int64_t row, std::int64_t output,
                void* scratch) {
  const bool int8 = p.w.format == WeightFormat::kInt8;
  const PanelJob job{.x = (int8 ? p.x.int8 : p.x.packed) + row,
                     .rows = std::min(p.row_block, p.x.rows - row),
                     .format = p.w.format,
                     .panels = p.panels + output / kPanelOutputs * panel_bytes(p.w.format, p.k),
                     .outputs = std::min(p.output_block, p.outputs - output),
                     .k = p.k,
                     .scale = p.w.scale,
                     .out = p.out + row * p.outputs + output,
                     .out_stride = p.outputs,
                     .scratch = scratch};
  (int8 ? kernels.panel_dot_int8 : kernels.panel_dot)(job);
}

void run_task(const Kernels& kernels, const Product& p, std::int64_t task, Kernels::Dot dot,
              void* scratch) {
  const std::int64_t row = task / p.output_blocks * p.row_block;
  const std::int64_t output = task % p.output_blocks * p.output_block;
  if (p.panels != nullptr) return run_panels(kernels, p, row, output, scratch);
  dot({.x = p.x.packed + row / p.x.panel_rows,
       .rows = std::min(p.row_block, p.x.rows - row),
       .w = rows_from(p.w, output, p.k),
       .outputs = std::min(p.output_block, p.outputs - output),
       .k = p.k,
       .out = p.out + row * p.outputs + output,
       .out_stride = p.outputs,
       .scratch = scratch});
}

std::int64_t blocks_of(std::int64_t n, std::int64_t block) {
  return (n + block - 1) / block;
}

void cut(Product& p, int threads) {
  const std::int64_t rows = p.x.rows;
  if (p.x.panel_rows == 1 || p.panels != nullptr) {
    const bool few = rows <= kFewRows;
    const std::int64_t even = p.outputs / (kTasksPerThread * threads);
    p.output_block = few ? std::clamp(even / kPanelOutputs * kPanelOutputs, kFewRowsOutputsMin,
                                      kFewRowsOutputsMax)
                     : p.panels != nullptr ? kPanelOutputBlock
                                           : kOutputBlock;
    p.output_blocks = blocks_of(p.outputs, p.output_block);
    const std::int64_t for_threads = blocks_of(kTasksPerThread * threads, p.output_blocks);
    const std::int64_t blocks =
        few ? 1 : std::clamp(for_threads, blocks_of(rows, kRowsMax), blocks_of(rows, kRowsMin));
    p.row_block = blocks_of(rows, blocks);
    return;
  }
  // Equal blocks: one of a few rows would decode all weights for them. Wide tasks only where there
  // are rows enough for many tasks.
  const std::int64_t blocks = blocks_of(rows, kTileRowBlock);
  p.row_block = blocks_of(rows, blocks * kXPanelRows) * kXPanelRows;
  p.output_block = rows <= 128 ? 32 : rows <= kTileRowBlock ? 64 : kTileOutputBlock;
  p.output_blocks = blocks_of(p.outputs, p.output_block);
}

}  // namespace

// Tiles read bfloat16 that was decoded from rows; the integer units of such machines read panels.
std::int64_t CpuBackend::packed_bytes(const Matrix& w) const {
  const WeightFormat format = format_of(w);
  if (!has_panels(format)) return 0;
  if (kernels_.x_panel_rows > 1 && format != WeightFormat::kInt8) return 0;
  return weight_panel_bytes(format, w.rows, w.cols);
}

void CpuBackend::pack(const Matrix& w, std::byte* out) {
  for_ranges(pool_, panels_of(w.rows), 4, [&](std::int64_t begin, std::int64_t end) {
    pack_panels(stored_rows(w), w.rows, w.cols, begin, end, out);
  });
}

const void* const* CpuBackend::pack_rows(Packing packing, const float* x, std::int64_t rows,
                                         std::int64_t k, OpScratch& scratch) {
  const std::int64_t stride = packing.bytes(k) + kPackedPadding;
  const std::int64_t pointer_bytes =
      (rows * static_cast<std::int64_t>(sizeof(void*)) + 63) / 64 * 64;
  auto* bytes = scratch.take<std::byte>(pointer_bytes + rows * stride);
  auto** pointers = reinterpret_cast<const void**>(bytes);
  std::byte* packed = bytes + pointer_bytes;
  const std::int64_t grain = std::max<std::int64_t>(1, 32768 / std::max<std::int64_t>(1, k));
  for_ranges(pool_, rows, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      pointers[t] = packed + t * stride;
      packing.pack(x + t * k, k, packed + t * stride);
    }
  });
  return pointers;
}

void CpuBackend::plan(Product p) {
  if (p.x.rows == 0 || p.outputs == 0) return;
  cut(p, pool_.threads());
  p.first_task = planned_tasks_;
  planned_tasks_ += p.output_blocks * blocks_of(p.x.rows, p.row_block);
  products_.push_back(p);
}

void CpuBackend::plan(const Matrix& w, const PackedX& x, float* out) {
  plan({.w = stored_rows(w),
        .panels = w.packed,
        .outputs = w.rows,
        .k = w.cols,
        .x = x,
        .out = out});
}

void CpuBackend::plan(const Tensor& w, const PackedX& x, float* out) {
  plan({.w = {WeightFormat::kF32, w.as<float>(), nullptr},
        .outputs = w.dim(0),
        .k = w.dim(1),
        .x = x,
        .out = out});
}

void CpuBackend::multiply(Kernels::Dot dot) {
  tasks_.reserve(kDotScratchBytes);
  for_each_task(pool_, planned_tasks_, [&](std::int64_t task) {
    const auto after =
        std::upper_bound(products_.begin(), products_.end(), task,
                         [](std::int64_t t, const Product& p) { return t < p.first_task; });
    const Product& product = *std::prev(after);
    TaskScratch::Slice slice(tasks_);
    run_task(kernels_, product, task - product.first_task, dot,
             slice.take<std::byte>(kDotScratchBytes));
  });
  products_.clear();
  planned_tasks_ = 0;
}

// In float32: B (A x) is small beside W x, and training wants its gradients exact.
void CpuBackend::add_low_rank(const LowRank& addend, const PackedX& x, float* out) {
  const std::int64_t rows = x.rows, rank = addend.a.dim(0), outputs = addend.b.dim(0);
  float* compressed = low_rank_.take<float>(rows * (rank + outputs));
  float* expanded = compressed + rows * rank;
  plan(addend.a, x, compressed);
  multiply(kernels_.dot_f32);
  const void* const* packed = pack_rows(packing_f32(), compressed, rows, rank, low_rank_packed_);
  plan(addend.b, {packed, rows}, expanded);
  multiply(kernels_.dot_f32);
  for_each_task(pool_, rows, [&](std::int64_t t) {
    kernels_.add_scaled(expanded + t * outputs, addend.scale, outputs, out + t * outputs);
  });
}

void CpuBackend::linear(const Tensor& x, std::span<const LinearOutput> outputs) {
  expect_rank("linear: x", x, 2);
  const std::int64_t rows = x.dim(0), k = x.dim(1);
  XForms forms;
  for (const LinearOutput& output : outputs) add_form(output.linear->weight, forms);
  const PackedX packed = pack_x(x, forms);
  bool has_addend = false;
  for (const LinearOutput& output : outputs) {
    const Linear& linear = *output.linear;
    expect_linear("linear: weight", linear, k);
    expect_tensor("linear: out", output.out, DType::kF32, {rows, linear.weight.rows});
    plan(linear.weight, packed, output.out.as<float>());
    has_addend |= linear.addend != nullptr;
  }
  multiply(kernels_.dot);
  if (!has_addend || rows == 0) return;
  const void* const* exact = pack_rows(packing_f32(), x.as<float>(), rows, k, packed_f32_);
  for (const LinearOutput& output : outputs)
    if (output.linear->addend != nullptr)
      add_low_rank(*output.linear->addend, {exact, rows}, output.out.as<float>());
}

void CpuBackend::grouped_linear(const Tensor& x, const Dispatch& dispatch, bool gather,
                                std::span<const GroupedOutput> outputs) {
  expect_rank("grouped_linear: x", x, 2);
  const std::int64_t experts = expect_dispatch("grouped_linear: dispatch", dispatch);
  const std::int64_t rows = dispatch.rows.dim(0), k = x.dim(1);
  const std::int32_t* offsets = dispatch.offsets.as<std::int32_t>();
  if (gather) expect_ids("grouped_linear: rows", dispatch.rows, x.dim(0));
  M3_CHECK(gather || x.dim(0) == rows, "grouped_linear: x {} for {} dispatched rows", x.describe(),
           rows);
  M3_CHECK(
      offsets[0] == 0 && offsets[experts] <= rows && std::is_sorted(offsets, offsets + experts + 1),
      "grouped_linear: offsets run from {} to {}, not from 0 to at most {}", offsets[0],
      offsets[experts], rows);
  input_rows_.resize(static_cast<std::size_t>(rows));
  for (std::int64_t r = 0; r < rows; ++r)
    input_rows_[static_cast<std::size_t>(r)] =
        gather ? std::int64_t{dispatch.rows.as<std::int32_t>()[r]} : r;

  XForms forms;
  for (const GroupedOutput& output : outputs)
    if (!output.experts.empty()) add_form(output.experts[0].weight, forms);
  pack_groups(x, forms, offsets, experts);
  bool has_addend = false;
  for (const GroupedOutput& output : outputs) {
    M3_CHECK(std::ssize(output.experts) == experts, "grouped_linear: {} experts, offsets for {}",
             output.experts.size(), experts);
    for (std::int64_t e = 0; e < experts; ++e) {
      if (offsets[e] == offsets[e + 1]) continue;
      const Linear& expert = output.experts[static_cast<std::size_t>(e)];
      expect_linear("grouped_linear: weight", expert, k);
      expect_tensor("grouped_linear: out", output.out, DType::kF32, {rows, expert.weight.rows});
      plan(expert.weight, groups_x_[static_cast<std::size_t>(e)],
           output.out.row<float>(offsets[e]));
      has_addend |= expert.addend != nullptr;
    }
  }
  multiply(kernels_.dot);
  if (!has_addend) return;

  const void* const* exact = pack_rows(packing_f32(), x.as<float>(), x.dim(0), k, packed_f32_);
  pointers_.clear();
  for (const std::int64_t row : input_rows_) pointers_.push_back(exact[row]);
  for (const GroupedOutput& output : outputs)
    for (std::int64_t e = 0; e < experts; ++e) {
      const LowRank* addend = output.experts[static_cast<std::size_t>(e)].addend;
      if (addend == nullptr || offsets[e] == offsets[e + 1]) continue;
      add_low_rank(*addend, {pointers_.data() + offsets[e], offsets[e + 1] - offsets[e]},
                   output.out.row<float>(offsets[e]));
    }
}

}  // namespace m3::cpu
