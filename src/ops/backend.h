// The narrow waist: everything that the model asks of a machine.
//
// Rules for all ops
// - Activations are float32 and dense. What a backend rounds inside is its own promise, stated in
//   its folder; the reference rounds nothing.
// - Outputs go to tensors that the caller gives. An output may be the same tensor as an input only
//   where the comment says so.
// - A row's result depends on that row, its sequence's cache and the weights alone: not on the
//   other rows of the call, nor on the number of threads. Sums over K run in one order per format
//   and instruction set, whatever the number of rows.
// - Ops may be asynchronous: results are there after synchronize(). The model never reads a value.
// - Shapes are the caller's duty: a violated shape is our mistake and aborts with the values.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "ops/cache.h"
#include "ops/linear.h"
#include "tensor/matrix.h"
#include "tensor/tensor.h"

namespace m3 {

// Per-head RMS norm followed by rotation (spec: text-model §3.3, §3.4). Heads are `dim` wide; the
// first `rotary_dim` elements of each are rotated, pair (i, i + rotary_dim / 2).
struct HeadNorm {
  Tensor weight;  // [dim] F32, stored zero-centred: the gain is 1 + weight
  float eps = 1e-6f;
  Tensor rotations;  // [rows, rotary_dim] F32, from rope_table()
};

// Affine layer norm (spec: vision §6.1): (x - mean) / sqrt(variance + eps) * weight + bias.
struct LayerNorm {
  Tensor weight;  // [dim] F32
  Tensor bias;    // [dim] F32
  float eps = 1e-5f;
};

// Rotation frequencies (spec: text-model §3.4).
struct Rope {
  Tensor inv_freq;  // [rotary_dim / 2] F32
  float scale = 1;  // multiplies cosine and sine (YaRN's m)
};

enum class ScoreType : std::uint8_t { kMax, kLse };

// Block selection (spec: text-model §3.5).
struct Selection {
  std::int64_t topk = 16;
  std::int64_t init_blocks = 0;
  std::int64_t local_blocks = 1;
  ScoreType score_type = ScoreType::kMax;
  float scale = 1;  // multiplies token scores; matters to kLse only
};

enum class RouterScore : std::uint8_t { kSigmoid, kSoftmax };

struct Router {
  Matrix gate;  // [experts, hidden], f32
  Tensor bias;  // [experts] F32, or empty
  RouterScore score = RouterScore::kSigmoid;
};

// Rows sorted by expert, so that each expert's weights are read once for all its rows.
struct Dispatch {
  Tensor offsets;  // [experts + 1] I32: expert e owns dispatched rows [offsets[e], offsets[e + 1])
  Tensor rows;     // [tokens * k] I32: input row of each dispatched row
  Tensor places;   // [tokens, k] I32: dispatched row of each pick
};

class GradientOps;

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const = 0;  // "reference", "cpu"
  virtual std::string_view isa() const = 0;   // instruction set in use, "" where there is no choice
  virtual Space space() const { return Space::kHost; }
  // How K, V and index keys are kept where nobody asks for other types. In the same order every
  // backend also keeps BF16 and F8_E4M3, each of K/V and index keys by itself. Numbers are rounded
  // once, when stored, and everyone, the row itself included, reads what was stored.
  virtual CacheFormat cache_format() const = 0;
  virtual void synchronize() {}
  // The derivatives of these ops (ops/gradients.h); null: this backend cannot train.
  virtual GradientOps* gradients() { return nullptr; }

  // The layout in which this backend reads a weight of a linear layer fastest, where that is not
  // the stored one. A weight may be used as stored or packed, but always in one of the two ways:
  // their sums differ in the last bits.
  // Names the layout, so that packed bytes can be kept: the same name, the same bytes.
  virtual std::string_view packed_layout() const { return ""; }
  // What w takes in it; 0: w is read as it is stored.
  virtual std::int64_t packed_bytes(const Matrix& w) const { return w.rows * 0; }
  // Writes all of it to `out`, 64-byte aligned. packed_bytes(w) > 0.
  virtual void pack(const Matrix&, std::byte* /*out*/) {}

  // out[t, :] = table[ids[t], :], or zeros where ids[t] is -1. ids [tokens] I32, all in range; out
  // [tokens, hidden].
  virtual void embed(const Matrix& table, const Tensor& ids, const Tensor& out) = 0;

  // out = x * rsqrt(mean(x^2) + eps) * (1 + weight) over the last axis (spec: text-model §3.1).
  // x, out [rows, dim]; weight [dim] F32. out may be x.
  virtual void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& out) = 0;

  // The norm of each row. x, out [rows, dim]. out may be x.
  virtual void layer_norm(const Tensor& x, const LayerNorm& norm, const Tensor& out) = 0;

  // sum += x, element by element, in place. x has sum's shape, or is one row [dim] for all of
  // sum's.
  virtual void add(const Tensor& x, const Tensor& sum) = 0;

  // out = x. The same elements, row by row.
  virtual void copy(const Tensor& x, const Tensor& out) = 0;

  // out[i, :] = x[rows[i], :]. rows [n] I32; out [n, dim].
  virtual void gather_rows(const Tensor& x, const Tensor& rows, const Tensor& out) = 0;

  // out[t, :] = (x[t, :], y[t, :]). x [rows, n]; y [rows, m]; out [rows, n + m], neither x nor y.
  virtual void concat(const Tensor& x, const Tensor& y, const Tensor& out) = 0;

  // out = x Wᵀ for each output (spec: text-model §3.2), gates multiplied with their ups. x [rows,
  // K]; every weight is [N_i, K]. `adapters` [rows] I32: of a linear's `addends` the one that a row
  // adds, -1: none; empty: no row adds any.
  virtual void linear(const Tensor& x, std::span<const LinearOutput> outputs,
                      const Tensor& adapters) = 0;
  void linear(const Tensor& x, std::span<const LinearOutput> outputs) { linear(x, outputs, {}); }

  // out = g * sigmoid(alpha * g) * (u + beta) with g = min(gate, limit), u = clamp(up, ±limit).
  // gate, up, out [rows, inner]. out may be gate or up.
  virtual void swiglu(const Tensor& gate, const Tensor& up, const SwiGlu& params,
                      const Tensor& out) = 0;

  // out[y] = y / 2 * (1 + erf(y / sqrt 2)), y = x + bias (spec: vision §6.1). x, out [rows, dim];
  // bias [dim], or empty for none. out may be x.
  virtual void gelu(const Tensor& x, const Tensor& bias, const Tensor& out) = 0;

  // out[t] = scale * (cos(p f_0), …, cos(p f_{n-1}), sin(p f_0), …, sin(p f_{n-1})), p =
  // positions[t]. The angle p * f is rounded to float32 before cosine and sine. positions [tokens]
  // I64; out [tokens, rotary_dim], rotary_dim = 2 n. Positions of several axes, [tokens, axes],
  // share the frequencies: the cosines of the first axis, then of the next; then the sines (spec:
  // vision §6.3); rotary_dim = 2 n axes.
  virtual void rope_table(const Tensor& positions, const Rope& rope, const Tensor& out) = 0;

  // Norm and rotation of every head of x. x, out [rows, heads * dim]. out may be x.
  virtual void norm_rope(const Tensor& x, const HeadNorm& norm, const Tensor& out) = 0;

  // Rotation alone, in place. x [rows, heads * dim]; rotations [rows, rotary_dim].
  virtual void rotate(const Tensor& rotations, std::int64_t dim, const Tensor& x) = 0;

  // Normalises and rotates k, then stores k and v of each row at its slot. Without norm.weight k is
  // only rotated. k, v [rows, kv_heads * head_dim].
  virtual void store_kv(const Tensor& k, const Tensor& v, const HeadNorm& norm, const Rows& rows,
                        const KvView& cache) = 0;

  // Normalises and rotates the index key of each row and stores it at its slot. k [rows, dim].
  virtual void store_index(const Tensor& k, const HeadNorm& norm, const Rows& rows,
                           const IndexView& cache) = 0;

  // The blocks that each row and index head attends to (spec: text-model §3.5.10). Visible blocks
  // of a row at slot s are 0..s / page_tokens; a token's score is scale * (q · key); slots beyond s
  // do not count. Rank by key descending (1e29 for local, 1e30 for init unless local, else the
  // pooled score with NaN as -1e30), then by block ascending; keep min(topk, visible). q [rows,
  // heads * dim], normalised and rotated; blocks [rows, heads, topk] I32, ascending, then -1.
  // With a mask (RowMask) slots that it hides do not count, and blocks without others are not
  // visible.
  virtual void select_blocks(const Tensor& q, const Rows& rows, const IndexView& cache,
                             const Selection& selection, const Tensor& blocks) = 0;

  // Causal softmax attention (spec: text-model §3.6). Query head h reads K/V head h / (heads /
  // kv_heads). With `blocks` [rows, kv_heads, topk] I32 only tokens in the listed blocks take part,
  // and only their pages are read (-1 lists none); without (null), all visible ones. A row with an
  // empty list gives zeros. Computed page by page at absolute boundaries and merged in ascending
  // order. q [rows, heads * head_dim], normalised and rotated; out the same shape; not q.
  // log_sums [rows, heads], or empty: log Σ exp(scale * q · key) over these tokens, -infinity for
  // none, which the derivative reads (spec: training §2.7).
  // With a mask (RowMask) its bias is added to the scaled scores, and a row that it hides all of
  // gives zeros. Without `blocks` a row then sees all slots of its sequence that the mask does not
  // hide, later ones too.
  virtual void attention(const Tensor& q, const Rows& rows, const KvView& cache, float scale,
                         const Tensor* blocks, const Tensor& out, const Tensor& log_sums) = 0;

  // Softmax attention without a mask inside each segment (spec: vision §6.1, §6.2). Segment s is
  // the rows [segments[s], segments[s + 1]); segments [count + 1] I32, from 0 to the number of
  // rows. q, k, v, out [rows, heads * dim]; out is none of the others.
  virtual void segment_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                 const Tensor& segments, std::int64_t dim, float scale,
                                 const Tensor& out) = 0;

  // Picks k experts a row (spec: text-model §3.8.1): s = score(x gateᵀ) in float32, NaN and
  // infinity count as 0; the k largest s + bias, ties to the lower id; weights = s of the picked /
  // their sum
  // (/ 1 where the sum is not positive). Picks ascend by id.
  // x [rows, hidden]; experts [rows, k] I32; weights [rows, k] F32. With `picked_before`, `experts`
  // is an input: the picks are given, and only the weights are computed.
  virtual void route(const Tensor& x, const Router& router, bool picked_before,
                     const Tensor& experts, const Tensor& weights) = 0;

  // Sorts picks by expert, rows in ascending order within one. experts [tokens, k] I32.
  virtual void dispatch(const Tensor& experts, const Dispatch& out) = 0;

  // Grouped linears: dispatched row r of expert e gives out[r] = W_e x[input(r)], where input(r) is
  // dispatch.rows[r] if `gather`, else r itself. Same sums as linear(). x [tokens or dispatched,
  // K]. `beside` is one more slot: what linear() would do, at the same time. `adapters` as there,
  // of tokens, for both.
  virtual void grouped_linear(const Tensor& x, const Dispatch& dispatch, bool gather,
                              std::span<const GroupedOutput> outputs, const Beside& beside,
                              const Tensor& adapters) = 0;
  void grouped_linear(const Tensor& x, const Dispatch& dispatch, bool gather,
                      std::span<const GroupedOutput> outputs, const Beside& beside) {
    grouped_linear(x, dispatch, gather, outputs, beside, {});
  }

  // out[t] = scale * Σ_j weights[t, j] * y[places[t, j]] (+ shared[t]), j ascending, the shared
  // part last (spec: text-model §3.8.2). y [tokens * k, hidden]; shared [tokens, hidden] or empty;
  // out [tokens, hidden]; out may be shared.
  virtual void combine(const Tensor& y, const Dispatch& dispatch, const Tensor& weights,
                       float scale, const Tensor& shared, const Tensor& out) = 0;
};

}  // namespace m3
