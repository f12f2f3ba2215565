// `m3 pack`: weights in the layout of this machine, kept beside the model.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>

#include "apps/commands.h"
#include "apps/model_options.h"
#include "apps/progress_bar.h"
#include "backend/registry.h"
#include "checkpoint/checkpoint.h"
#include "model/packed_weights.h"

namespace m3 {
namespace {

void print_report(const PackReport& report, const Backend& backend, double seconds) {
  if (report.path.empty()) {
    std::printf("there is nothing to pack: %s reads these weights as they are stored\n",
                std::string(backend.isa().empty() ? backend.name() : backend.isa()).c_str());
    return;
  }
  const std::string size = quantity(static_cast<double>(report.bytes), "B");
  if (!report.why.empty()) std::fprintf(stderr, "warning: %s\n", report.why.c_str());
  std::printf("%s: %s, %s in %.1f s\n", report.path.c_str(), size.c_str(),
              report.written ? "written" : "up to date, checked", seconds);
}

Status run_pack(const ModelOptions& o) {
  const auto begin = std::chrono::steady_clock::now();
  ThreadPool pool(o.threads);
  M3_TRY(const auto backend, make_backend(o.backend, o.isa, pool));
  M3_TRY(const Config config, load_config(o.model));
  M3_TRY(auto checkpoint, Checkpoint::open(o.model));
  ProgressBar loading("looking through " + o.model, "weights");
  ProgressBar packing("packing " + o.model, "B"), reading("checking the pack", "B");
  const LoadOptions options{.vision = !o.language_model_only,
                            .backend = backend.get(),
                            .packing = packing.callback(),
                            .reading_pack = reading.callback()};
  M3_TRY(const PackReport report,
         update_pack(config, std::move(checkpoint), loading.callback(), &pool, options));
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  print_report(report, *backend, seconds.count());
  return {};
}

}  // namespace

void add_pack(CLI::App& app, Run& run) {
  auto o = std::make_shared<ModelOptions>();
  CLI::App* command = app.add_subcommand(
      "pack",
      "Keep the weights beside the model in the layout in which this machine reads them fastest; "
      "every start that finds them is sooner ready");
  add_model_options(*command, *o);
  command->callback([o, &run] { run = [o] { return run_pack(*o); }; });
}

}  // namespace m3
