#include "model/packed_weights.h"

#include <chrono>
#include <filesystem>

#include "model/weight_match.h"

namespace m3 {
namespace {

// All weights of a checkpoint, to be packed into its file.
struct Everything {
  Weights weights;
  Linears linears;
};

Status load_everything(const Config& config, std::shared_ptr<const Checkpoint> checkpoint,
                       const Progress& progress, ThreadPool* pool, bool vision, Everything& all) {
  M3_TRY(const std::int64_t modules, count_mtp_modules(*checkpoint));
  const LoadOptions options{.mtp = modules > 0, .vision = vision};
  return load_stored(config, std::move(checkpoint), progress, pool, options, all.weights,
                     all.linears);
}

// The file, with more in it than this process may use.
Status rewrite(const Config& config, ThreadPool* pool, const LoadOptions& options,
               const Weights& weights) {
  Everything all;
  M3_TRY_STATUS(load_everything(config, weights.checkpoint, {}, pool, options.vision, all));
  return write_pack(*options.backend, all.linears.own, *weights.checkpoint, options.packing);
}

// The mapped file, or null where there is none, or none that fits and can be written.
std::shared_ptr<const PackFile> map_or_rewrite(const Config& config, const PackableWeights& linears,
                                               ThreadPool* pool, const LoadOptions& options,
                                               Weights& weights) {
  const Checkpoint& checkpoint = *weights.checkpoint;
  const std::string path = pack_path(*options.backend, checkpoint);
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return nullptr;
  const auto map = [&] {
    return map_pack(*options.backend, linears, checkpoint, pool, options.reading_pack);
  };
  auto pack = map();
  if (pack) return *pack;
  const std::string why = pack.error().message;
  const Status written = rewrite(config, pool, options, weights);
  if (written) pack = map();
  if (pack) {
    weights.warnings.push_back(why + "; it was written anew");
    return *pack;
  }
  weights.warnings.push_back(
      fmt::format("{}; it could not be written anew ({}), so weights are packed in memory", why,
                  written ? pack.error().message : written.error().message));
  return nullptr;
}

}  // namespace

Status provide_packed(const Config& config, const Linears& linears, ThreadPool* pool,
                      const LoadOptions& options, Weights& weights) {
  using Clock = std::chrono::steady_clock;
  Backend& backend = *options.backend;
  if (packed_bytes(backend, linears.own) > 0) {
    weights.pack = map_or_rewrite(config, linears.own, pool, options, weights);
    if (weights.pack == nullptr) {
      const auto begin = Clock::now();
      M3_TRY_STATUS(
          pack_into(weights.converted, backend, linears.own, *weights.checkpoint, options.packing));
      weights.packing_seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    }
  }
  if (linears.standalone.empty()) return {};  // and there is no checkpoint of theirs
  return pack_into(weights.converted, backend, linears.standalone, *weights.mtp_checkpoint,
                   options.packing);
}

Result<PackReport> update_pack(const Config& config, std::shared_ptr<const Checkpoint> checkpoint,
                               const Progress& progress, ThreadPool* pool,
                               const LoadOptions& options) {
  Backend& backend = *options.backend;
  Everything all;
  M3_TRY_STATUS(load_everything(config, checkpoint, progress, pool, options.vision, all));
  PackReport report{.bytes = packed_bytes(backend, all.linears.own)};
  if (report.bytes == 0) return report;
  report.path = pack_path(backend, *checkpoint);
  std::error_code error;
  if (std::filesystem::exists(report.path, error)) {
    const auto pack = map_pack(backend, all.linears.own, *checkpoint, pool, options.reading_pack);
    if (pack) return report;
    report.why = pack.error().message;
  }
  M3_TRY_STATUS(write_pack(backend, all.linears.own, *checkpoint, options.packing));
  report.written = true;
  return report;
}

}  // namespace m3
