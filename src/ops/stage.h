// The parts of a step that time and work are told apart by.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace m3 {

enum class Stage : std::uint8_t {
  kWeights,    // linear layers: projections, MLP, experts
  kAttention,  // scores and sums over K and V
  kIndex,      // block selection over index keys
  kRouter,
  kHead,
  kRest,  // norms, rotations, activations, what is stored, gathered and added
};

inline constexpr std::array<std::string_view, 6> kStageNames{"weights", "attention", "index",
                                                             "router",  "head",      "rest"};

// One value for each stage.
template <typename T>
struct PerStage {
  std::array<T, kStageNames.size()> values{};

  T& operator[](Stage stage) { return values[static_cast<std::size_t>(stage)]; }
  const T& operator[](Stage stage) const { return values[static_cast<std::size_t>(stage)]; }
};

}  // namespace m3
