// The derivative of one decoder layer: the mirror of Model::attention_half() and
// feed_forward_half().
#pragma once

#include <vector>

#include "model/model.h"
#include "ops/gradients.h"
#include "tensor/layout.h"
#include "train/kept_activations.h"
#include "train/side_losses.h"
#include "train/weight_gradients.h"

namespace m3 {

// Takes the derivative of the loss by a layer's output to that by its input, and sums those by its
// weights.
class LayerGradient {
 public:
  // All outlive it; the model's backend has derivatives. For batches of up to `tokens` rows.
  LayerGradient(const Model& model, const WeightGradients& weights, std::int64_t tokens);

  // Of MoE layers: the derivative of `scale` times their load balance is added, and it to `sums`.
  struct Balance {
    float scale = 0;  // 0: neither
    SideSums& sums;
  };

  // d_hidden [rows, hidden]: by what the layer gave, then by what it was given. `kept` as the
  // forward left it, of the batch's rows.
  void run(std::int64_t layer, const KeptLayer& kept, const Rows& rows, const KvView& cache,
           const Balance& balance, const Tensor& d_hidden);

  std::int64_t bytes() const { return buffer_.bytes(); }
  // What one takes, without making it.
  static std::int64_t bytes_for(const Config& config, std::int64_t tokens);

 private:
  // Buffers of one step, all rows of the batch.
  struct Scratch {
    Tensor normed, d_normed;            // [rows, hidden]
    Tensor branch;                      // [rows, hidden]
    Tensor d_attended, d_q;             // [rows, heads * head_dim]
    Tensor d_k, d_v;                    // [rows, kv_heads * head_dim]
    Tensor d_product;                   // [rows, dense_inner or shared_inner]
    Tensor d_gate, d_up;                // the same
    Tensor dispatched;                  // [picks, hidden]
    Tensor d_expert_product;            // [picks, expert_inner]
    Tensor d_expert_gate, d_expert_up;  // the same
    Tensor d_weights;                   // [rows, experts_per_token]
    Tensor balance;                     // [1]

    std::vector<Placement> placements(const Config& config, std::int64_t tokens);
    Scratch first(const Config& config, std::int64_t rows) const;
  };

  void attention(const LayerWeights& w, const KeptLayer& kept, const Rows& rows,
                 const KvView& cache, const Scratch& s, const Tensor& d_hidden);
  void feed_forward(const LayerWeights& w, const KeptLayer& kept, const Balance& balance,
                    const Scratch& s, const Tensor& d_hidden);
  // d_x = the derivative by what the MLP read, s.normed.
  void mlp(const MlpWeights& w, std::int64_t inner, const Activations& a, const Scratch& s,
           const Tensor& d_out, const Tensor& d_x);
  void moe(const MoeWeights& w, const Activations& a, const Balance& balance, const Scratch& s,
           const Tensor& d_out);
  void add_balance(const Balance& balance, const Router& router, const Tensor& d_gate,
                   const Activations& a, const Scratch& s);

  const Model& model_;
  const WeightGradients& weights_;
  Backend& backend_;
  GradientOps& ops_;
  Scratch scratch_;
  Buffer buffer_;
};

}  // namespace m3
