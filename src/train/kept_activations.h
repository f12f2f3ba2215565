// The buffers of a forward that is differentiated: what the backward pass reads again is each
// layer's own, all else is shared as in inference.
#pragma once

#include <cstdint>
#include <vector>

#include "model/activations.h"
#include "model/config.h"

namespace m3 {

struct KeptLayer {
  Activations a;  // of which hidden, normed, branch and what only selects blocks are shared
  Tensor input;   // [tokens, hidden]: the residual stream before attention
  Tensor middle;  // [tokens, hidden]: before the feed-forward

  KeptLayer first(std::int64_t tokens) const;
};

// What a layer keeps until its backward pass.
enum class Keep {
  kAll,
  // Its input, the router's picks and their weights, and the block lists; what it computes of them
  // is in buffers that all layers share, and is computed again (spec: training §4.6, §8.7).
  kInputs,
};

class KeptActivations {
 public:
  // For batches of up to `tokens` rows; logits of `chunk` rows at a time. MTP modules are layers
  // after the model's.
  KeptActivations(const Config& config, std::int64_t mtp_modules, std::int64_t tokens,
                  std::int64_t chunk, Keep keep);

  // What one takes, without making it.
  static std::int64_t bytes_for(const Config& config, std::int64_t mtp_modules, std::int64_t tokens,
                                std::int64_t chunk, Keep keep);

  std::int64_t tokens() const { return shared_.tokens(); }
  const Activations& shared() const { return shared_.activations(); }
  // Of the first `tokens` rows.
  KeptLayer layer(std::int64_t index, std::int64_t tokens) const {
    return layers_[static_cast<std::size_t>(index)].first(tokens);
  }
  std::int64_t bytes() const;

 private:
  // Gives `make` the placements of one layer's tensors after the other's.
  template <typename Make>
  static void place(const Config& config, std::int64_t tokens, Keep keep, const Activations& shared,
                    std::vector<KeptLayer>& layers, const Make& make);

  ActivationArena shared_;
  std::vector<KeptLayer> layers_;
  std::vector<Buffer> buffers_;
};

}  // namespace m3
