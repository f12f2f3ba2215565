// The peak of TDPBF16PS, the matrix instruction of AMX.
#pragma once

#include <cstdint>

namespace m3::cpu {

// Asks the kernel to let this process use the tiles. False where there are none, or it refuses.
bool amx_granted();

// Multiplies tiles in registers alone: 16 x 16 sums of 32 products each, kAmxTilesPerRound times a
// round. Only after amx_granted().
void amx_multiply(std::int64_t rounds);

inline constexpr double kAmxTilesPerRound = 4;
inline constexpr double kAmxFlopsPerRound = kAmxTilesPerRound * 16 * 16 * 32 * 2;

}  // namespace m3::cpu
