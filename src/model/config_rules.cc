#include <algorithm>

#include "model/config_readers.h"

namespace m3 {
namespace {

Status check_attention(const Config& c) {
  // What one product of the attention kernels takes; the released model has 16 and 4.
  constexpr std::int64_t kHeadsMax = 192;
  if (c.heads / c.kv_heads > kHeadsMax || c.kv_heads > kHeadsMax)
    return fail(
        "num_attention_heads {} and num_key_value_heads {}; expected at most {} K/V heads and "
        "as many query heads for each",
        c.heads, c.kv_heads, kHeadsMax);
  if (c.heads % c.kv_heads != 0)
    return fail("num_attention_heads {} is not a multiple of num_key_value_heads {}", c.heads,
                c.kv_heads);
  if (c.heads * c.head_dim > kWidthMax)
    return fail("num_attention_heads {} times head_dim {} is more than {}", c.heads, c.head_dim,
                kWidthMax);
  if (c.rotary_dim % 8 != 0)
    return fail("rotary_dim is {}; expected a multiple of 8", c.rotary_dim);
  if (c.rotary_dim < 8 || c.rotary_dim > c.head_dim)
    return fail("rotary_dim is {}; expected 8 to head_dim, which is {}", c.rotary_dim, c.head_dim);
  return {};
}

Status check_rope(const Config& c) {
  if (c.yarn && c.rope_theta <= 1)
    return fail("rope_theta is {}; with yarn expected more than 1", c.rope_theta);
  return {};
}

Status check_selection(const Config& c) {
  const Selection& s = c.selection;
  if (c.index_heads != c.kv_heads)
    return fail("sparse_num_index_heads is {}; expected num_key_value_heads, which is {}",
                c.index_heads, c.kv_heads);
  if (c.index_heads * c.index_dim > kWidthMax)
    return fail("sparse_num_index_heads {} times sparse_index_dim {} is more than {}",
                c.index_heads, c.index_dim, kWidthMax);
  if (c.rotary_dim > c.index_dim)
    return fail("rotary_dim is {}; expected at most sparse_index_dim, which is {}", c.rotary_dim,
                c.index_dim);
  if (s.topk < std::max<std::int64_t>(s.init_blocks + s.local_blocks, 1))
    return fail("sparse_topk_blocks is {}; it cannot hold {} initial and {} local blocks", s.topk,
                s.init_blocks, s.local_blocks);
  return {};
}

Status check_experts(const Config& c) {
  if (c.experts_per_token > c.experts)
    return fail("num_experts_per_tok is {}; expected at most num_local_experts, which is {}",
                c.experts_per_token, c.experts);
  if (c.shared_inner > kWidthMax)
    return fail("the {} shared experts are {} wide together; at most {} is read", c.shared_experts,
                c.shared_inner, kWidthMax);
  if (c.experts * (c.layers + c.mtp_modules) > kExpertsMax)
    return fail("num_local_experts {} in {} layers is more than {} experts", c.experts,
                c.layers + c.mtp_modules, kExpertsMax);
  return {};
}

Status check_vision(const VisionConfig& v) {
  if (v.hidden % v.heads != 0 || v.hidden / v.heads % 2 != 0)
    return fail("vision_config.hidden_size {} does not give {} heads of an even width", v.hidden,
                v.heads);
  return {};
}

}  // namespace

Status check_rules(const Config& config) {
  M3_TRY_STATUS(check_attention(config));
  M3_TRY_STATUS(check_rope(config));
  // Rules on blocks hold wherever they are described: MTP modules use them even if no layer does.
  if (config.index_heads > 0) M3_TRY_STATUS(check_selection(config));
  if (config.experts > 0) M3_TRY_STATUS(check_experts(config));
  return config.vision ? check_vision(*config.vision) : Status();
}

}  // namespace m3
