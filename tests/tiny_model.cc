#include "tests/tiny_model.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "backend/registry.h"
#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "model/synth.h"
#include "model/weights.h"
#include "tests/temporary_directory.h"

namespace m3 {
namespace {

// The seeds with which the golden models were made.
const std::map<std::string, std::uint64_t> kSeeds = {
    {"nano", 11}, {"nano-mxfp8", 11}, {"smooth", 12},   {"heads", 13}, {"lists", 14},
    {"yarn", 15}, {"flat", 16},       {"nano-mtp", 17}, {"train", 31}, {"train-smooth", 32}};

void synthesise(const std::string& name, const std::string& directory) {
  const std::string source = M3_SOURCE_DIR;
  const auto config = read_text_file(source + "/tests/data/models/" + name + "/config.json");
  ASSERT_TRUE(config) << config.error().message;
  const Status written = synth_checkpoint({.config_json = *config,
                                           .directory = directory,
                                           .seed = kSeeds.at(name),
                                           .shard_bytes = 3'000'000});
  ASSERT_TRUE(written) << written.error().message;
  if (!name.starts_with("nano")) return;
  for (const auto& file : std::filesystem::directory_iterator(source + "/data/tokenizer"))
    std::filesystem::copy(file, directory);
}

}  // namespace

std::string tiny_model_directory(const std::string& name) {
  static const TemporaryDirectory root;
  const std::string directory = root.path() + "/" + name;
  if (!std::filesystem::exists(directory)) synthesise(name, directory);
  return directory;
}

std::string chained_model_directory(const std::string& name) {
  static const TemporaryDirectory root;
  const std::string directory = root.path() + "/" + name, config = directory + "/config.json";
  if (std::filesystem::exists(directory)) return directory;
  std::filesystem::copy(tiny_model_directory(name), directory);
  auto json = nlohmann::ordered_json::parse(*read_text_file(config));
  json["text_config"][kMtpChainKey] = "post_norm";
  EXPECT_TRUE(write_text_file(config, json.dump()));
  return directory;
}

std::vector<Platform> platforms() {
  std::vector<Platform> all = {{"reference", ""}};
  for (const BackendInfo& info : known_backends()) {
    if (!info.absent.empty()) continue;
    for (const std::string& isa : info.isas) all.push_back({info.name, isa});
    for (const std::string& isa : info.twins) all.push_back({info.name, isa});
  }
  return all;
}

std::vector<Platform> two_platforms() {
  const std::vector<Platform> all = platforms();
  return {all[0], all[1]};
}

TinyModel::TinyModel(const std::string& directory, const Platform& platform, int threads,
                     const CacheTypes& cache)
    : pool(threads) {
  auto made = make_backend(platform.backend, platform.isa, pool);
  M3_CHECK(made.has_value(), "{}", made.error().message);
  backend = std::move(*made);
  auto config = load_config(directory);
  M3_CHECK(config.has_value(), "{}", config.error().message);
  auto checkpoint = Checkpoint::open(directory);
  M3_CHECK(checkpoint.has_value(), "{}", checkpoint.error().message);
  auto weights = load_weights(*config, *checkpoint, {}, &pool, {.mtp = config->mtp_modules > 0});
  M3_CHECK(weights.has_value(), "{}", weights.error().message);
  model = std::make_unique<Model>(*config, std::move(*weights), *backend, group, cache);
}

}  // namespace m3
