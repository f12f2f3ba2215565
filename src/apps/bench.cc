// `m3 bench`: how fast a model runs here, beside what this machine can do at most.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/bench_plot.h"
#include "apps/bench_prompts.h"
#include "apps/bench_report.h"
#include "apps/bench_speculative_report.h"
#include "apps/bench_vision.h"
#include "apps/commands.h"
#include "apps/option_checks.h"
#include "apps/progress_bar.h"
#include "base/file.h"

namespace m3 {
namespace {

struct BenchOptions {
  std::vector<std::string> models;
  ModelOptions machine;  // without a model
  std::vector<std::int64_t> prompts = {512};
  std::vector<std::int64_t> generations = {64};
  std::vector<std::int64_t> depths = {0};
  std::vector<std::int64_t> batches = {1};
  bool vision = false;
  SpeculativeBench speculative;
  bool stages = false;
  bool json = false;
  bool csv = false;
  std::string plot;

  bool table() const { return !json && !csv; }
};

std::vector<BenchCase> cases_of(const BenchOptions& o) {
  std::vector<BenchCase> cases;
  if (o.vision) cases.push_back({.vision = true});
  for (const std::int64_t depth : o.depths) {
    for (const std::int64_t tokens : o.prompts)
      if (tokens > 0) cases.push_back({.prefill = true, .tokens = tokens, .depth = depth});
    for (const std::int64_t tokens : o.generations)
      for (const std::int64_t batch : o.batches)
        if (tokens > 0) cases.push_back({.tokens = tokens, .depth = depth, .batch = batch});
  }
  return cases;
}

bool answers_prompts(const BenchOptions& o) {
  return o.speculative.kind == "mtp" || o.speculative.kind == "ngram";
}

std::vector<SpeculativeCase> speculative_cases(const BenchOptions& o) {
  static const std::map<std::string, DraftSource> kSources = {{"replay", DraftSource::kRight},
                                                              {"wrong", DraftSource::kWrong},
                                                              {"mtp", DraftSource::kMtp},
                                                              {"ngram", DraftSource::kNgram}};
  std::vector<SpeculativeCase> cases;
  for (const BenchCase& c : cases_of(o))
    if (!c.prefill && !c.vision)
      cases.push_back({.source = kSources.at(o.speculative.kind),
                       .draft_tokens = o.speculative.draft_tokens,
                       .tokens = c.tokens,
                       .depth = c.depth,
                       .batch = c.batch});
  return cases;
}

// With the prompts that they answer.
Result<std::vector<SpeculativeCase>> speculative_cases(const BenchOptions& o,
                                                       const LoadedModel& loaded) {
  std::vector<SpeculativeCase> cases = speculative_cases(o);
  if (!answers_prompts(o)) return cases;
  M3_TRY(const Tokenizer* tokenizer, loaded.need_tokenizer("--speculative " + o.speculative.kind));
  M3_TRY(const auto prompts, bench_prompts(o.speculative.prompts, *tokenizer));
  for (SpeculativeCase& c : cases) {
    c.prompts = prompts;
    c.stop_ids = loaded.defaults.eos;
  }
  return cases;
}

// Before the machine is measured, which takes seconds.
Status check_cases(const BenchOptions& o, const LoadedModel& loaded) {
  const Model& model = *loaded.model;
  if (!o.speculative.kind.empty()) {
    M3_TRY(const auto cases, speculative_cases(o, loaded));
    for (const SpeculativeCase& c : cases) M3_TRY_STATUS(SpeculativeRun::check(model, c));
    return {};
  }
  for (const BenchCase& c : cases_of(o))
    M3_TRY_STATUS(c.vision ? VisionRun::check(model) : BenchRun::check(model, c));
  return {};
}

// What all models are measured with.
struct Session {
  Session(MachineProbe probe_in, BenchMachine machine_in)
      : probe(std::move(probe_in)), limits(probe), machine(std::move(machine_in)) {}

  MachineProbe probe;
  Limits limits;
  BenchMachine machine;
  std::vector<BenchRow> rows;
  nlohmann::ordered_json json_rows = nlohmann::ordered_json::array();
};

Status run_speculative(const BenchOptions& o, const std::string& path, const LoadedModel& loaded,
                       Session& session) {
  if (!o.json) print_speculative_header(o.speculative);
  M3_TRY(const auto cases, speculative_cases(o, loaded));
  for (const SpeculativeCase& c : cases) {
    M3_TRY(const SpeculativeRow row, measure_speculative(*loaded.model, c, session.limits));
    if (!o.json) print_speculative(row);
    nlohmann::ordered_json json = {{"model", model_name(path)},
                                   {"format", main_weight(loaded.model->weights()).codec->name}};
    json.update(speculative_json(row, o.speculative));
    session.json_rows.push_back(std::move(json));
  }
  return {};
}

Status run_cases(const BenchOptions& o, const std::string& path, const LoadedModel& loaded,
                 Session& session) {
  if (o.table()) print_header(model_name(path), loaded);
  ProgressBar bar("measuring " + model_name(path), "cases");
  const auto cases = cases_of(o);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    M3_TRY(BenchRow row, measure_row(path, loaded, cases[i], session.limits));
    if (o.table()) print_row(row);
    if (!o.table()) bar.update(static_cast<std::int64_t>(i) + 1, std::ssize(cases));
    session.rows.push_back(std::move(row));
  }
  return {};
}

void report(const BenchOptions& o, Session& session) {
  const MachineLimits& best = session.limits.best();
  if (o.csv) std::printf("%s", rows_csv(session.rows, session.machine, best).c_str());
  if (o.table()) std::printf("the best of this run: %s\n", limits_text(best).c_str());
  if (o.table() && o.stages) print_stages(session.rows);
  if (!o.json) return;
  for (const BenchRow& row : session.rows) session.json_rows.push_back(row_json(row, best));
  const nlohmann::ordered_json out = {{"machine", machine_json(session.machine, best)},
                                      {"rows", std::move(session.json_rows)}};
  std::printf("%s\n", out.dump(1).c_str());
}

Status run_bench(const BenchOptions& o) {
  // What is wrong with a name is told before minutes of measuring.
  for (const std::string& path : o.models) M3_TRY_STATUS(load_config(path));
  std::optional<FileWriter> plot;
  if (!o.plot.empty()) {
    M3_TRY(FileWriter file, FileWriter::create(o.plot));
    plot.emplace(std::move(file));
  }
  ThreadPool pool(o.machine.threads);  // the probe's: models come and go
  std::optional<Session> session;
  for (const std::string& path : o.models) {
    ModelOptions options = o.machine;
    options.model = path;
    options.timed = true;
    options.mtp = o.speculative.kind == "mtp";
    M3_TRY(const auto loaded, load_model(options));
    M3_TRY_STATUS(check_cases(o, *loaded));
    if (!session) {
      const bool cpu = loaded->backend->name() == "cpu";
      M3_TRY(MachineProbe probe, MachineProbe::create(pool, cpu ? options.isa : ""));
      session.emplace(std::move(probe), machine_of(*loaded));
      if (o.table())
        std::printf("%s\n", machine_line(session->machine, session->limits.best()).c_str());
    }
    M3_TRY_STATUS(o.speculative.kind.empty() ? run_cases(o, path, *loaded, *session)
                                             : run_speculative(o, path, *loaded, *session));
  }
  report(o, *session);
  if (!plot) return {};
  M3_TRY_STATUS(
      plot->write(plot_svg(session->rows, machine_line(session->machine, session->limits.best()))));
  return plot->commit();
}

void refuse_nothing(const BenchOptions& o) {
  if (!o.speculative.prompts.empty() && !answers_prompts(o))
    throw CLI::ValidationError("--prompts", "goes with --speculative mtp or ngram");
  if (answers_prompts(o) && o.depths != std::vector<std::int64_t>{0})
    throw CLI::ValidationError("--depth", "does not go with prompts, whose length is their depth");
  if (!o.speculative.kind.empty() && speculative_cases(o).empty())
    throw CLI::ValidationError("--speculative", "nothing to decode: give --tg a number above 0");
  if (cases_of(o).empty())
    throw CLI::ValidationError("bench", "nothing to measure: give --pp or --tg a number above 0");
}

}  // namespace

void add_bench(CLI::App& app, Run& run) {
  auto o = std::make_shared<BenchOptions>();
  CLI::App* command = app.add_subcommand(
      "bench",
      "Measure models beside this machine's limits. 'of limit' is the least time that the bytes "
      "that must be read and the operations that must be done take at the limits, over the time "
      "that they took; 'limit' is which of the two binds: read (bandwidth), matrix (multiplying "
      "bfloat16) or int8 (models whose experts are int8). Limits are measured before and after "
      "every sample; samples of disturbed moments are dropped, the median of five counts, and the "
      "share is of the median of the limits around these samples. JSON and CSV also have the share "
      "of the best limits of the run (share_of_best)");
  command->add_option("MODEL", o->models, "directories with config.json and safetensors files")
      ->required();
  add_machine_options(*command, o->machine);
  add_cache_options(*command, o->machine.cache);
  const auto list = [&](const char* name, std::vector<std::int64_t>& values, const char* help,
                        std::int64_t least) {
    command->add_option(name, values, help)
        ->delimiter(',')
        ->allow_extra_args(false)
        ->check(CLI::Range(least, std::int64_t{1} << 40))
        ->capture_default_str();
  };
  list("--pp", o->prompts, "prompt lengths to prefill; 0: none", 0);
  list("--tg", o->generations, "steps to decode; 0: none", 0);
  list("--depth", o->depths, "tokens in the caches before, filled with random values", 0);
  list("--batch", o->batches, "sequences that decode together", 1);
  CLI::Option* vision =
      command->add_flag("--vision", o->vision, "also a picture through the vision tower");
  CLI::Option* stages = command->add_flag(
      "--stages", o->stages,
      "also what weights, attention, index, router and head take, each beside its limit; from one "
      "more sample, in which every operation is waited for");
  CLI::Option* csv = command->add_flag("--csv", o->csv, "print one line of CSV for each case");
  CLI::Option* plot =
      command->add_option("--plot", o->plot, "write a picture of the shares (SVG) to this file");
  command->add_flag("--json", o->json, "print one JSON object")->excludes(csv);
  CLI::Option* speculative = add_speculative_bench(*command, o->speculative);
  for (CLI::Option* other : {vision, stages, csv, plot}) speculative->excludes(other);
  command->callback([o, &run] {
    refuse_nothing(*o);
    run = [o] { return run_bench(*o); };
  });
}

}  // namespace m3
