// Fills the table of one instruction set from the loops. For isa_*.cc only: S is a simd_*.h, D the
// way in which it multiplies bfloat16.
#pragma once

#include "backend/cpu/kernels.h"
#include "backend/cpu/loops_attention.h"
#include "backend/cpu/loops_dot.h"
#include "backend/cpu/loops_gradients.h"
#include "backend/cpu/loops_pairs.h"
#include "backend/cpu/loops_panel_e2m1.h"
#include "backend/cpu/loops_panel_int8.h"
#include "backend/cpu/loops_panels.h"
#include "backend/cpu/loops_probe.h"
#include "backend/cpu/loops_rows.h"
#include "backend/cpu/loops_tile.h"

namespace m3::cpu {
namespace {

template <class S, class D>
constexpr Kernels make_kernels(const char* name, const char* multiply_instruction) {
  Kernels k{};
  k.name = name;
  k.panel_dot = panel_dot<D>;
  k.packed_bytes_int8 = packed_bytes_int8;
  k.pack_int8 = pack_int8<S>;
  k.panel_dot_int8 = panel_dot_int8<D>;
  k.packed_bytes_e2m1 = packed_bytes_e2m1<D>;
  k.pack_e2m1 = pack_e2m1<D>;
  k.packed_row_bytes = packed_bytes<D>;
  k.pack_row = pack<D>;
  k.x_panel_rows = 1;
  k.dot = dot<D>;
  k.packed_bytes_f32 = packed_bytes<F32Dot<S>>;
  k.pack_f32 = pack<F32Dot<S>>;
  k.dot_f32 = dot_f32<S>;
  k.multiply_pairs = multiply_pairs<D>;
  k.decode = decode<S>;
  k.rms_norm = rms_norm<S>;
  k.layer_norm = layer_norm<S>;
  k.rotate = rotate<S>;
  k.to_bf16 = to_bf16<S>;
  k.add = add<S>;
  k.add_scaled = add_scaled<S>;
  k.scale_add = scale_add<S>;
  k.swiglu = swiglu<S>;
  k.gelu = gelu<S>;
  k.exp = exp<S>;
  k.span_pairs = span_pairs<S>;
  k.to_pairs = to_pairs<S>;
  k.inner_product = inner_product<S>;
  k.rms_norm_gradient = rms_norm_gradient<S>;
  k.softmax_gradient = softmax_gradient<S>;
  k.swiglu_gradient = swiglu_gradient<S>;
  k.largest = largest<S>;
  k.log_sum_exp = log_sum_exp<S>;
  k.softmax_piece = softmax_piece<D>;
  k.merge = merge<S>;
  k.widen_e4m3 = widen_e4m3<S>;
  k.read_streams = read_streams<S>;
  k.multiply_in_registers = multiply_f32<S>;
  k.flops_per_round = kF32FlopsPerRound<S>;
  k.multiply_instruction = multiply_instruction;
  k.multiply_int8_in_registers = multiply_int8<D>;
  k.int8_ops_per_round = kInt8OpsPerRound<S>;
  k.multiply_int8_instruction = D::kQuadsInstruction;
  return k;
}

}  // namespace
}  // namespace m3::cpu
