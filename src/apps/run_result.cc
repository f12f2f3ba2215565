#include "apps/run_result.h"

#include <cstdio>
#include <filesystem>

#include "apps/progress_bar.h"
#include "train/save.h"

namespace m3 {
namespace {

SaveOptions saving(const RunResult& result, const RunFolder& folder) {
  return {.source = result.model.model,
          .directory = folder.result_directory(),
          .vision = !result.model.language_model_only,
          .pool = &result.loaded.pool};
}

Status write_model(const RunResult& result, const RunFolder& folder, const Trainer& trainer) {
  SaveOptions options = saving(result, folder);
  ProgressBar bar("writing " + result.directory, "B");
  options.progress = bar.callback();
  M3_TRY(const RewriteReport report, save_trained(options, trainer.weights(), trainer.values()));
  for (const std::string& name : report.left_out)
    std::fprintf(stderr, "warning: %s is large and was not copied\n", name.c_str());
  std::fprintf(stderr, "%s: %s of weights\n", result.directory.c_str(),
               quantity(static_cast<double>(report.bytes), "B").c_str());
  return {};
}

}  // namespace

Status RunResult::expect_room(const RunFolder& folder, const Trainer& trainer) const {
  const SaveOptions options = saving(*this, folder);
  const Status room = loaded.lora ? expect_room_for(*loaded.lora, options.directory)
                                  : expect_savable(options, trainer.weights());
  // The question makes directories, which are not to stay if the run is killed before its end.
  std::error_code error;
  std::filesystem::remove(options.directory, error);
  std::filesystem::remove(options.directory + ".part", error);
  return room;
}

Status RunResult::write(const RunFolder& folder, const Trainer& trainer) const {
  if (!loaded.lora) return write_model(*this, folder, trainer);
  return save_lora(*loaded.lora, {folder.result_directory(), model.model, names, dropout});
}

}  // namespace m3
