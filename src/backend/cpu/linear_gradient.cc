// Linear layers on their way back (spec: training §2.7, §7.2): d_x = d_out W, d_weight = d_outᵀ x,
// and for an addend scale * B A, with u = x Aᵀ and d_u = scale * d_out B: d_x += d_u A, d_b =
// scale * d_outᵀ u, d_a = d_uᵀ x.
#include <algorithm>

#include "backend/cpu/cpu_gradients.h"
#include "backend/cpu/gradient_products.h"
#include "backend/reference/product.h"
#include "ops/arguments.h"

namespace m3::cpu {
namespace {

using reference::row_pointers;
using RowPointers = std::span<const float* const>;

// Layers of several groups of rows, step by step: what one step computes the next may read.
class LinearsBackward {
 public:
  LinearsBackward(const Kernels& kernels, ThreadPool& pool, TaskScratch& tasks, OpArena& arena)
      : kernels_(kernels), pool_(pool), tasks_(tasks), arena_(arena), rounder_(kernels, pool) {
    arena.reset();
  }

  void run(std::span<const LinearsBack> groups) {
    for (const LinearsBack& group : groups)
      for (const LinearGradient& gradient : group.layers)
        layers_.push_back({&gradient, &group, row_pointers(gradient.d_out)});
    for (Layer& layer : layers_)
      if (layer.gradient->linear->addend != nullptr) begin_addend(layer);
    multiply();
    for (Layer& layer : layers_)
      if (layer.gradient->linear->addend != nullptr) finish_addend(layer);
    for (Layer& layer : layers_) add_weights(layer);
    multiply();  // before d_x, which may be x
    add_inputs(groups);
    multiply();
  }

 private:
  struct Layer {
    const LinearGradient* gradient;
    const LinearsBack* group;
    std::vector<const float*> d_out;
    // Of an addend; u is scaled.
    Tensor u = {}, d_u = {};  // [rows, rank]
    std::vector<const float*> u_rows = {}, d_u_rows = {}, a_rows = {}, b_rows = {};
  };

  RoundedRows rounded(RowPointers x, std::int64_t columns, float factor) {
    const std::int64_t stride = RowRounder::stride_of(columns);
    auto* out = arena_.take<std::uint16_t>(std::ssize(x) * stride);
    rounder_.round(x, columns, factor, out);
    return {out, stride};
  }
  // Once for all layers of a group, which follow each other.
  RoundedRows rounded_x(const LinearsBack& group, std::int64_t inputs) {
    if (rounded_group_ != &group) x_ = rounded(group.x, inputs, 1);
    rounded_group_ = &group;
    return x_;
  }
  RoundedRows turned(RowPointers x, std::int64_t columns) {
    const std::int64_t stride = RowRounder::stride_of(std::ssize(x));
    auto* out = arena_.take<std::uint16_t>(columns * stride);
    rounder_.turn(x, columns, out);
    return {out, stride};
  }

  // u = x Aᵀ, d_u = scale * d_out B.
  void begin_addend(Layer& layer) {
    const LowRank& addend = *layer.gradient->linear->addend;
    const std::int64_t rows = std::ssize(layer.d_out), rank = addend.a.dim(0);
    for (Tensor* inner : {&layer.u, &layer.d_u})
      *inner = {arena_.take<float>(rows * rank), DType::kF32, {rows, rank}};
    layer.u_rows = row_pointers(layer.u);
    layer.d_u_rows = row_pointers(layer.d_u);
    layer.a_rows = row_pointers(addend.a);
    layer.b_rows = row_pointers(addend.b);
    const std::int64_t inputs = addend.a.dim(1), outputs = addend.b.dim(0);
    if (layer.gradient->d_b)
      products_.push_back({{{rounded_x(*layer.group, inputs), {.columns = &addend.a}, inputs}},
                           rows,
                           rank,
                           layer.u.as<float>()});
    products_.push_back(
        {{{rounded(layer.d_out, outputs, addend.scale), {.rows = layer.b_rows.data()}, outputs}},
         rows,
         rank,
         layer.d_u.as<float>()});
  }

  void finish_addend(Layer& layer) {
    const LinearGradient& g = *layer.gradient;
    const LowRank& addend = *g.linear->addend;
    if (g.d_b) {
      float* u = layer.u.as<float>();
      kernels_.scale_add(u, addend.scale, nullptr, layer.u.elements(), u);
      add_weight(layer.d_out, layer.u_rows, g.d_b);
    }
    if (g.d_a) add_weight(layer.d_u_rows, layer.group->x, g.d_a);
  }

  void add_weights(const Layer& layer) {
    if (layer.gradient->d_weight) add_weight(layer.d_out, layer.group->x, layer.gradient->d_weight);
  }

  // d_weight += d_outᵀ x. Where layers share a weight, as gate and up may their A, it is one sum.
  void add_weight(RowPointers d_out, RowPointers x, const Tensor& d_weight) {
    const std::int64_t outputs = d_weight.dim(0);
    Summand summand{turned(d_out, outputs), {.rows = x.data()}, std::ssize(d_out)};
    const auto shared =
        std::find_if(products_.rbegin(), products_.rend(),
                     [&](const SumOfProducts& p) { return p.out == d_weight.as<float>(); });
    if (shared != products_.rend()) {
      shared->summands.push_back(summand);
      return;
    }
    products_.push_back({{summand}, outputs, d_weight.dim(1), d_weight.as<float>(), /*adds=*/true});
  }

  void add_inputs(std::span<const LinearsBack> groups) {
    for (const LinearsBack& group : groups) {
      if (group.d_x == nullptr) continue;
      SumOfProducts sum{.rows = std::ssize(group.x), .out = group.d_x, .adds = group.adds};
      for (const Layer& layer : layers_) {
        if (layer.group != &group) continue;
        const Linear& linear = *layer.gradient->linear;
        const Matrix& w = linear.weight;
        sum.columns = w.cols;
        sum.summands.push_back({rounded(layer.d_out, w.rows, w.scale), {.weight = &w}, w.rows});
        if (linear.addend == nullptr) continue;
        const std::int64_t rank = linear.addend->a.dim(0);
        sum.summands.push_back(
            {rounded(layer.d_u_rows, rank, 1), {.rows = layer.a_rows.data()}, rank});
      }
      products_.push_back(std::move(sum));
    }
  }

  void multiply() {
    multiply_all(kernels_, pool_, tasks_, products_);
    products_.clear();
  }

  const Kernels& kernels_;
  ThreadPool& pool_;
  TaskScratch& tasks_;
  OpArena& arena_;
  RowRounder rounder_;
  std::vector<Layer> layers_;
  std::vector<SumOfProducts> products_;
  const LinearsBack* rounded_group_ = nullptr;  // whose x is x_
  RoundedRows x_;
};

void check_layer(const LinearGradient& layer, std::int64_t rows, std::int64_t columns) {
  const Matrix& w = layer.linear->weight;
  expect_linear("linear gradient: weight", *layer.linear, columns);
  expect_tensor("linear gradient: d_out", layer.d_out, DType::kF32, {rows, w.rows});
  if (layer.d_weight)
    expect_tensor("linear gradient: d_weight", layer.d_weight, DType::kF32, {w.rows, columns});
  const LowRank* addend = layer.linear->addend;
  if (layer.d_a)
    expect_tensor("linear gradient: d_a", layer.d_a, DType::kF32, {addend->a.dim(0), columns});
  if (layer.d_b)
    expect_tensor("linear gradient: d_b", layer.d_b, DType::kF32, {w.rows, addend->a.dim(0)});
}

}  // namespace

void CpuGradients::linear(const Tensor& x, std::span<const LinearGradient> layers,
                          const Tensor& d_x) {
  expect_rank("linear gradient: x", x, 2);
  if (d_x) expect_tensor("linear gradient: d_x", d_x, DType::kF32, {x.dim(0), x.dim(1)});
  for (const LinearGradient& layer : layers) check_layer(layer, x.dim(0), x.dim(1));
  const std::vector<const float*> rows = row_pointers(x);
  const LinearsBack all[] = {
      {rows, d_x ? d_x.as<float>() : nullptr, {layers.begin(), layers.end()}}};
  LinearsBackward(kernels_, pool_, tasks_, arena_).run(all);
}

void CpuGradients::add_linear(const Tensor& x, const LinearGradient& layer, const Tensor& d_x) {
  check_layer(layer, x.dim(0), x.dim(1));
  const std::vector<const float*> rows = row_pointers(x);
  const LinearsBack all[] = {{rows, d_x.as<float>(), {layer}, /*adds=*/true}};
  LinearsBackward(kernels_, pool_, tasks_, arena_).run(all);
}

void CpuGradients::grouped_linear(const Tensor& x, const Dispatch& dispatch, bool gather,
                                  std::span<const GroupedGradient> layers, const Tensor& d_x) {
  expect_rank("grouped_linear gradient: x", x, 2);
  const std::int64_t experts = expect_dispatch("grouped_linear gradient: dispatch", dispatch);
  const std::int64_t dispatched = dispatch.rows.dim(0), columns = x.dim(1);
  if (gather) expect_ids("grouped_linear gradient: rows", dispatch.rows, x.dim(0));
  M3_CHECK(gather || x.dim(0) == dispatched, "grouped_linear gradient: x {} for {} rows",
           x.describe(), dispatched);
  expect_tensor("grouped_linear gradient: d_x", d_x, DType::kF32, {dispatched, columns});
  for (const GroupedGradient& layer : layers)
    M3_CHECK(std::ssize(layer.experts) == experts, "grouped_linear gradient: {} experts, not {}",
             layer.experts.size(), experts);

  std::vector<const float*> rows;
  for (std::int64_t r = 0; r < dispatched; ++r)
    rows.push_back(x.row<float>(gather ? dispatch.rows.as<std::int32_t>()[r] : r));
  std::vector<LinearsBack> groups;
  for (std::int64_t e = 0; e < experts; ++e) {
    const std::int32_t* offset = dispatch.offsets.as<std::int32_t>() + e;
    const auto expert = static_cast<std::size_t>(e);
    if (offset[0] == offset[1]) continue;
    LinearsBack group{RowPointers(rows).subspan(static_cast<std::size_t>(offset[0]),
                                                static_cast<std::size_t>(offset[1] - offset[0])),
                      d_x.row<float>(offset[0]),
                      {}};
    for (const GroupedGradient& layer : layers)
      group.layers.push_back({&layer.experts[expert], layer.d_out.rows(offset[0], offset[1]),
                              layer.d_weights.empty() ? Tensor() : layer.d_weights[expert],
                              layer.d_a.empty() ? Tensor() : layer.d_a[expert],
                              layer.d_b.empty() ? Tensor() : layer.d_b[expert]});
    for (const LinearGradient& layer : group.layers)
      check_layer(layer, offset[1] - offset[0], columns);
    groups.push_back(std::move(group));
  }
  LinearsBackward(kernels_, pool_, tasks_, arena_).run(groups);
}

}  // namespace m3::cpu
