#include "model/mtp_checkpoint.h"

namespace m3 {
namespace {

// A size that a module and the model that runs it share, under its name in config.json.
struct SharedSize {
  const char* name;
  std::int64_t Config::*member;
};

constexpr SharedSize kSharedSizes[] = {{"hidden_size", &Config::hidden},
                                       {"vocab_size", &Config::vocab},
                                       {"num_attention_heads", &Config::heads},
                                       {"num_key_value_heads", &Config::kv_heads},
                                       {"head_dim", &Config::head_dim},
                                       {"rotary_dim", &Config::rotary_dim},
                                       {"intermediate_size", &Config::expert_inner},
                                       {"shared_intermediate_size", &Config::shared_inner},
                                       {"num_local_experts", &Config::experts},
                                       {"num_experts_per_tok", &Config::experts_per_token},
                                       {"n_shared_experts", &Config::shared_experts},
                                       {"sparse_num_index_heads", &Config::index_heads},
                                       {"sparse_index_dim", &Config::index_dim},
                                       {"sparse_block_size", &Config::block_tokens}};

}  // namespace

Result<StandaloneMtp> open_mtp(const std::string& directory, const Config& config) {
  StandaloneMtp mtp;
  M3_TRY(mtp.config, load_config(directory));
  for (const SharedSize& size : kSharedSizes)
    if (mtp.config.*size.member != config.*size.member)
      return fail(
          "{}/config.json says {} = {}, but the model has {}: these MTP modules belong to another "
          "model",
          directory, size.name, mtp.config.*size.member, config.*size.member);
  M3_TRY(mtp.checkpoint, Checkpoint::open(directory));
  return mtp;
}

}  // namespace m3
