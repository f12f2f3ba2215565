// One decoder layer of the weight table. Means and gains of random weights are chosen so that a
// random model behaves like a trained one where it matters: attention is sharp, experts differ, and
// SwiGLU's limit clips now and then.
#include "model/weight_table_builder.h"

namespace m3 {
namespace {

constexpr Init kNorm{0, 0.2};        // stored zero-centred: the gain is 1 + w
constexpr Init kHeadNorm{0.4, 0.3};  // q and k
constexpr Init kIndexNorm{0, 0.3};
constexpr Init kRouterBias{0, 0.15};
constexpr double kRouterGain = 2;
constexpr double kMlpGain = 3;
constexpr double kMlpOutGain = 0.25;

// &owner->member, or null if there is no owner.
template <typename Owner, typename Member>
Member* at(Owner* owner, Member Owner::*member) {
  return owner == nullptr ? nullptr : &(owner->*member);
}

// The value of the owner's optional member, or null.
template <typename Owner, typename Member>
Member* inner(Owner* owner, std::optional<Member> Owner::*member) {
  if (owner == nullptr) return nullptr;
  M3_CHECK((owner->*member).has_value(), "weights were not made for this config");
  return &*(owner->*member);
}

void add_attention(const TableBuilder& layer, const Config& c, AttentionWeights* w) {
  using A = AttentionWeights;
  const TableBuilder table = layer.inside("self_attn.");
  const std::int64_t q = c.heads * c.head_dim;
  const std::int64_t kv = c.kv_heads * c.head_dim;
  const LinearStyle in{Split::kRows, Fusion::kAttention, Kind::kAttention};
  const LinearStyle kv_in{Split::kKvRows, Fusion::kAttention, Kind::kAttention};
  const LinearStyle out{Split::kColumns, Fusion::kNone, Kind::kAttention};
  table.linear("q_proj", q, c.hidden, in, at(w, &A::q));
  table.linear("k_proj", kv, c.hidden, kv_in, at(w, &A::k));
  table.linear("v_proj", kv, c.hidden, kv_in, at(w, &A::v));
  table.linear("o_proj", c.hidden, q, out, at(w, &A::o));
  table.vector("q_norm.weight", c.head_dim, kHeadNorm, at(w, &A::q_norm));
  table.vector("k_norm.weight", c.head_dim, kHeadNorm, at(w, &A::k_norm));
}

void add_indexer(const TableBuilder& layer, const Config& c, IndexerWeights* w) {
  using I = IndexerWeights;
  const TableBuilder table = layer.inside("self_attn.index_", "self_attn.indexer.");
  const std::int64_t q = c.index_heads * c.index_dim;
  const LinearStyle heads{Split::kKvRows, Fusion::kIndexer, Kind::kIndexer};
  const LinearStyle shared{Split::kReplicated, Fusion::kIndexer, Kind::kIndexer};
  const auto selects = [](WeightSpec& spec) { spec.has_gradient = false; };
  selects(table.linear("q_proj", q, c.hidden, heads, at(w, &I::q)));
  selects(table.linear("k_proj", c.index_dim, c.hidden, shared, at(w, &I::k)));
  selects(table.vector("q_norm.weight", c.index_dim, kIndexNorm, at(w, &I::q_norm)));
  selects(table.vector("k_norm.weight", c.index_dim, kIndexNorm, at(w, &I::k_norm)));
}

// One gated feed-forward, dense or expert.
struct Mlp {
  std::int64_t hidden = 0;
  std::int64_t inner = 0;
  Kind kind = Kind::kDenseMlp;
  Fusion in = Fusion::kMlp;
  Fusion out = Fusion::kNone;
  // Which of how many are stacked in one tensor of transformers; 0: not stacked.
  std::int64_t expert = 0;
  std::int64_t experts = 0;
  const char* gate_name = "gate_proj";
  const char* up_name = "up_proj";
  const char* down_name = "down_proj";
  Linear* gate = nullptr;
  Linear* up = nullptr;
  Linear* down = nullptr;
};

// transformers keeps gate rows, then up rows, in one tensor; those of all experts in one more axis,
// and then without ".weight" (spec: text-model §2.6).
Source fused(const Mlp& mlp, const char* name, std::int64_t rows, std::int64_t cols,
             std::int64_t first_row) {
  if (mlp.experts == 0) return {fmt::format("{}.weight", name), {rows, cols}, first_row};
  return {name, {mlp.experts, rows, cols}, mlp.expert * rows + first_row};
}

void add_mlp(const TableBuilder& table, const Mlp& mlp) {
  const std::int64_t hidden = mlp.hidden;
  const std::int64_t inner = mlp.inner;
  const auto add = [&](const char* name, std::int64_t rows, std::int64_t cols,
                       const LinearStyle& style, Linear* place, Source native) {
    WeightSpec& spec = table.linear(name, rows, cols, style, place);
    if (mlp.experts > 0) spec.expert = mlp.expert;
    table.native_source(spec, native.name, std::move(native.shape), native.first_row);
  };
  const LinearStyle in{Split::kRows, mlp.in, mlp.kind, kMlpGain};
  const LinearStyle out{Split::kColumns, mlp.out, mlp.kind, kMlpOutGain};
  const char* both = "gate_up_proj";
  add(mlp.gate_name, inner, hidden, in, mlp.gate, fused(mlp, both, 2 * inner, hidden, 0));
  add(mlp.up_name, inner, hidden, in, mlp.up, fused(mlp, both, 2 * inner, hidden, inner));
  add(mlp.down_name, hidden, inner, out, mlp.down, fused(mlp, "down_proj", hidden, inner, 0));
}

void add_dense(const TableBuilder& table, const Config& c, Mlp mlp, MlpWeights* w) {
  mlp.hidden = c.hidden;
  mlp.gate = at(w, &MlpWeights::gate);
  mlp.up = at(w, &MlpWeights::up);
  mlp.down = at(w, &MlpWeights::down);
  add_mlp(table, mlp);
}

void add_expert(const TableBuilder& moe, const Config& c, std::int64_t expert, MoeWeights* w) {
  Mlp mlp{c.hidden,
          c.expert_inner,
          Kind::kExpert,
          Fusion::kExpertsIn,
          Fusion::kExpertsOut,
          expert,
          c.experts,
          "w1",
          "w3",
          "w2"};
  if (w != nullptr) {
    const auto e = static_cast<std::size_t>(expert);
    mlp.gate = &w->gate[e];
    mlp.up = &w->up[e];
    mlp.down = &w->down[e];
  }
  add_mlp(moe.inside(fmt::format("experts.{}.", expert), "experts."), mlp);
}

void add_router(const TableBuilder& moe, const Config& c, MoeWeights* w) {
  WeightSpec& gate =
      moe.linear("gate", c.experts, c.hidden,
                 {Split::kReplicated, Fusion::kNone, Kind::kRouter, kRouterGain, false}, nullptr);
  gate.stored = DType::kF32;
  if (w != nullptr) gate.place = RouterPlace{&w->router};
  if (!c.router_bias) return;
  WeightSpec& bias = moe.vector("e_score_correction_bias", c.experts, kRouterBias,
                                at(w, &MoeWeights::router_bias));
  bias.stored = DType::kF32;
  bias.has_gradient = false;
  // Older releases of transformers keep it beside the gate, as the released names do, newer ones
  // inside: both are other names.
  TableBuilder inside_gate = moe.inside("", "gate.");
  const auto older = bias.others;
  inside_gate.native_source(bias, "e_score_correction_bias", bias.shape, 0);
  bias.others.insert(bias.others.end(), older.begin(), older.end());
}

void add_moe(const TableBuilder& layer, const Config& c, MoeWeights* w) {
  const TableBuilder moe = layer.inside("block_sparse_moe.", "mlp.");
  add_router(moe, c, w);
  for (std::int64_t expert = 0; expert < c.experts; ++expert) add_expert(moe, c, expert, w);
  if (c.shared_experts > 0)
    add_dense(moe.inside("shared_experts."), c,
              {.inner = c.shared_inner, .kind = Kind::kSharedExpert, .in = Fusion::kShared},
              inner(w, &MoeWeights::shared));
}

}  // namespace

void add_layer(const TableBuilder& table, const Config& config, bool sparse, bool moe,
               LayerWeights* w) {
  using L = LayerWeights;
  table.vector("input_layernorm.weight", config.hidden, kNorm, at(w, &L::attention_norm));
  table.vector("post_attention_layernorm.weight", config.hidden, kNorm, at(w, &L::ffn_norm));
  add_attention(table, config, at(w, &L::attention));
  if (sparse) add_indexer(table, config, inner(w, &L::indexer));
  if (moe)
    add_moe(table, config, inner(w, &L::moe));
  else
    add_dense(table.inside("mlp."), config, {.inner = config.dense_inner}, inner(w, &L::mlp));
}

}  // namespace m3
