// The layout in which linear layers read weights: panels of 16 outputs.
//
// A vector of an AVX-512 machine holds one number of each of the 16 outputs of a panel: nothing is
// summed across lanes, and a scale is one vector for a whole block of columns. Four panels are a
// group, in which their spans take turns, so that a span of x serves all of them. A weight is one
// stream from its first byte to its last: reading it in order reaches the memory's speed, which
// reading several rows side by side does not. In bfloat16 a block of a panel is what tiles of AMX
// want their second factor to be.
//
//   weight = groups of 4 panels; the last one may have fewer
//   group  = span 0 of each panel, then span 1 of each, ...
//   panel  = 16 outputs in spans of 128 columns; the last panel and span are padded with zeros
//   span   = scales, then values
//   scales = [block of 32 or 16 columns][16 outputs]; none in bfloat16
//   values = loads of 64 bytes, 4 for each output: 2 columns of 16 bits, 4 of 8 or 8 of 4
//
// Loads of two neighbouring blocks take turns: two chains of additions that do not wait for each
// other, and yet a kernel reads line after line. (Zen 4, one core, 4 rows of bfloat16: 0.92 of the
// read bandwidth; with four blocks in turns, of which it used two at a time, 0.52.) Those of int8
// lie one after the other.
//
// Within an output's 4 bytes, columns lie so that they fall out of a vector in pairs: of bfloat16
// as they are, of 8-bit floats 0 2 1 3 (columns 0 1 are the lower bytes of two words, 2 3 the upper
// ones), of integers 0 1 2 3, of 4 bits the even columns in the lower word and the odd ones in the
// upper, from the lowest nibble up.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/kernels.h"

namespace m3::cpu {

// What a weight of `outputs` x k takes in panels, kPanelPadding included. Its format has_panels().
std::int64_t weight_panel_bytes(WeightFormat format, std::int64_t outputs, std::int64_t k);

// Where group `group` begins in a weight in panels.
std::int64_t group_offset(WeightFormat format, std::int64_t k, std::int64_t group);

// Writes groups [first, last) of w, which has `outputs` rows, to their places behind `out`: the
// start of group 0, 64-byte aligned. The padding is written with the last group.
void pack_panels(const WeightRows& w, std::int64_t outputs, std::int64_t k, std::int64_t first,
                 std::int64_t last, std::byte* out);

}  // namespace m3::cpu
