// The waist's other half: what training asks of a machine. Every op of backend.h that training
// crosses has its derivative here, under the same name.
//
// Rules, beside those of backend.h
// - d_NAME is the derivative of the loss by NAME, of NAME's shape, float32. `d_out` is read.
// - Derivatives by activations are written; an op that adds to one says so. Derivatives by weights
//   are added to, so that several batches sum up; an empty tensor is a weight that nobody trains.
// - Rounding has derivative one: whoever rounds what enters a product differentiates as if it had
//   not.
// - Every sum has one order, whatever the number of threads.
#pragma once

#include <cstdint>
#include <span>

#include "ops/backend.h"

namespace m3 {

// The label of a row that is not scored.
inline constexpr std::int32_t kNotScored = -100;

// The derivatives of one linear layer y = W x + scale * B (A x).
struct LinearGradient {
  const Linear* linear = nullptr;
  Tensor d_out;     // [rows, N]
  Tensor d_weight;  // [N, K], or empty
  Tensor d_a, d_b;  // of linear->addend, or empty
};

// The same layer of every expert.
struct GroupedGradient {
  std::span<const Linear> experts;
  Tensor d_out;                       // [dispatched rows, N]
  std::span<const Tensor> d_weights;  // [N, K] each, some or all of them empty; or none at all
  // Of experts[e].addend, in the same manner. Layers whose addends share an A give one d_a, to
  // which each adds, in the order of the layers.
  std::span<const Tensor> d_a = {}, d_b = {};
};

// What attention() makes its probabilities of, whichever blocks it was listed.
struct AttentionScores {
  Tensor q;  // [rows, heads * head_dim], normalised and rotated
  KvView cache;
  float scale = 1;
};

// How far the indexer ranks blocks as attention does. [rows, index_heads] each.
struct RankingMeasures {
  Tensor divergences;  // see divergence()
  Tensor overlaps;     // which share of the min(topk, visible) most attended blocks is picked
  Tensor masses;       // which share of the attention the picked blocks have
};

class GradientOps {
 public:
  virtual ~GradientOps() = default;

  // x = 0.
  virtual void zero(const Tensor& x) = 0;

  // d_table[ids[t], :] += d_out[t, :], t ascending; rows of id -1 have none. ids [tokens] I32;
  // d_out [tokens, hidden]; d_table [vocab, hidden].
  virtual void embed(const Tensor& ids, const Tensor& d_out, const Tensor& d_table) = 0;

  // d_x is added to, as a norm stands beside a residual. x, d_out, d_x [rows, dim]; weight,
  // d_weight [dim] (spec: training §2.7).
  virtual void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& d_out,
                        const Tensor& d_x, const Tensor& d_weight) = 0;

  // As rms_norm(), and d_bias [dim].
  virtual void layer_norm(const Tensor& x, const LayerNorm& norm, const Tensor& d_out,
                          const Tensor& d_x, const Tensor& d_weight, const Tensor& d_bias) = 0;

  // Of add()'s one row for all: d_row += Σ d_out[t, :], t ascending. d_out [rows, dim]; d_row
  // [dim].
  virtual void add_row(const Tensor& d_out, const Tensor& d_row) = 0;

  // d_x = Σ d_out (W + scale B A) over all layers, in their order; empty: nobody needs it. It may
  // be x. d_weight += d_outᵀ x, d_b += scale d_outᵀ (x Aᵀ), d_a += (scale d_out B)ᵀ x, rows
  // ascending. x, d_x [rows, K].
  virtual void linear(const Tensor& x, std::span<const LinearGradient> layers,
                      const Tensor& d_x) = 0;

  // gate, up, d_out, d_gate, d_up [rows, inner]. Where a clamp cut, the derivative is 0; at exactly
  // the limit it is not. d_gate and d_up may be gate and up.
  virtual void swiglu(const Tensor& gate, const Tensor& up, const SwiGlu& params,
                      const Tensor& d_out, const Tensor& d_gate, const Tensor& d_up) = 0;

  // x, bias as gelu() read them; d_x, which is also the derivative by x + bias, may be d_out.
  virtual void gelu(const Tensor& x, const Tensor& bias, const Tensor& d_out,
                    const Tensor& d_x) = 0;

  // Of rotate(), in place: turns d [rows, heads * dim] back.
  virtual void rotate(const Tensor& rotations, std::int64_t dim, const Tensor& d) = 0;

  // Of norm_rope(), and of store_kv()'s keys. x, d_out, d_x [rows, heads * dim]; d_weight [dim].
  // d_x may be d_out.
  virtual void norm_rope(const Tensor& x, const HeadNorm& norm, const Tensor& d_out,
                         const Tensor& d_x, const Tensor& d_weight) = 0;

  // Of attention() over whole sequences, whose keys and values `cache` holds; out and log_sums as
  // it left them. q (normalised and rotated), out, d_out, d_q [rows, heads * head_dim]; d_k, d_v
  // [rows, kv_heads * head_dim], by what was stored. Which blocks were listed is a constant. A row
  // whose list is empty gives nothing.
  virtual void attention(const Tensor& q, const Rows& rows, const KvView& cache, float scale,
                         const Tensor* blocks, const Tensor& out, const Tensor& log_sums,
                         const Tensor& d_out, const Tensor& d_q, const Tensor& d_k,
                         const Tensor& d_v) = 0;

  // Of segment_attention(), whose result is `out`. All but segments [rows, heads * dim].
  virtual void segment_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                 const Tensor& segments, std::int64_t dim, float scale,
                                 const Tensor& out, const Tensor& d_out, const Tensor& d_q,
                                 const Tensor& d_k, const Tensor& d_v) = 0;

  // Of route()'s weights by its logits; picks and bias are constants. weights, d_weights [rows, k];
  // x [rows, hidden]; d_x is added to, [rows, hidden]; d_gate [experts, hidden].
  virtual void route(const Tensor& x, const Router& router, const Tensor& experts,
                     const Tensor& d_weights, const Tensor& d_x, const Tensor& d_gate) = 0;

  // The derivative of scale * loss by x, added to d_x, and by the gate, where loss [1] is the load
  // balance of these rows (spec: training §4.3): Σ_e f_e P_e. f_e, a constant, is the share of all
  // picks that are e, times the number of experts; P_e the mean over rows of s_e / Σ s, of the
  // scores that route() has. x, d_x [rows, hidden]; experts [rows, k]; d_gate [experts, hidden].
  virtual void balance(const Tensor& x, const Router& router, const Tensor& experts, float scale,
                       const Tensor& loss, const Tensor& d_x, const Tensor& d_gate) = 0;

  // The derivative of scale * Σ divergences, which teach the indexer to rank blocks as attention
  // does: that of row t and index head g is KL(a || p) = Σ_b a_b log(a_b / p_b) over the blocks b
  // that t sees; a, a constant, how the group of query heads that reads K/V head g spreads its
  // attention over them, if it saw all: the mean over these heads of Σ_{j in b} softmax_j(attention
  // scale * q · k_j); p = softmax_b of the scores by which select_blocks() ranks blocks, local and
  // initial ones no different. Over whole sequences. `blocks` are as select_blocks() left them.
  // index_q (normalised and rotated), d_q [rows, index_heads * index_dim]; d_k [rows, index_dim],
  // by what was stored; index_heads = kv_heads.
  virtual void divergence(const Tensor& index_q, const Rows& rows, const IndexView& index,
                          const Selection& selection, const Tensor& blocks,
                          const AttentionScores& attention, float scale,
                          const RankingMeasures& measures, const Tensor& d_q,
                          const Tensor& d_k) = 0;

  // Of the weights that combine() gives to its summands, where they are moved in front of the down
  // projection, which is linear: f' = scale * w f, y = D f'. Given f [dispatched, inner] and d_f'
  // in d_f: d_weights[t, j] = scale * f · d_f', then d_f = scale * w * d_f'. weights, d_weights
  // [tokens, k].
  virtual void weigh(const Tensor& f, const Dispatch& dispatch, const Tensor& weights, float scale,
                     const Tensor& d_f, const Tensor& d_weights) = 0;
  // f'[r] = scale * w_r * f[r], which d_weight of the down projection is made of. out may be f.
  virtual void weighted(const Tensor& f, const Dispatch& dispatch, const Tensor& weights,
                        float scale, const Tensor& out) = 0;

  // Of grouped_linear() by the same arguments: d_x[r] = Σ d_out[r] (W_e + scale B_e A_e) over all
  // layers, for every dispatched row, [dispatched, K]. Rows of an expert ascend.
  virtual void grouped_linear(const Tensor& x, const Dispatch& dispatch, bool gather,
                              std::span<const GroupedGradient> layers, const Tensor& d_x) = 0;

  // Of a gather by dispatch.rows: d_x[t] = Σ_j d[places[t, j]], j ascending. d [dispatched, dim].
  virtual void undispatch(const Tensor& d, const Dispatch& dispatch, const Tensor& d_x) = 0;

  // Cross entropy of each row by its label, in place: losses[t] = log Σ exp(logits[t]) -
  // logits[t, label], and logits becomes its derivative times `scale`. Of kNotScored: 0, and zeros
  // (spec: training §2.7). logits [rows, vocab]; labels [rows] I32; losses [rows].
  virtual void cross_entropy(const Tensor& logits, const Tensor& labels, float scale,
                             const Tensor& losses) = 0;

  // out = factor * x, with dropout; its own derivative. out may be x. x, out [rows, dim].
  virtual void dropout(const Tensor& x, const Dropout& dropout, float factor,
                       const Tensor& out) = 0;

  // The halves of a concat(): x[t] = both[t, :n], y[t] = both[t, n:].
  virtual void split(const Tensor& both, const Tensor& x, const Tensor& y) = 0;
};

}  // namespace m3
