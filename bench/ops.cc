// m3_bench_ops [--isa NAME] [--threads N] [--quick] [FILTER]: how close the ops of the cpu backend
// come to the limits of this machine, at the released sizes.
//
// One line of CSV per case: op, shape, format, isa, threads, median of the samples in ms, spread
// (slowest - fastest) / median, GB/s and TFLOP/s of what must be read and done, and the roofline:
// which limit binds (read, matrix or int8) and the share of it. Limits are measured just before and
// after the case. Weights are in the layout that the backend wants and, for few rows, distinct
// memory of more than 1 GB, as in a model: nothing is read twice while it may still be in a cache.
#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <functional>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "bench/ops_case.h"
#include "bench/ops_weights.h"
#include "ops/gradients.h"

namespace m3 {
namespace {

void bench_linear(Bench& bench, Backend& backend, Format format, std::int64_t rows,
                  std::int64_t outputs, std::int64_t k) {
  const Codec& codec = codec_of(format);
  const Name name{"linear", fmt::format("{}x{}x{}", rows, outputs, k), std::string(codec.name)};
  if (!bench.wants(name)) return;
  const WeightCopies weights(backend, codec, outputs, k, rows <= kFewRows ? kDistinctBytes : 1);
  Buffer in(rows * k * 4), result(rows * outputs * 4);
  const Tensor x = in.tensor(DType::kF32, {rows, k});
  const Tensor out = result.tensor(DType::kF32, {rows, outputs});
  fill(x);
  const Matrix& w = weights[0].weight;
  bench.measure({name, static_cast<double>(w.bytes()),
                 2.0 * static_cast<double>(rows * outputs * k),
                 format == Format::kInt8 && w.packed != nullptr, [&](std::int64_t i) {
                   const LinearOutput output{&weights[i], out};
                   backend.linear(x, {&output, 1});
                 }});
}

// By x through a weight as it is stored, or by the weight.
void bench_linear_gradient(Bench& bench, Backend& backend, Format format, bool by_weight,
                           std::int64_t rows, std::int64_t outputs, std::int64_t k) {
  const Codec& codec = codec_of(format);
  const Name name{by_weight ? "linear_by_weight" : "linear_by_x",
                  fmt::format("{}x{}x{}", rows, outputs, k), std::string(codec.name)};
  if (!bench.wants(name)) return;
  const WeightCopies weights(backend, codec, outputs, k, 1);
  Buffer in(rows * k * 4), back(rows * outputs * 4), result((by_weight ? outputs : rows) * k * 4);
  const Tensor x = in.tensor(DType::kF32, {rows, k});
  const Tensor d_out = back.tensor(DType::kF32, {rows, outputs});
  const Tensor d = result.tensor(DType::kF32, {by_weight ? outputs : rows, k});
  fill(x);
  fill(d_out);
  bench.measure(case_of(
      name, /*few=*/false, 2.0 * static_cast<double>(rows * outputs * k), [&](std::int64_t) {
        const LinearGradient layer{&weights[0], d_out, by_weight ? d : Tensor(), {}, {}};
        backend.gradients()->linear(x, {&layer, 1}, by_weight ? Tensor() : d);
      }));
}

// Where the last `rows` of `context` tokens of one sequence find their pages.
class Places {
 public:
  Places(std::int64_t rows, std::int64_t context, std::int64_t page_tokens)
      : count_((context + page_tokens - 1) / page_tokens),
        slots_(rows * 8),
        sequences_(rows * 4),
        table_(count_ * 4),
        rows_{slots_.tensor(DType::kI64, {rows}), sequences_.tensor(DType::kI32, {rows}),
              table_.tensor(DType::kI32, {1, count_})} {
    auto* slot = rows_.slots.as<std::int64_t>();
    std::iota(slot, slot + rows, context - rows);
    std::iota(rows_.pages.as<std::int32_t>(), rows_.pages.as<std::int32_t>() + count_, 0);
  }
  std::int64_t pages() const { return count_; }
  const Rows& rows() const { return rows_; }

 private:
  std::int64_t count_;
  Buffer slots_, sequences_, table_;
  Rows rows_;
};

// Every byte an ordinary number, in bfloat16 and in e4m3.
void fill_cache(const Buffer& cached) {
  std::fill_n(cached.data(), cached.bytes(), std::byte{0x3e});
}

constexpr std::int64_t kPageTokens = 128, kKvHeads = 4, kHeadDim = 128, kTopk = 16;
constexpr std::int64_t kHeads = 64, kIndexHeads = 4;

// Of the released model's heads; without memory.
KvView released_cache(const Backend& backend, DType dtype) {
  KvView cache{.dtype = dtype,
               .order = backend.cache_format().order,
               .page_tokens = kPageTokens,
               .kv_heads = kKvHeads,
               .head_dim = kHeadDim};
  cache.head_stride = cache.head_bytes();
  cache.page_stride = kKvHeads * cache.head_stride;
  return cache;
}

std::string cache_name(DType dtype) {
  return dtype == DType::kBF16 ? "bf16" : "fp8";
}

// Random lists of blocks, as far apart as they may be: nobody chooses what its neighbour chose.
void fill_blocks(const Tensor& blocks, const Tensor& slots) {
  std::uint32_t state = 1;
  for (std::int64_t row = 0; row < blocks.dim(0); ++row) {
    const std::int64_t visible = slots.as<std::int64_t>()[row] / kPageTokens + 1;
    for (std::int64_t h = 0; h < kKvHeads; ++h) {
      std::int32_t* list = blocks.row<std::int32_t>(row) + h * kTopk;
      for (std::int64_t i = 0; i < kTopk; ++i) {
        state = state * 1664525u + 1013904223u;
        const std::int64_t first = visible * i / kTopk, end = visible * (i + 1) / kTopk;
        list[i] =
            first == end ? -1 : static_cast<std::int32_t>(first + (state >> 8) % (end - first));
      }
      list[kTopk - 1] = static_cast<std::int32_t>(visible - 1);
    }
  }
}

// One sequence of `context` tokens; the last `rows` of them ask, all blocks or 16 random ones.
void bench_attention(Bench& bench, Backend& backend, bool sparse, std::int64_t rows,
                     std::int64_t context, DType dtype) {
  const Name name{sparse ? "sparse_attention" : "attention", fmt::format("{}x{}", rows, context),
                  cache_name(dtype)};
  if (!bench.wants(name)) return;
  KvView cache = released_cache(backend, dtype);
  const Places places(rows, context, kPageTokens);
  Buffer cached(places.pages() * cache.page_stride), queries(rows * kHeads * kHeadDim * 4),
      result(rows * kHeads * kHeadDim * 4), lists(rows * kKvHeads * kTopk * 4);
  cache.base = cached.data();
  fill_cache(cached);
  const Tensor q = queries.tensor(DType::kF32, {rows, kHeads * kHeadDim});
  const Tensor out = result.tensor(DType::kF32, {rows, kHeads * kHeadDim});
  const Tensor blocks = lists.tensor(DType::kI32, {rows, kKvHeads, kTopk});
  fill(q);
  fill_blocks(blocks, places.rows().slots);
  std::int64_t tokens = 0;  // of all rows
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t seen = context - rows + row + 1;
    const std::int64_t whole = std::min(kTopk - 1, (seen - 1) / kPageTokens);
    tokens += sparse ? whole * kPageTokens + (seen - 1) % kPageTokens + 1 : seen;
  }
  const bool few = rows < 4;
  const auto work = static_cast<double>(few ? tokens * kKvHeads * 2 * kHeadDim * dtype_size(dtype)
                                            : 4 * tokens * kHeads * kHeadDim);
  bench.measure(case_of(name, few, work, [&](std::int64_t) {
    backend.attention(q, places.rows(), cache, 0.088f, sparse ? &blocks : nullptr, out, {});
  }));
}

// One sequence on its way back: five products where forward has two.
void bench_attention_gradient(Bench& bench, Backend& backend, std::int64_t rows) {
  const Name name{"attention_gradient", fmt::format("{}x{}", rows, rows), "bf16"};
  if (!bench.wants(name)) return;
  KvView cache = released_cache(backend, DType::kBF16);
  const Places places(rows, rows, kPageTokens);
  Buffer cached(places.pages() * cache.page_stride), sums(rows * kHeads * 4);
  cache.base = cached.data();
  fill_cache(cached);
  std::vector<Buffer> buffers;
  const auto make = [&](std::int64_t heads) {
    buffers.emplace_back(rows * heads * kHeadDim * 4);
    const Tensor x = buffers.back().tensor(DType::kF32, {rows, heads * kHeadDim});
    fill(x);
    return x;
  };
  const Tensor q = make(kHeads), out = make(kHeads), d_out = make(kHeads), d_q = make(kHeads);
  const Tensor d_k = make(kKvHeads), d_v = make(kKvHeads);
  const Tensor log_sums = sums.tensor(DType::kF32, {rows, kHeads});
  backend.attention(q, places.rows(), cache, 0.088f, nullptr, out, log_sums);
  const auto pairs = static_cast<double>(rows * (rows + 1) / 2);
  bench.measure(case_of(name, /*few=*/false, 10 * pairs * kHeads * kHeadDim, [&](std::int64_t) {
    backend.gradients()->attention(q, places.rows(), cache, 0.088f, nullptr, out, log_sums, d_out,
                                   d_q, d_k, d_v);
  }));
}

void bench_select(Bench& bench, Backend& backend, std::int64_t rows, std::int64_t context,
                  DType dtype) {
  const Name name{"select_blocks", fmt::format("{}x{}", rows, context), cache_name(dtype)};
  if (!bench.wants(name)) return;
  IndexView cache{.dtype = dtype,
                  .order = backend.cache_format().order,
                  .page_tokens = kPageTokens,
                  .dim = kHeadDim};
  cache.page_stride = cache.keys(0).bytes();
  const Places places(rows, context, kPageTokens);
  const bool few = rows < 4;
  // A decoding model reads the keys of its other layers, and its weights, in between.
  const std::int64_t bytes = places.pages() * cache.page_stride;
  const std::int64_t copies = few ? std::max<std::int64_t>(1, kDistinctBytes / bytes) : 1;
  Buffer cached(copies * bytes), queries(rows * kIndexHeads * kHeadDim * 4),
      result(rows * kIndexHeads * kTopk * 4);
  fill_cache(cached);
  const Tensor q = queries.tensor(DType::kF32, {rows, kIndexHeads * kHeadDim});
  const Tensor blocks = result.tensor(DType::kI32, {rows, kIndexHeads, kTopk});
  fill(q);
  const double flops = static_cast<double>(rows * (2 * context - rows) * kIndexHeads * kHeadDim);
  bench.measure(case_of(name, few, few ? static_cast<double>(bytes) : flops, [&](std::int64_t i) {
    cache.base = cached.data() + i % copies * bytes;
    backend.select_blocks(q, places.rows(), cache, {}, blocks);
  }));
}

// A picture of `rows` patches in the released vision tower.
void bench_segment_attention(Bench& bench, Backend& backend, std::int64_t rows) {
  constexpr std::int64_t kVisionHeads = 16, kDim = 80, kWidth = kVisionHeads * kDim;
  const Name name{"segment_attention", fmt::format("{}x{}", rows, kDim), "bf16"};
  if (!bench.wants(name)) return;
  Buffer buffers[4] = {Buffer(rows * kWidth * 4), Buffer(rows * kWidth * 4),
                       Buffer(rows * kWidth * 4), Buffer(rows * kWidth * 4)};
  Tensor q, k, v, out;
  Buffer* next = buffers;
  for (Tensor* x : {&q, &k, &v, &out}) {
    *x = (next++)->tensor(DType::kF32, {rows, kWidth});
    fill(*x);
  }
  Buffer ends(2 * 4);
  const Tensor segments = ends.tensor(DType::kI32, {2});
  segments.as<std::int32_t>()[1] = static_cast<std::int32_t>(rows);
  bench.measure(case_of(
      name, /*few=*/false, 4.0 * static_cast<double>(rows * rows * kWidth),
      [&](std::int64_t) { backend.segment_attention(q, k, v, segments, kDim, 0.112f, out); }));
}

// Each row reads and writes `touched` times its bytes.
void bench_elementwise(Bench& bench, Backend& backend, std::int64_t rows, std::int64_t dim) {
  Buffer a(rows * dim * 4), b(rows * dim * 4), w(dim * 4);
  const Tensor x = a.tensor(DType::kF32, {rows, dim}), y = b.tensor(DType::kF32, {rows, dim});
  const Tensor weight = w.tensor(DType::kF32, {dim});
  fill(x);
  fill(y);
  const std::string shape = fmt::format("{}x{}", rows, dim);
  const auto bytes = static_cast<double>(x.bytes());
  const Name norm{"rms_norm", shape, "f32"}, swiglu{"swiglu", shape, "f32"};
  if (bench.wants(norm))
    bench.measure(case_of(norm, /*few=*/true, 2 * bytes,
                          [&](std::int64_t) { backend.rms_norm(x, weight, 1e-6f, y); }));
  if (bench.wants(swiglu))
    bench.measure(case_of(swiglu, /*few=*/true, 3 * bytes,
                          [&](std::int64_t) { backend.swiglu(x, y, {}, y); }));
}

void run_all(Bench& bench, Backend& backend) {
  for (Format format :
       {Format::kBF16, Format::kMxfp8, Format::kMxfp4, Format::kNvfp4, Format::kInt8}) {
    for (std::int64_t rows : {1, 4, 16}) {
      bench_linear(bench, backend, format, rows, 3072, 6144);
      bench_linear(bench, backend, format, rows, 6144, 3072);
      bench_linear(bench, backend, format, rows, 12288, 6144);
    }
    for (std::int64_t rows : {64, 512, 2048})
      bench_linear(bench, backend, format, rows, 3072, 6144);
  }
  for (const Format format : {Format::kBF16, Format::kMxfp8, Format::kMxfp4, Format::kNvfp4})
    for (const std::int64_t rows : {64, 512, 2048})
      bench_linear_gradient(bench, backend, format, /*by_weight=*/false, rows, 3072, 6144);
  for (const std::int64_t rows : {64, 512, 2048})
    bench_linear_gradient(bench, backend, Format::kBF16, /*by_weight=*/true, rows, 3072, 6144);
  bench_attention_gradient(bench, backend, 2048);
  // The vision tower's, as it cuts a picture of 2,304 patches.
  bench_linear(bench, backend, Format::kBF16, 2304, 1280, 1280);
  bench_linear(bench, backend, Format::kBF16, 576, 5120, 1280);
  bench_linear(bench, backend, Format::kBF16, 576, 1280, 5120);
  for (const std::int64_t rows : {256, 2304, 9216}) bench_segment_attention(bench, backend, rows);
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3}) {
    bench_attention(bench, backend, /*sparse=*/false, 1, 32768, dtype);
    bench_attention(bench, backend, /*sparse=*/false, 2048, 2048, dtype);
    bench_attention(bench, backend, /*sparse=*/false, 256, 32768, dtype);
    bench_attention(bench, backend, /*sparse=*/true, 1, 32768, dtype);
    bench_attention(bench, backend, /*sparse=*/true, 2048, 32768, dtype);
    bench_select(bench, backend, 1, 131072, dtype);
    bench_select(bench, backend, 2048, 32768, dtype);
  }
  bench_elementwise(bench, backend, 512, 6144);
}

int run(const Options& options) {
  ThreadPool pool(options.threads);
  auto backend = make_cpu_backend(options.isa, pool);
  auto probe = backend ? MachineProbe::create(pool, options.isa)
                       : Result<MachineProbe>(pass(std::move(backend)));
  if (!probe) {
    fmt::print(stderr, "{}\n", probe.error().message);
    return 1;
  }
  const MachineLimits limits = probe->measure();
  fmt::print(
      "# reads {:.1f} GB/s ({} streams a thread), {} {:.3f} TFLOP/s, {} {:.3f} TOP/s, {} "
      "threads\n",
      limits.read_gb_per_s, limits.read_streams, limits.matrix_instruction,
      limits.matrix_tflop_per_s, limits.int8_instruction, limits.int8_top_per_s, pool.threads());
  fmt::print("op,shape,format,isa,threads,median_ms,spread,gbps,tflops,limit,share\n");
  Bench bench(options, **backend, *probe, pool.threads());
  run_all(bench, **backend);
  return 0;
}

Result<Options> parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    const bool has_value = i + 1 < argc;
    if (word == "--isa" && has_value) {
      options.isa = argv[++i];
    } else if (word == "--threads" && has_value) {
      const std::string_view value = argv[++i];
      const auto [end, error] =
          std::from_chars(value.data(), value.data() + value.size(), options.threads);
      if (error != std::errc{} || end != value.data() + value.size() || options.threads < 1)
        return fail("--threads takes a number of at least 1, not '{}'", value);
    } else if (word == "--quick") {
      options.quick = true;
    } else if (word.starts_with("--")) {
      return fail("unknown option '{}', or its value is missing", word);
    } else {
      options.filter = word;
    }
  }
  return options;
}

}  // namespace
}  // namespace m3

int main(int argc, char** argv) {
  const auto options = m3::parse(argc, argv);
  if (options) return m3::run(*options);
  fmt::print(stderr, "{}\n", options.error().message);
  return 1;
}
