// What one instruction set offers the ops: a table of plain functions, filled by isa_*.cc.
//
// Those files are compiled with flags that the rest of the program must not see, so this header
// names no class with inline functions: an AVX-512 copy of one could be the copy that the linker
// keeps. The ops (linear.cc, attention.cc, ...) check shapes, cut the work for the threads and call
// these.
//
// Layouts that are private to a table:
// - a *packed row*, one row of x as the dot kernels want it: rounded to bfloat16 (or left in
//   float32 for dot_f32), zero-padded, and unzipped into even and odd elements where the
//   instruction set multiplies in float32 only;
// - a *panel of x*, up to x_panel_rows rows together, where the instruction set multiplies tiles.
#pragma once

#include <cstddef>
#include <cstdint>

namespace m3::cpu {

// How the rows of a weight lie in memory (tensor/codec_*.cc; spec: text-model §2.4, §2.5).
enum class WeightFormat : std::uint8_t { kBF16, kMxfp8, kF16, kF32, kMxfp4, kNvfp4, kInt8 };

static constexpr std::int64_t divide_up(std::int64_t n, std::int64_t unit) {
  return (n + unit - 1) / unit;
}
static constexpr std::int64_t round_up(std::int64_t n, std::int64_t unit) {
  return divide_up(n, unit) * unit;
}

// What a row of a format takes.
struct WeightLayout {
  std::int64_t value_bits;     // of one value
  std::int64_t scale_columns;  // columns that share a scale; 0: no scales
  std::int64_t scale_bytes;    // of one scale
};
inline constexpr WeightLayout kWeightLayouts[] = {{16, 0, 0}, {8, 32, 1}, {16, 0, 0}, {32, 0, 0},
                                                  {4, 32, 1}, {4, 16, 1}, {8, 32, 2}};
// Static: every file has a copy of its own.
static constexpr WeightLayout layout_of(WeightFormat format) {
  return kWeightLayouts[static_cast<int>(format)];
}
// Bytes of one row of k columns; k is even where a byte holds two values.
static constexpr std::int64_t value_row_bytes(WeightFormat format, std::int64_t k) {
  return k * layout_of(format).value_bits / 8;
}
static constexpr std::int64_t scale_row_bytes(WeightFormat format, std::int64_t k) {
  const WeightLayout layout = layout_of(format);
  if (layout.scale_columns == 0) return 0;
  return divide_up(k, layout.scale_columns) * layout.scale_bytes;
}

// `outputs` consecutive rows of a weight [N, k].
struct WeightRows {
  WeightFormat format = WeightFormat::kBF16;
  const void* values = nullptr;          // [outputs, value_row_bytes()], dense, at any address
  const std::uint8_t* scales = nullptr;  // [outputs, scale_row_bytes()], at any address
  float scale = 1;                       // of the whole weight: Matrix::scale
};

// out[t * out_stride + n] = w.scale * sum over k of x[t, k] * w[n, k].
struct DotJob {
  // [rows] packed rows; or, for a dot that takes panels, [ceil(rows / kXPanelRows)] of them, all
  // but the last one full.
  const void* const* x = nullptr;
  std::int64_t rows = 0;  // panels: <= kTileRowBlock
  WeightRows w;
  std::int64_t outputs = 0;  // <= kOutputBlock; kTileOutputBlock
  std::int64_t k = 0;
  float* out = nullptr;
  std::int64_t out_stride = 0;  // elements
  void* scratch = nullptr;      // kDotScratchBytes, 64-byte aligned
};

// The same for a weight in panels of 16 outputs, four of which are a group: spans of 128 columns,
// each its scales (if any) and then its values, 64-byte aligned (panels.h).
inline constexpr std::int64_t kPanelOutputs = 16;
inline constexpr std::int64_t kGroupOutputs = 64;
inline constexpr std::int64_t kSpanColumns = 128;
static constexpr bool has_panels(WeightFormat format) {
  return format == WeightFormat::kBF16 || layout_of(format).scale_columns > 0;
}
// Blocks of columns with a scale of their own; where there are no scales, of 32 columns.
static constexpr std::int64_t block_columns(WeightFormat format) {
  const std::int64_t columns = layout_of(format).scale_columns;
  return columns > 0 ? columns : 32;
}
// Neighbouring blocks whose loads take turns, in the order in which kernels use them: these have a
// chain of additions for each, but one for all of an integer block.
static constexpr std::int64_t blocks_in_turns(WeightFormat format) {
  return format == WeightFormat::kInt8 ? 1 : 2;
}
static constexpr std::int64_t scale_bytes_of_span(WeightFormat format) {
  return scale_row_bytes(format, kSpanColumns) * kPanelOutputs;
}
static constexpr std::int64_t span_bytes(WeightFormat format) {
  return scale_bytes_of_span(format) +
         kSpanColumns * layout_of(format).value_bits / 8 * kPanelOutputs;
}
static constexpr std::int64_t spans_of(std::int64_t k) {
  return divide_up(k, kSpanColumns);
}
static constexpr std::int64_t panels_of(std::int64_t outputs) {
  return divide_up(outputs, kPanelOutputs);
}
static constexpr std::int64_t panel_bytes(WeightFormat format, std::int64_t k) {
  return spans_of(k) * span_bytes(format);
}

static constexpr std::int64_t groups_of(std::int64_t outputs) {
  return divide_up(outputs, kGroupOutputs);
}

// Behind a weight's last panel: kernels read up to a byte further than a load, and what follows
// stays aligned.
inline constexpr std::int64_t kPanelPadding = 64;

inline constexpr std::int64_t kPanelRowsMax = 512;

// What a processor needs to read weights from memory at its speed, while a few rows are multiplied.
enum class ReadAhead : std::uint8_t {
  kSpans,  // it reads ahead by itself; whole spans are asked for where multiplying keeps it from it
  kLines,  // every line is asked for, into the second-level cache and then into the first
};

struct PanelJob {
  const void* const* x = nullptr;  // [rows] packed rows, or panels as in DotJob
  std::int64_t rows = 0;           // <= kPanelRowsMax
  WeightFormat format = WeightFormat::kMxfp8;
  const std::byte* group = nullptr;  // its first span; see group_offset()
  // All of the group's; where x comes in panels of many rows, of groups up to kTileOutputBlock.
  std::int64_t outputs = 0;
  std::int64_t k = 0;
  float scale = 1;  // of the whole weight
  float* out = nullptr;
  std::int64_t out_stride = 0;  // elements
  void* scratch = nullptr;      // kDotScratchBytes, 64-byte aligned
  ReadAhead ahead = ReadAhead::kSpans;
};

// Outputs of a dot of packed rows: a block of 1536 columns of their weights (384 KiB) stays in a
// 1 MiB second-level cache while the rows pass by.
inline constexpr std::int64_t kOutputBlock = 128;
inline constexpr std::int64_t kColumnBlockMax = 1536;
// Outputs of tiles, whose multiplications are so fast that a task must be larger (see loops_amx.h).
inline constexpr std::int64_t kXPanelRows = 16;
inline constexpr std::int64_t kTileRowBlock = 512;
inline constexpr std::int64_t kTileOutputBlock = 256;
// Kept between packed rows: rows at a distance of 4 KiB would fight for the same lines of the
// first-level cache (0.74 of the multiplication peak without, 0.9 with it).
inline constexpr std::int64_t kPackedPadding = 11 * 64;
// The most of: a block of decoded weights in bfloat16 or float32; the sums of a panel job, and a
// decoded chunk; a tile job's sums, and a strip of decoded weights.
inline constexpr std::int64_t kDotScratchBytes = kOutputBlock * kColumnBlockMax * 4;

// out[r, c] = sum over k of x[r, k] * y[k, c], products of bfloat16 and sums in float32, pair by
// pair in ascending order: what an element gets does not depend on the number of rows or columns.
struct PairsJob {
  const std::uint16_t* x = nullptr;  // [rows, x_stride], of which 2 * pairs count
  std::int64_t x_stride = 0;
  std::int64_t rows = 0;
  // y[k, c] lies at (k / 2) * y_stride + 2 * c + k % 2.
  const std::uint16_t* y = nullptr;
  std::int64_t y_stride = 0;
  std::int64_t columns = 0;  // whole multiples of kPairColumns
  std::int64_t pairs = 0;    // of k
  float* out = nullptr;      // [rows, out_stride]
  std::int64_t out_stride = 0;
  bool adds = false;  // to what out holds
  // Memory that will be read next, asked for along the way; null for none.
  const void* ahead = nullptr;
  std::int64_t ahead_bytes = 0;
};
inline constexpr std::int64_t kPairColumns = 16;

struct NormParams {
  const float* weight = nullptr;  // [dim], zero-centred for rms_norm
  float eps = 0;
  std::int64_t dim = 0;
};

struct SwiGluParams {
  float alpha = 0, limit = 0, beta = 0;  // limit <= 0: no clamping
};

// Softmax over rows of scores that come in pieces. s [rows, s_stride], of which `tokens` count.
struct SoftmaxPiece {
  const float* s = nullptr;
  std::int64_t s_stride = 0;
  std::int64_t rows = 0;
  std::int64_t tokens = 0;
  float scale = 1;  // > 0
  // [rows]: the largest scaled score so far and the sum of exp(score - m) so far, both brought up
  // to date; factor = exp(old m - new m), by which what was added up before is to be multiplied.
  float* m = nullptr;
  float* l = nullptr;
  float* factor = nullptr;
  // exp(scale * s - m) in bfloat16, [rows, p_stride]; zeros from `tokens` to p_stride, which is a
  // multiple of kPairColumns.
  std::uint16_t* p = nullptr;
  std::int64_t p_stride = 0;
};

// Softmax attention of some queries over some tokens, not yet divided (spec: text-model §3.6): m =
// max score, l = sum of exp(score - m), o = sum of exp(score - m) * v. No tokens: -inf, 0, 0.
struct Partial {
  float* m = nullptr;  // [queries]
  float* l = nullptr;  // [queries]
  float* o = nullptr;  // [queries, dim]
};

// The derivative of rms_norm by one row, d_x = (or += where it adds), and d_weight += its share.
struct RmsNormGradient {
  const float* x = nullptr;  // [norm.dim], as all
  NormParams norm;
  const float* d_out = nullptr;
  float* d_x = nullptr;  // may be d_out
  bool adds = false;
  float* d_weight = nullptr;  // null: nobody asks
};

// The derivative of softmax attention, token by token: s and what it becomes are [tokens, stride],
// queries side by side, padded to a multiple of kPairColumns.
struct SoftmaxGradient {
  const float* s = nullptr;          // scores, before `scale`
  const float* d_weights = nullptr;  // derivatives by the softmax's results
  std::int64_t tokens = 0;
  std::int64_t stride = 0;
  float scale = 1;
  // Of each query: log of the sum of its exp(scale * score) over all its tokens; the derivative by
  // its output times that output; how many of these tokens it sees.
  const float* log_sums = nullptr;
  const float* deltas = nullptr;
  const float* visible = nullptr;
  // In bfloat16: the softmax's results; derivatives by s, and the same as the right side of a
  // PairsJob over the tokens. 0 of tokens that are not seen.
  std::uint16_t* weights = nullptr;
  std::uint16_t* d_scores = nullptr;
  std::uint16_t* d_score_pairs = nullptr;  // [ceil(tokens / 2), stride, 2]
};

struct Kernels {
  using Dot = void (*)(const DotJob& job);

  const char* name;

  // Linear layers multiply packed rows where x_panel_rows is 1, else panels of x.
  std::int64_t x_panel_rows;  // 1 or kXPanelRows
  // Bytes of a packed row of k elements; a multiple of 64.
  std::int64_t (*packed_row_bytes)(std::int64_t k);
  void (*pack_row)(const float* x, std::int64_t k, void* packed);
  // Of `rows` <= x_panel_rows rows, for all formats but those of 4 bits, and for these; null where
  // x_panel_rows is 1. Multiples of 64.
  std::int64_t (*x_panel_bytes)(std::int64_t k, std::int64_t rows);
  void (*pack_x_panel)(const float* const* x, std::int64_t rows, std::int64_t k, void* panel);
  std::int64_t (*x_panel_bytes_e2m1)(std::int64_t k, std::int64_t rows);
  void (*pack_x_panel_e2m1)(const float* const* x, std::int64_t rows, std::int64_t k, void* panel);
  // x rounded to bfloat16, products and sums in float32. Every format gives what its weights,
  // without w.scale and rounded to bfloat16, would give in kBF16 with that scale, bit for bit.
  Dot dot;

  // For weights in panels of kBF16, kMxfp8, kMxfp4 or kNvfp4. Values are exact in bfloat16; sums of
  // whole blocks are multiplied by their scales in float32 (by tiles: weights are multiplied by
  // their scales, which is exact; subnormal ones count as zeros). x in packed rows or panels; for
  // kMxfp4 and kNvfp4 in those of pack_e2m1 or pack_x_panel_e2m1, where x is rounded to bfloat16
  // and then, block by block of 32 columns, to multiples of 2^-11 of the power of two of the
  // largest (loops_panel_e2m1.h).
  void (*panel_dot)(const PanelJob& job);

  std::int64_t (*packed_bytes_e2m1)(std::int64_t k);
  void (*pack_e2m1)(const float* x, std::int64_t k, void* packed);

  // For weights in panels of kInt8: x is rounded to 8 bits, block by block of 32 columns, and the
  // products of a block are added as integers.
  std::int64_t (*packed_bytes_int8)(std::int64_t k);
  void (*pack_int8)(const float* x, std::int64_t k, void* packed);
  void (*panel_dot_int8)(const PanelJob& job);

  // The same in float32 throughout; rows packed by pack_f32; kF32 weights only.
  std::int64_t (*packed_bytes_f32)(std::int64_t k);
  void (*pack_f32)(const float* x, std::int64_t k, void* packed);
  Dot dot_f32;

  void (*multiply_pairs)(const PairsJob& job);

  // The bfloat16 bits of `outputs` x [begin, end) of a weight, without w.scale, into out [outputs,
  // end - begin]. begin is a multiple of 32.
  void (*decode)(const WeightRows& w, std::int64_t outputs, std::int64_t k, std::int64_t begin,
                 std::int64_t end, std::uint16_t* out);

  void (*rms_norm)(const float* x, const NormParams& norm, float* out);
  void (*layer_norm)(const float* x, const NormParams& norm, const float* bias, float* out);
  // out[i] = a x[i] c[i] - x[i + h] s[i], out[i + h] = x[i + h] c[i] + x[i] s[i], h = rotary_dim /
  // 2; rotation = (c, s), each [h]. In place.
  void (*rotate)(float* x, const float* rotation, std::int64_t rotary_dim);
  void (*to_bf16)(const float* x, std::int64_t n, std::uint16_t* out);
  void (*add)(const float* x, std::int64_t n, float* sum);
  // sum += factor * x, fused where the instruction set can.
  void (*add_scaled)(const float* x, float factor, std::int64_t n, float* sum);
  // out = scale * x (+ addend, when not null). out may be x or addend.
  void (*scale_add)(const float* x, float scale, const float* addend, std::int64_t n, float* out);
  void (*swiglu)(const float* gate, const float* up, const SwiGluParams& params, std::int64_t n,
                 float* out);
  // out = gelu(x + bias), the exact form; no bias where it is null. out may be x.
  void (*gelu)(const float* x, const float* bias, std::int64_t n, float* out);
  void (*exp)(const float* x, std::int64_t n, float* out);

  // Derivatives. Right sides of a PairsJob: out[n / 2 * out_stride + 2 * k + n % 2] = output n and
  // column k of a span of a panel, scales included, rounded to bfloat16; out[2 * i] = a[i], out[2 *
  // i + 1] = b[i], or 0 where b is null.
  void (*span_pairs)(WeightFormat format, const std::byte* span, std::uint16_t* out,
                     std::int64_t out_stride);
  void (*to_pairs)(const float* a, const float* b, std::int64_t n, std::uint16_t* out);
  float (*inner_product)(const float* a, const float* b, std::int64_t n);
  void (*rms_norm_gradient)(const RmsNormGradient& gradient);
  void (*softmax_gradient)(const SoftmaxGradient& gradient);
  // d_gate and d_up may be gate and up.
  void (*swiglu_gradient)(const float* gate, const float* up, const SwiGluParams& params,
                          const float* d_out, std::int64_t n, float* d_gate, float* d_up);

  // NaN if any element is NaN. n >= 1.
  float (*largest)(const float* x, std::int64_t n);
  // log(sum(exp(x))). n >= 1.
  float (*log_sum_exp)(const float* x, std::int64_t n);
  void (*softmax_piece)(const SoftmaxPiece& piece);
  // total = total and part together; part's tokens come after total's.
  void (*merge)(const Partial& part, std::int64_t queries, std::int64_t dim, const Partial& total);
  // The bfloat16 bits of e4m3 numbers, which are exact.
  void (*widen_e4m3)(const std::uint8_t* x, std::int64_t n, std::uint16_t* out);

  // Probes. Reads `bytes` at `base`, walking `streams` (1, 2, 4 or 8) places at once.
  std::uint64_t (*read_streams)(const void* base, std::int64_t bytes, int streams);
  // Multiplies in registers alone; returns a value that depends on all of it.
  float (*multiply_in_registers)(std::int64_t rounds);
  double flops_per_round;
  const char* multiply_instruction;
  // The same of 8-bit integers, with which panel_dot_int8 multiplies.
  std::int32_t (*multiply_int8_in_registers)(std::int64_t rounds);
  double int8_ops_per_round;
  const char* multiply_int8_instruction;
};

// "amx", its portable twin beside AVX-512-BF16, and the twin beside x86-64.
extern const Kernels kAmxKernels;
extern const Kernels kAmxTwinKernels;
extern const Kernels kAmxTwinX86_64Kernels;
extern const Kernels kX86_64Kernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512VnniKernels;
extern const Kernels kAvx512Bf16Kernels;

}  // namespace m3::cpu
