// A table of one instruction set whose linear layers and attention multiply by tiles. For isa_*.cc
// only.
#pragma once

#include "backend/cpu/isa_table.h"
#include "backend/cpu/loops_amx.h"
#include "backend/cpu/loops_amx_pairs.h"

namespace m3::cpu {
namespace {

template <class D, class Tiles>
constexpr Kernels with_tiles(Kernels k, const char* name) {
  k.name = name;
  k.x_panel_rows = kXPanelRows;
  k.x_panel_bytes = x_panel_bytes;
  k.pack_x_panel = pack_x_panel<D>;
  k.dot = dot_tiles<typename D::Simd, Tiles>;
  k.multiply_pairs = multiply_pairs_in_tiles<Tiles>;
  return k;
}

}  // namespace
}  // namespace m3::cpu
