// Linear layers: x is packed once, then tasks of (some outputs) x (some rows) run a kernel of
// loops_panels.h, loops_dot.h or loops_amx.h. All outputs of a call are one parallel loop, so that
// narrow ones (the keys of four heads, the index) do not leave threads without work. How the work
// is cut changes no sum.
#include <algorithm>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/panels.h"
#include "backend/cpu/weight_rows.h"
#include "ops/arguments.h"

namespace m3::cpu {
namespace {

// Of a product, for each thread: those that end late leave something to steal.
constexpr std::int64_t kTasksPerThread = 8;
// With few rows a task is little more than reading its weights, of 64 outputs as in panels; where
// they are read as stored, small matrices, or many threads, make do with 16.
constexpr std::int64_t kFewRows = 12;
constexpr std::int64_t kFewRowsOutputsMin = 16, kFewRowsOutputsMax = 64;
// Rows of such a task: fewer would be too little work for the weights that it fetches; more would
// not stay in the third-level cache (512 x 6144: 6 MiB) while all weights pass by.
constexpr std::int64_t kRowsMin = 48, kRowsMax = kPanelRowsMax;
// Int8 rows pass by chunks of few columns, so a task's must stay in the second-level cache (132 x
// 6144 in int8: 0.9 MiB. 2,048 rows, Emerald Rapids: 0.55 of the int8 peak, 0.43 with 512).
constexpr std::int64_t kInt8RowsMax = 132;

Factor factor_of(const Matrix& w, float* out) {
  return {stored_rows(w), w.packed, out};
}

void add_form(const Matrix& w, XForms& forms) {
  forms[w.packed == nullptr ? XForm::kDot : x_form(format_of(w))] = true;
}

// Whether a row may add something; `adapters`: rows name some.
bool has_addend(const Linear& linear, bool adapters) {
  return linear.addend != nullptr || (adapters && !linear.addends.empty());
}

bool any_has_addend(std::span<const LinearOutput> outputs, bool adapters) {
  return std::any_of(outputs.begin(), outputs.end(), [&](const LinearOutput& output) {
    return has_addend(*output.linear, adapters);
  });
}

// Whether one task can do both: tasks of one layout are cut alike. Addends come before the gate.
bool fuse(const Linear& gate, const Linear& up, bool adapters) {
  return !has_addend(gate, adapters) && !has_addend(up, adapters) &&
         (gate.weight.packed == nullptr) == (up.weight.packed == nullptr);
}

// The rows and outputs of a task.
struct Block {
  std::int64_t row, rows;
  std::int64_t output, outputs;
};

void run_panels(const Kernels& kernels, const Product& p, const Factor& f, const Block& b,
                void* scratch) {
  const XForm form = x_form(f.w.format);
  const PanelJob job{.x = p.x.from(form, b.row),
                     .rows = b.rows,
                     .format = f.w.format,
                     .group = f.panels + group_offset(f.w.format, p.k, b.output / kGroupOutputs),
                     .outputs = b.outputs,
                     .k = p.k,
                     .scale = f.w.scale,
                     .out = f.out + b.row * p.outputs + b.output,
                     .out_stride = p.outputs,
                     .scratch = scratch,
                     .ahead = p.ahead};
  (form == XForm::kInt8 ? kernels.panel_dot_int8 : kernels.panel_dot)(job);
}

void run_factor(const Kernels& kernels, const Product& p, const Factor& f, const Block& b,
                Kernels::Dot dot, void* scratch) {
  if (f.panels != nullptr) return run_panels(kernels, p, f, b, scratch);
  dot({.x = p.x.from(XForm::kDot, b.row),
       .rows = b.rows,
       .w = rows_from(f.w, b.output, p.k),
       .outputs = b.outputs,
       .k = p.k,
       .out = f.out + b.row * p.outputs + b.output,
       .out_stride = p.outputs,
       .scratch = scratch});
}

void run_task(const Kernels& kernels, const Product& p, std::int64_t task, Kernels::Dot dot,
              void* scratch) {
  const std::int64_t row = task / p.output_blocks * p.row_block;
  const std::int64_t output = task % p.output_blocks * p.output_block;
  const Block block{row, std::min(p.row_block, p.x.rows - row), output,
                    std::min(p.output_block, p.outputs - output)};
  run_factor(kernels, p, p.factor, block, dot, scratch);
  if (p.up.out == nullptr) return;
  run_factor(kernels, p, p.up, block, dot, scratch);
  for (std::int64_t r = row; r < row + block.rows; ++r) {
    const std::int64_t at = r * p.outputs + output;
    kernels.swiglu(p.factor.out + at, p.up.out + at, p.swiglu, block.outputs, p.product + at);
  }
}

// Outputs of a task of packed rows.
std::int64_t outputs_of_task(const Product& p, bool few, int threads) {
  if (p.factor.panels != nullptr) return kGroupOutputs;
  if (!few) return kOutputBlock;
  const std::int64_t even = p.outputs / (kTasksPerThread * threads);
  return std::clamp(even / kFewRowsOutputsMin * kFewRowsOutputsMin, kFewRowsOutputsMin,
                    kFewRowsOutputsMax);
}

void cut(Product& p, int threads) {
  const std::int64_t rows = p.x.rows;
  const bool in_panels = p.factor.panels != nullptr;
  if (p.x.panel_rows[in_panels ? x_form(p.factor.w.format) : XForm::kDot] == 1) {
    const bool few = rows <= kFewRows;
    p.output_block = outputs_of_task(p, few, threads);
    p.output_blocks = divide_up(p.outputs, p.output_block);
    const std::int64_t for_threads = divide_up(kTasksPerThread * threads, p.output_blocks);
    const bool int8 = in_panels && x_form(p.factor.w.format) == XForm::kInt8;
    const std::int64_t most = int8 ? kInt8RowsMax : kRowsMax;
    const std::int64_t blocks =
        few ? 1 : std::clamp(for_threads, divide_up(rows, most), divide_up(rows, kRowsMin));
    p.row_block = divide_up(rows, blocks);
    return;
  }
  // Equal blocks: one of a few rows would decode all weights for them. Wide tasks only where there
  // are enough of them.
  const std::int64_t blocks = divide_up(rows, kTileRowBlock);
  p.row_block = divide_up(rows, blocks * kXPanelRows) * kXPanelRows;
  const std::int64_t even = p.outputs * blocks / (kTasksPerThread * threads);
  p.output_block = rows <= kXPanelRows ? kGroupOutputs
                                       : std::clamp(even / kGroupOutputs * kGroupOutputs,
                                                    kGroupOutputs, kTileOutputBlock);
  p.output_blocks = divide_up(p.outputs, p.output_block);
}

}  // namespace

std::int64_t CpuBackend::packed_bytes(const Matrix& w) const {
  const WeightFormat format = format_of(w);
  return has_panels(format) ? weight_panel_bytes(format, w.rows, w.cols) : 0;
}

void CpuBackend::pack(const Matrix& w, std::byte* out) {
  for_ranges(pool_, groups_of(w.rows), 1, [&](std::int64_t begin, std::int64_t end) {
    pack_panels(stored_rows(w), w.rows, w.cols, begin, end, out);
  });
}

void CpuBackend::plan(Product p) {
  if (p.x.rows == 0 || p.outputs == 0) return;
  cut(p, pool_.threads());
  p.ahead = ahead_;
  p.first_task = planned_tasks_;
  planned_tasks_ += p.output_blocks * divide_up(p.x.rows, p.row_block);
  products_.push_back(p);
}

void CpuBackend::plan(const Matrix& w, const PackedX& x, float* out) {
  plan({.factor = factor_of(w, out), .outputs = w.rows, .k = w.cols, .x = x});
}

void CpuBackend::plan_gated(const LinearOutput& gate, const LinearOutput& up, const PackedX& x) {
  const Matrix& w = gate.linear->weight;
  plan({.factor = factor_of(w, gate.out.as<float>()),
        .up = factor_of(up.linear->weight, up.out.as<float>()),
        .swiglu = {gate.swiglu->alpha, gate.swiglu->limit, gate.swiglu->beta},
        .product = gate.activated().as<float>(),
        .outputs = w.rows,
        .k = w.cols,
        .x = x});
}

void CpuBackend::plan(const Tensor& w, const PackedX& x, float* out) {
  plan({.factor = {{WeightFormat::kF32, w.as<float>(), nullptr}, nullptr, out},
        .outputs = w.dim(0),
        .k = w.dim(1),
        .x = x});
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

void CpuBackend::plan_outputs(const PackedX& x, std::span<const LinearOutput> outputs,
                              bool adapters) {
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i].swiglu != nullptr &&
        fuse(*outputs[i].linear, *outputs[i + 1].linear, adapters)) {
      plan_gated(outputs[i], outputs[i + 1], x);
      ++i;
    } else {
      plan(outputs[i].linear->weight, x, outputs[i].out.as<float>());
    }
  }
}

void CpuBackend::multiply_gates(std::span<const LinearOutput> outputs, bool adapters) {
  for (std::size_t i = 0; i + 1 < outputs.size(); ++i)
    if (outputs[i].swiglu != nullptr && !fuse(*outputs[i].linear, *outputs[i + 1].linear, adapters))
      swiglu(outputs[i].out, outputs[i + 1].out, *outputs[i].swiglu, outputs[i].activated());
}

void CpuBackend::plan_linears(const Tensor& x, std::span<const LinearOutput> outputs,
                              const Tensor& adapters, XPacker& packer) {
  expect_rank("linear: x", x, 2);
  expect_gates("linear: up", outputs);
  XForms forms;
  for (const LinearOutput& output : outputs) {
    expect_linear("linear: weight", *output.linear, x.dim(1));
    expect_tensor("linear: out", output.out, DType::kF32, {x.dim(0), output.linear->weight.rows});
    expect_adapters("linear: adapters", adapters, x.dim(0), *output.linear);
    add_form(output.linear->weight, forms);
  }
  plan_outputs(packer.pack(x, forms), outputs, bool(adapters));
}

void CpuBackend::finish_linears(const Tensor& x, std::span<const LinearOutput> outputs,
                                const Tensor& adapters) {
  if (any_has_addend(outputs, bool(adapters))) {
    const void* const* exact =
        pack_rows(pool_, f32_packing(kernels_), x.as<float>(), x.dim(0), x.dim(1), packed_f32_);
    plan_addends(exact, adapters ? adapters.as<std::int32_t>() : nullptr, outputs);
    add_addends();
  }
  multiply_gates(outputs, bool(adapters));
}

void CpuBackend::linear(const Tensor& x, std::span<const LinearOutput> outputs,
                        const Tensor& adapters) {
  plan_linears(x, outputs, adapters, x_);
  multiply(kernels_.dot);
  finish_linears(x, outputs, adapters);
}

std::span<const LinearOutput> CpuBackend::outputs_of_expert(std::span<const GroupedOutput> outputs,
                                                            const std::int32_t* offsets,
                                                            std::size_t expert) {
  expert_outputs_.clear();
  for (const GroupedOutput& output : outputs) {
    const auto mine = [&](const Tensor& all) {
      return all ? all.rows(offsets[expert], offsets[expert + 1]) : all;
    };
    expert_outputs_.push_back(
        {&output.experts[expert], mine(output.out), output.swiglu, mine(output.product)});
  }
  return expert_outputs_;
}

void CpuBackend::grouped_linear(const Tensor& x, const Dispatch& dispatch, bool gather,
                                std::span<const GroupedOutput> outputs, const Beside& beside,
                                const Tensor& adapters) {
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

  const std::int32_t* of_tokens =
      expect_adapters("grouped_linear: adapters", adapters, dispatch, outputs);

  expect_gates("grouped_linear: up", outputs);
  XForms forms;
  for (const GroupedOutput& output : outputs) {
    M3_CHECK(std::ssize(output.experts) == experts, "grouped_linear: {} experts, offsets for {}",
             output.experts.size(), experts);
    for (std::int64_t e = 0; e < experts; ++e) {
      if (offsets[e] == offsets[e + 1]) continue;
      const Linear& expert = output.experts[static_cast<std::size_t>(e)];
      expect_linear("grouped_linear: weight", expert, k);
      expect_tensor("grouped_linear: out", output.out, DType::kF32, {rows, expert.weight.rows});
    }
    if (experts > 0) add_form(output.experts[0].weight, forms);
  }
  const std::span<const PackedX> groups = x_.pack_groups(x, input_rows_, forms, offsets, experts);
  bool any_addend = false;
  for (std::size_t e = 0; e < groups.size(); ++e) {
    if (groups[e].rows == 0) continue;
    const std::span<const LinearOutput> mine = outputs_of_expert(outputs, offsets, e);
    plan_outputs(groups[e], mine, bool(adapters));
    any_addend |= any_has_addend(mine, bool(adapters));
  }
  if (!beside.outputs.empty()) plan_linears(beside.x, beside.outputs, adapters, beside_x_);
  multiply(kernels_.dot);

  if (any_addend) {
    const void* const* exact =
        pack_rows(pool_, f32_packing(kernels_), x.as<float>(), x.dim(0), k, packed_f32_);
    pointers_.clear();
    row_adapters_.clear();
    for (std::int64_t r = 0; r < rows; ++r) {
      pointers_.push_back(exact[input_rows_[static_cast<std::size_t>(r)]]);
      if (adapters) row_adapters_.push_back(of_tokens[dispatch.rows.as<std::int32_t>()[r]]);
    }
    for (std::size_t e = 0; e < groups.size(); ++e)
      if (groups[e].rows > 0)
        plan_addends(pointers_.data() + offsets[e],
                     adapters ? row_adapters_.data() + offsets[e] : nullptr,
                     outputs_of_expert(outputs, offsets, e));
    add_addends();
  }
  for (std::size_t e = 0; e < groups.size(); ++e)
    if (groups[e].rows > 0) multiply_gates(outputs_of_expert(outputs, offsets, e), bool(adapters));
  if (!beside.outputs.empty()) finish_linears(beside.x, beside.outputs, adapters);
}

}  // namespace m3::cpu
