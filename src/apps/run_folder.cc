#include "apps/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "apps/curves_plot.h"
#include "apps/progress_bar.h"
#include "base/file.h"

namespace m3 {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRun = "/run.json";
constexpr const char* kCurves = "/curves.svg";
// Without --save-every: checkpoints are a minute apart or, where saving takes more than a second,
// 50 times what the last one took. So saving costs a fiftieth of the time at most, and a kill as
// much as the distance: 4 hours where a save takes 5 minutes.
constexpr std::chrono::seconds kSaveSeconds{60};
constexpr int kSaveShare = 50;
constexpr std::chrono::seconds kDyingSeconds{2};
// Whoever loads a directory looks for one of these first.
constexpr const char* kConfigs[] = {"config.json", "adapter_config.json"};

bool is_config(const fs::path& path) {
  return std::ranges::find(kConfigs, path.filename().string()) != std::end(kConfigs);
}

// But for a file that a killed process had not named yet.
bool is_empty(const std::string& directory) {
  std::error_code error;
  for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error))
    if (at->path().extension() != ".part") return false;
  return true;
}

void warn(const std::string& sentence) {
  std::fprintf(stderr, "warning: %s\n", sentence.c_str());
}

Status expect_folder(const RunFolderOptions& o) {
  std::error_code error;
  const bool holds_run = fs::exists(o.directory + kRun, error);
  if (o.resume && !holds_run)
    return fail(
        "--resume: expected a run in {}, found no {} there; without --resume one begins in a "
        "new directory",
        o.directory, kRun + 1);
  if (!o.resume && holds_run)
    return fail(
        "{} is there already and holds a run; --resume goes on with it, or choose a new directory",
        o.directory);
  if (!o.resume && fs::exists(o.directory, error) &&
      (!fs::is_directory(o.directory, error) || !is_empty(o.directory)))
    return fail("{} is there already; choose a new directory for the run", o.directory);
  return {};
}

// The facts without the instruction set, and that alone.
std::vector<RunFact> facts_of(const std::vector<RunFact>& facts, bool instruction_set) {
  std::vector<RunFact> some;
  for (const RunFact& fact : facts)
    if ((fact.name == kInstructionSet) == instruction_set) some.push_back(fact);
  return some;
}

// Whether no other process has the directory. One that was just killed may still be going. A file
// system without locks is taken at the user's word.
bool is_free(int directory) {
  const auto begin = std::chrono::steady_clock::now();
  while (::flock(directory, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    if (std::chrono::steady_clock::now() - begin > kDyingSeconds) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return true;
}

Status move_file(const fs::path& from, const std::string& directory) {
  std::error_code error;
  const fs::path to = fs::path(directory) / from.filename();
  fs::rename(from, to, error);
  if (error) return fail("cannot rename {} to {}: {}", from.string(), to.string(), error.message());
  return {};
}

}  // namespace

Result<std::unique_ptr<RunFolder>> RunFolder::claim(const RunFolderOptions& options) {
  M3_TRY_STATUS(expect_folder(options));
  M3_TRY_STATUS(make_directories(options.directory));
  const int lock = ::open(options.directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock < 0) return fail("cannot open the directory {}: {}", options.directory, last_error());
  std::unique_ptr<RunFolder> folder(new RunFolder(options, lock));
  if (!is_free(lock)) {
    folder->is_ours_ = false;
    return fail("another process is training into {}", options.directory);
  }
  std::error_code error;
  fs::remove_all(folder->result_directory(), error);
  fs::remove_all(folder->result_directory() + ".part", error);
  return folder;
}

RunFolder::~RunFolder() {
  std::error_code error;
  if (is_ours_) fs::remove(options_.directory, error);  // where nothing was written
  ::close(lock_);
}

Status RunFolder::begin(const std::vector<RunFact>& facts, Trainer& trainer, bool validates) {
  trainer_ = &trainer;
  facts_ = facts;
  if (options_.resume) {
    M3_TRY(const std::vector<RunFact> run, parse_facts(options_.directory + kRun));
    M3_TRY_STATUS(expect_run(run));
    M3_TRY_STATUS(restore());
  } else {
    // One more than stay is there while the next is written.
    M3_TRY_STATUS(
        expect_space(options_.directory, (validates ? 3 : 2) * checkpoint_bytes(trainer)));
    M3_TRY_STATUS(write_text_file(options_.directory + kRun, facts_text(facts)));
  }
  M3_TRY_STATUS(make_directories(checkpoints()));
  M3_TRY_STATUS(sync_directory(options_.directory));
  M3_TRY(RunLog log, RunLog::open(options_.directory, trainer.steps()));
  log_.emplace(std::move(log));
  saved_at_ = Clock::now();
  return {};
}

Status RunFolder::expect_run(const std::vector<RunFact>& run) const {
  const std::string other = first_difference(facts_of(run, false), facts_of(facts_, false));
  if (!other.empty())
    return fail(
        "--resume: the run in {} is another: {}; give the options that it began with, or choose "
        "another --out",
        options_.directory, other);
  return {};
}

Status RunFolder::restore() {
  std::string damaged;
  for (const ListedCheckpoint& listed : list_checkpoints(checkpoints())) {
    if (listed.checkpoint) M3_TRY_STATUS(expect_run(listed.checkpoint->run));
    ProgressBar bar("reading step " + std::to_string(listed.step), "B");
    const Status restored = listed.checkpoint
                                ? restore_checkpoint(*listed.checkpoint, *trainer_, bar.callback())
                                : tl::unexpected(listed.checkpoint.error());
    if (!restored) {
      damaged = restored.error().message;
      warn(damaged + "; it is not used");
      continue;
    }
    const RunCheckpoint& checkpoint = *listed.checkpoint;
    best_loss_ = checkpoint.best_loss;
    saved_ = checkpoint;
    const std::string other =
        first_difference(facts_of(checkpoint.run, true), facts_of(facts_, true));
    if (!other.empty())
      warn("the " + other + ": from here on numbers may differ in their last bits");
    std::fprintf(stderr, "going on after step %lld\n", static_cast<long long>(checkpoint.step));
    return {};
  }
  if (!damaged.empty())
    return fail("--resume: no checkpoint in {} is whole: {}; begin again in another directory",
                checkpoints(), damaged);
  std::fprintf(stderr, "there is no checkpoint yet: the run begins again\n");
  return {};
}

std::optional<double> RunFolder::validation_loss() const {
  const std::vector<ValidationLine>& lines = log_->validations();
  if (lines.empty() || lines.back().step != trainer_->steps()) return std::nullopt;
  return lines.back().loss;
}

bool RunFolder::is_published() const {
  return std::ranges::any_of(kConfigs, [&](const char* name) {
    std::error_code error;
    return fs::exists(options_.directory + "/" + name, error);
  });
}

bool RunFolder::is_time() const {
  if (options_.save_every > 0) return trainer_->steps() % options_.save_every == 0;
  return Clock::now() - saved_at_ >=
         std::max<Clock::duration>(kSaveSeconds, kSaveShare * save_took_);
}

bool RunFolder::is_best(std::optional<double> loss) const {
  return loss && std::isfinite(*loss) && (!best_loss_ || *loss < *best_loss_);
}

void RunFolder::after_step() {
  if (!is_best(validation_loss()) && !is_time()) return;
  if (const Status saved = save(); !saved) {
    warn(saved.error().message +
         fmt::format("; step {} is not saved, training goes on", trainer_->steps()));
    saved_at_ = Clock::now();
  }
}

Status RunFolder::save() {
  const std::optional<double> loss = validation_loss();
  if (const Status synced = log_->sync(); !synced) warn(synced.error().message);
  draw_curves();
  const std::optional<double> best = is_best(loss) ? loss : best_loss_;
  if (saved_ && saved_->step == trainer_->steps()) {
    if (!loss || saved_->validation_loss) return {};
    saved_->validation_loss = loss;
    saved_->best_loss = best_loss_ = best;
    return save_record(*saved_);
  }
  const Clock::time_point begin = Clock::now();
  ProgressBar bar("saving step " + std::to_string(trainer_->steps()), "B");
  M3_TRY(saved_, save_checkpoint(checkpoints(), *trainer_,
                                 {.validation_loss = loss, .best_loss = best, .run = facts_},
                                 bar.callback()));
  best_loss_ = best;
  remove_superseded(checkpoints(), *saved_);
  saved_at_ = Clock::now();
  save_took_ = saved_at_ - begin;
  return {};
}

Status RunFolder::take_best() {
  for (const ListedCheckpoint& listed : list_checkpoints(checkpoints())) {
    if (!best_loss_ || !listed.checkpoint) continue;
    if (listed.checkpoint->validation_loss != best_loss_) continue;
    ProgressBar bar("reading step " + std::to_string(listed.step), "B");
    return restore_checkpoint(*listed.checkpoint, *trainer_, bar.callback());
  }
  return fail("{} has no checkpoint of the lowest validation loss", checkpoints());
}

void RunFolder::draw_curves() const {
  const std::string name = fs::path(options_.directory + "/").parent_path().filename().string();
  const Status drawn = write_text_file(options_.directory + kCurves,
                                       curves_svg(name, log_->steps(), log_->validations()));
  if (!drawn) warn(drawn.error().message);
}

Status RunFolder::publish() {
  std::vector<fs::path> files, configs;
  std::error_code error;
  for (fs::directory_iterator at(result_directory(), error), end; !error && at != end;
       at.increment(error))
    (is_config(at->path()) ? configs : files).push_back(at->path());
  if (error) return fail("cannot list {}: {}", result_directory(), error.message());
  for (const std::vector<fs::path>& some : {files, configs}) {
    for (const fs::path& file : some) M3_TRY_STATUS(move_file(file, options_.directory));
    M3_TRY_STATUS(sync_directory(options_.directory));
  }
  fs::remove(result_directory(), error);
  return {};
}

}  // namespace m3
