// `m3 data check`: what training would make of data files.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/data_options.h"
#include "apps/option_checks.h"
#include "apps/sample_text.h"
#include "data/epoch_order.h"
#include "train/packs.h"

namespace m3 {
namespace {

struct CheckOptions {
  DataOptions data;
  std::string model;
  std::int64_t sample = 1;
  std::int64_t pack = 0;
  std::int64_t batch = 8;
  bool json = false;
};

constexpr std::size_t kNotesShown = 20;  // of each kind

// Sums over all samples.
struct DataCounts {
  std::int64_t tokens = 0, scored = 0, answers = 0, media = 0;

  explicit DataCounts(const Dataset& data) {
    for (const Sample& sample : data.samples()) {
      tokens += std::ssize(sample.ids);
      scored += scored_tokens(sample);
      answers += sample.answers;
      media += std::ssize(sample.media);
    }
  }
  double share() const {
    return tokens == 0 ? 0 : static_cast<double>(scored) / static_cast<double>(tokens);
  }
};

// Packs of the first epoch of seed 0.
std::int64_t count_packs(const Dataset& data, std::int64_t batch, std::int64_t rows) {
  std::int64_t packs = 0;
  std::vector<std::int64_t> lengths;
  const auto finish = [&] {
    packs += std::ssize(fill_packs(lengths, rows));
    lengths.clear();
  };
  for (const std::int64_t i : epoch_order(std::ssize(data.samples()), 0, 0)) {
    lengths.push_back(std::ssize(data.samples()[static_cast<std::size_t>(i)].ids));
    if (std::ssize(lengths) == batch) finish();
  }
  finish();
  return packs;
}

struct PackCounts {
  std::int64_t rows = 0, packs = 0;
  double filled = 0;  // share of rows
};

PackCounts pack_counts(const Dataset& data, const CheckOptions& o, const DataCounts& counts) {
  PackCounts packs{.rows = rows_together(o.pack, data.longest())};
  packs.packs = count_packs(data, o.batch, packs.rows);
  if (packs.packs > 0)
    packs.filled =
        static_cast<double>(counts.tokens) / static_cast<double>(packs.packs * packs.rows);
  return packs;
}

// ------------------------------------------------------------------------------ for people

void print_notes(const char* kind, std::span<const DataNote> notes) {
  for (std::size_t i = 0; i < std::min(notes.size(), kNotesShown); ++i)
    std::printf("%s",
                visible_text(fmt::format("{:<9} {}: {}\n", kind, notes[i].place, notes[i].message))
                    .c_str());
  if (notes.size() > kNotesShown)
    std::printf("%-9s and %zu more\n", kind, notes.size() - kNotesShown);
}

bool wants_colour() {
  const char* no_color = std::getenv("NO_COLOR");
  return ::isatty(STDOUT_FILENO) == 1 && (no_color == nullptr || no_color[0] == '\0');
}

void print_sample(const Dataset& data, const CheckOptions& o, const Tokenizer& tokenizer) {
  const Sample& sample = data.samples()[static_cast<std::size_t>(o.sample - 1)];
  const bool colour = wants_colour();
  const std::string text = sample_text(sample, tokenizer, colour);
  std::printf("sample %lld of %zu, %s: %zu tokens, %lld scored, %s\n\n%s%s\n",
              static_cast<long long>(o.sample), data.samples().size(),
              visible_text(data.place(o.sample - 1)).c_str(), sample.ids.size(),
              static_cast<long long>(scored_tokens(sample)),
              colour ? "in green" : "between ⟦ and ⟧", text.c_str(),
              text.ends_with('\n') ? "" : "\n");
}

void print_row(const char* name, const std::string& value) {
  std::printf("%-18s %s\n", name, value.c_str());
}

void print_table(const Dataset& data, const CheckOptions& o) {
  const DataCounts counts(data);
  print_row("samples", fmt::format("{}", data.samples().size()));
  print_row("tokens", fmt::format("{}", counts.tokens));
  print_row("scored", fmt::format("{} ({:.1f} %)", counts.scored, 100 * counts.share()));
  print_row("answers", fmt::format("{}", counts.answers));
  print_row("pictures, clips", fmt::format("{}", counts.media));
  print_row("longest", fmt::format("{} tokens", data.longest()));
  print_row("cut", fmt::format("{}", data.cut().size()));
  print_row("dropped", fmt::format("{}", data.dropped().size()));
  print_row("refused", fmt::format("{}", data.refused().size()));
  if (o.pack > 0) {
    const PackCounts packs = pack_counts(data, o, counts);
    print_row("packs", fmt::format("{} of {} rows, {:.1f} % filled (batches of {})", packs.packs,
                                   packs.rows, 100 * packs.filled, o.batch));
  }
  print_notes("refused", data.refused());
  print_notes("dropped", data.dropped());
  print_notes("cut", data.cut());
  print_notes("remark", data.remarks());
}

// ------------------------------------------------------------------------------ for programs

nlohmann::ordered_json notes_json(std::span<const DataNote> notes) {
  auto list = nlohmann::ordered_json::array();
  for (const DataNote& note : notes)
    list.push_back({{"place", note.place}, {"message", note.message}});
  return list;
}

nlohmann::ordered_json sample_json(const Dataset& data, std::int64_t index,
                                   const Tokenizer& tokenizer) {
  const Sample& sample = data.samples()[static_cast<std::size_t>(index)];
  auto scored = nlohmann::ordered_json::array();
  for (const IdRange& range : sample.scored) scored.push_back({range.begin, range.end});
  return {{"place", data.place(index)},
          {"text", tokenizer.decode(sample.ids)},
          {"ids", sample.ids},
          {"labels", labels_of(sample)},
          {"scored", scored}};
}

void print_json(const Dataset& data, const CheckOptions& o, const Tokenizer& tokenizer) {
  const DataCounts counts(data);
  nlohmann::ordered_json all{{"samples", data.samples().size()},
                             {"tokens", counts.tokens},
                             {"scored", counts.scored},
                             {"scored_share", counts.share()},
                             {"answers", counts.answers},
                             {"media", counts.media},
                             {"longest", data.longest()},
                             {"refused", notes_json(data.refused())},
                             {"dropped", notes_json(data.dropped())},
                             {"cut", notes_json(data.cut())},
                             {"remarks", notes_json(data.remarks())}};
  if (o.pack > 0) {
    const PackCounts packs = pack_counts(data, o, counts);
    all["packs"] = {
        {"rows", packs.rows}, {"packs", packs.packs}, {"filled", packs.filled}, {"batch", o.batch}};
  }
  if (!data.samples().empty()) all["sample"] = sample_json(data, o.sample - 1, tokenizer);
  // Paths may hold bytes that are no UTF-8, on which dump() would throw.
  constexpr auto kReplace = nlohmann::ordered_json::error_handler_t::replace;
  std::printf("%s\n", all.dump(-1, ' ', false, kReplace).c_str());
}

// "1 file and 2 records".
std::string refused_text(const Dataset& data) {
  const auto files = std::ranges::count_if(data.refused(), &DataNote::of_file);
  const auto records = std::ssize(data.refused()) - files;
  const auto counted = [](std::int64_t count, const char* one) {
    return count == 0 ? "" : fmt::format("{} {}{}", count, one, count == 1 ? "" : "s");
  };
  return counted(files, "file") + (files > 0 && records > 0 ? " and " : "") +
         counted(records, "record");
}

Status run_check(const CheckOptions& o) {
  M3_TRY(const Config config, load_config(o.model));
  M3_TRY(const Tokenizer tokenizer, Tokenizer::load(o.model));
  ThreadPool pool;
  M3_TRY(const Dataset data,
         read_dataset(o.data, o.model, config, tokenizer, config.vision.has_value(), pool));
  const std::int64_t samples = std::ssize(data.samples());
  if (samples > 0 && o.sample > samples)
    return fail("--sample {}: there are {} samples", o.sample, samples);
  if (o.json) {
    print_json(data, o, tokenizer);
  } else {
    if (samples > 0) print_sample(data, o, tokenizer);
    print_table(data, o);
  }
  std::fflush(stdout);
  if (data.refused().empty() && samples == 0)
    return fail("no sample is left to train on: all {} are too long and were dropped",
                data.dropped().size());
  if (data.refused().empty()) return {};
  return fail("{} cannot be trained on; the first is {}: {}", refused_text(data),
              data.refused()[0].place, data.refused()[0].message);
}

}  // namespace

void add_data(CLI::App& app, Run& run) {
  auto o = std::make_shared<CheckOptions>();
  CLI::App* data = app.add_subcommand("data", "Look at data files before training on them");
  data->require_subcommand(1);
  CLI::App* command = data->add_subcommand(
      "check",
      "Show a sample as the model will read it, with what is scored, and what all samples come to; "
      "list what was refused, dropped or cut. Status 1 where something was refused or no sample is "
      "left");
  command->add_option("FILE", o->data.files, kDataFilesHelp)->required();
  command->add_option("--model", o->model, "directory with config.json and tokenizer.json")
      ->required();
  add_data_options(*command, o->data);
  command->add_option("--sample", o->sample, "which sample to show, from 1")
      ->check(between(1, 1e15))
      ->capture_default_str();
  CLI::Option* pack =
      command->add_option("--pack", o->pack, "rows of a pack, to see how well packs are filled")
          ->check(between(1, 1 << 24));
  command->add_option("--batch", o->batch, "samples of a step, which packs do not cross")
      ->check(between(1, 1e9))
      ->capture_default_str()
      ->needs(pack);
  command->add_flag("--json", o->json, "one JSON object, with the sample's ids and labels");
  command->callback([o, &run] { run = [o] { return run_check(*o); }; });
}

}  // namespace m3
