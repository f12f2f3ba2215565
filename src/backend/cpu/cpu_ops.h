// The backend's class. Its ops are in the file of their group, under the same names as in
// backend/reference.
#pragma once

#include <vector>

#include "backend/cpu/cpu_gradients.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/x_packer.h"
#include "ops/backend.h"

namespace m3::cpu {

// A weight, and where its products go.
struct Factor {
  WeightRows w;
  const std::byte* panels = nullptr;  // instead of w's values and scales, where not null
  float* out = nullptr;               // [rows, outputs]
};

// out[t, n] = sum over k of x[t, k] * w[n, k], all rows and outputs.
struct Product {
  Factor factor;
  // Where its out is not null, `factor` is a gate and this its up, in the same layout: each task
  // ends by making swiglu(gate, up) of what it computed.
  Factor up;
  SwiGluParams swiglu;
  float* product = nullptr;  // where that goes
  std::int64_t outputs = 0;
  std::int64_t k = 0;
  PackedX x;
  // How the work is cut: all output blocks of the first row block, then of the next.
  std::int64_t row_block = 0;
  std::int64_t output_block = 0;
  std::int64_t output_blocks = 0;
  std::int64_t first_task = 0;
  ReadAhead ahead = ReadAhead::kSpans;
};

// Consecutive rows that are worked on together: of one sequence, so that they share what is read of
// its pages; or of one panel.
struct RowRun {
  std::int64_t first = 0;
  std::int64_t rows = 0;
};

// Rows that have an addend in common.
struct AddendRows {
  const LowRank* addend;
  std::size_t first;  // of the list of all such rows
  std::int64_t rows;
  float* compressed = nullptr;  // A x, [rows, rank]
  float* expanded = nullptr;    // B A x, [rows, N]
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(const Kernels& kernels, ReadAhead ahead, ThreadPool& pool)
      : kernels_(kernels),
        ahead_(ahead),
        pool_(pool),
        tasks_(pool.threads()),
        x_(kernels, pool),
        beside_x_(kernels, pool),
        gradients_(kernels, pool) {}

  std::string_view name() const override { return "cpu"; }
  std::string_view isa() const override { return kernels_.name; }
  CacheFormat cache_format() const override {
    return {DType::kBF16, DType::kBF16, PageOrder::kPairs};
  }
  GradientOps* gradients() override { return &gradients_; }
  std::string_view packed_layout() const override { return "panels-64x2"; }
  std::int64_t packed_bytes(const Matrix& w) const override;
  void pack(const Matrix& w, std::byte* out) override;

  void embed(const Matrix& table, const Tensor& ids, const Tensor& out) override;
  void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& out) override;
  void layer_norm(const Tensor& x, const LayerNorm& norm, const Tensor& out) override;
  void add(const Tensor& x, const Tensor& sum) override;
  void copy(const Tensor& x, const Tensor& out) override;
  void gather_rows(const Tensor& x, const Tensor& rows, const Tensor& out) override;
  void concat(const Tensor& x, const Tensor& y, const Tensor& out) override;
  void linear(const Tensor& x, std::span<const LinearOutput> outputs,
              const Tensor& adapters) override;
  void swiglu(const Tensor& gate, const Tensor& up, const SwiGlu& params,
              const Tensor& out) override;
  void gelu(const Tensor& x, const Tensor& bias, const Tensor& out) override;
  void rope_table(const Tensor& positions, const Rope& rope, const Tensor& out) override;
  void norm_rope(const Tensor& x, const HeadNorm& norm, const Tensor& out) override;
  void rotate(const Tensor& rotations, std::int64_t dim, const Tensor& x) override;
  void store_kv(const Tensor& k, const Tensor& v, const HeadNorm& norm, const Rows& rows,
                const KvView& cache) override;
  void store_index(const Tensor& k, const HeadNorm& norm, const Rows& rows,
                   const IndexView& cache) override;
  void select_blocks(const Tensor& q, const Rows& rows, const IndexView& cache,
                     const Selection& selection, const Tensor& blocks) override;
  void attention(const Tensor& q, const Rows& rows, const KvView& cache, float scale,
                 const Tensor* blocks, const Tensor& out, const Tensor& log_sums) override;
  void segment_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& segments,
                         std::int64_t dim, float scale, const Tensor& out) override;
  void route(const Tensor& x, const Router& router, bool picked_before, const Tensor& experts,
             const Tensor& weights) override;
  void dispatch(const Tensor& experts, const Dispatch& out) override;
  void grouped_linear(const Tensor& x, const Dispatch& dispatch, bool gather,
                      std::span<const GroupedOutput> outputs, const Beside& beside,
                      const Tensor& adapters) override;
  void combine(const Tensor& y, const Dispatch& dispatch, const Tensor& weights, float scale,
               const Tensor& shared, const Tensor& out) override;

 private:
  // linear.cc
  // Puts a product on the list, unless it is empty.
  void plan(Product product);
  void plan(const Matrix& w, const PackedX& x, float* out);
  void plan_gated(const LinearOutput& gate, const LinearOutput& up, const PackedX& x);
  void plan(const Tensor& w, const PackedX& x, float* out);
  // All products of some linears of one x.
  void plan_outputs(const PackedX& x, std::span<const LinearOutput> outputs, bool adapters);
  // The gates among them that waited for an addend.
  void multiply_gates(std::span<const LinearOutput> outputs, bool adapters);
  // All products of linear()'s arguments, and what remains to be done after them.
  void plan_linears(const Tensor& x, std::span<const LinearOutput> outputs, const Tensor& adapters,
                    XPacker& packer);
  void finish_linears(const Tensor& x, std::span<const LinearOutput> outputs,
                      const Tensor& adapters);
  // One expert's part of grouped outputs; valid until the next call.
  std::span<const LinearOutput> outputs_of_expert(std::span<const GroupedOutput> outputs,
                                                  const std::int32_t* offsets, std::size_t expert);
  // Computes the list in one parallel loop, and empties it.
  void multiply(Kernels::Dot dot);

  // low_rank.cc
  // Puts on a list what the rows of x, packed in float32, add to the outputs. `adapters`: the one
  // that each names; null: none.
  void plan_addends(const void* const* x, const std::int32_t* adapters,
                    std::span<const LinearOutput> outputs);
  void plan_addend(const LowRank& addend, const void* const* x, const Tensor& out,
                   const std::int32_t* adapters, std::int32_t adapter);
  // Adds what is on the list, and empties it.
  void add_addends();

  // rope.cc. One head of row `row`: x [dim] to out [dim].
  void norm_rope_head(const float* x, std::int64_t dim, const HeadNorm& norm, std::int64_t row,
                      float* out) const;
  // A token's key, value or index key; `scratch` has room for x in the cache's type.
  void store_token(const float* x, const PagePart& page, std::int64_t token, void* scratch) const;

  const Kernels& kernels_;
  ReadAhead ahead_;
  ThreadPool& pool_;

  TaskScratch tasks_;
  XPacker x_, beside_x_;
  CpuGradients gradients_;
  OpScratch packed_f32_, sums_, partials_;
  OpScratch segment_keys_, segment_values_;
  OpScratch candidates_, candidate_counts_;
  std::vector<Product> products_;
  std::int64_t planned_tasks_ = 0;
  std::vector<RowRun> runs_;
  std::vector<const void*> pointers_;
  std::vector<std::int64_t> input_rows_;
  std::vector<std::int32_t> row_adapters_;
  OpArena low_rank_;
  std::vector<AddendRows> addends_;
  std::vector<const void*> addend_x_;  // of their rows: x packed, later A x,
  std::vector<float*> addend_out_;     // and where it is added
  std::int64_t addend_values_ = 0;     // that computing them takes room for
  std::vector<LinearOutput> expert_outputs_;
  std::vector<std::int32_t> next_;
};

}  // namespace m3::cpu
