#include "apps/bench_vision.h"

#include <chrono>

#include "base/random.h"
#include "tensor/layout.h"

namespace m3 {
namespace {

constexpr std::int64_t kSide = 48;  // patches; a multiple of every common merge size
constexpr std::uint64_t kSeed = 21;

}  // namespace

Status VisionRun::check(const Model& model) {
  if (!model.config().vision) return fail("--vision needs a model with a vision tower");
  if (!model.weights().vision)
    return fail("--language-model-only leaves out the vision tower, which --vision needs");
  return {};
}

Result<std::unique_ptr<VisionRun>> VisionRun::create(const Model& model) {
  M3_TRY_STATUS(check(model));
  const std::int64_t merge = model.config().vision->spatial_merge;
  const std::int64_t side = std::max<std::int64_t>(1, kSide / merge) * merge;
  return std::unique_ptr<VisionRun>(new VisionRun(model, {1, side, side}));
}

VisionRun::VisionRun(const Model& model, const MediaGrid& grid)
    : model_(model), tower_(model.config(), *model.weights().vision, model.backend()), grid_(grid) {
  const Config& config = model.config();
  const Placement layout[] = {
      {&pixels_, DType::kF32, {grid.rows(), pixel_row_size(*config.vision)}},
      {&features_, DType::kF32, {media_tokens(grid, *config.vision), config.hidden}}};
  memory_ = lay_out(layout);
  for (std::int64_t i = 0; i < pixels_.elements(); ++i)
    pixels_.as<float>()[i] =
        static_cast<float>(4 * uniform_at(kSeed, 0, static_cast<std::uint64_t>(i)) - 2);
}

BenchSample VisionRun::sample() {
  using Clock = std::chrono::steady_clock;
  BenchSample sample;
  const auto begin = Clock::now();
  tower_.encode(pixels_, std::span(&grid_, 1), features_);
  sample.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  sample.work = count_vision_work(model_.config(), std::span(&grid_, 1));
  return sample;
}

}  // namespace m3
