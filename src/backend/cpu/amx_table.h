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
  k.x_panel_bytes = x_panel_bytes_with_rows<D>;
  k.pack_x_panel = pack_x_panel<D>;
  k.x_panel_bytes_e2m1 = x_panel_bytes_e2m1<D>;
  k.pack_x_panel_e2m1 = pack_x_panel_e2m1<D>;
  k.dot = dot_in_tiles<typename D::Simd, Tiles>;
  k.panel_dot = panel_dot_in_tiles<D, Tiles>;
  k.multiply_pairs = multiply_pairs_in_tiles<Tiles>;
  return k;
}

}  // namespace
}  // namespace m3::cpu
