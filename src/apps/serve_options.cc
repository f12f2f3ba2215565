#include "apps/serve_options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <set>
#include <sstream>

#include "apps/option_checks.h"
#include "base/file.h"
#include "text/thinking.h"

namespace m3 {
namespace {

constexpr double kMany = 1e9;

void add_network_options(CLI::App& command, ServeOptions& o) {
  command
      .add_option("--host", o.http.host, "address to listen at; 0.0.0.0 for all of the machine's")
      ->capture_default_str();
  command.add_option("--port", o.http.port, "0 for any that is free")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  command.add_option("--api-key", o.keys, "clients must send this key; repeatable")
      ->allow_extra_args(false)
      ->take_all();
  command.add_option("--api-key-file", o.key_file, "a file with a key a line");
  command
      .add_option("--served-model-name,--alias", o.names,
                  "the model's name for clients (default: MODEL as typed); repeatable")
      ->allow_extra_args(false)
      ->take_all();
  command.add_option("--lora-modules", o.lora_modules,
                     "NAME=DIR ...: adapters that requests name as their model, as many as you "
                     "like; those without are answered by the model itself");
  command.add_option("--max-body-mb", o.body_mb, "largest request, in MB")
      ->check(between(1, 4096))
      ->capture_default_str();
  command
      .add_option("--request-timeout", o.server.request_seconds_max,
                  "seconds after which an answer is cut short (0: never)")
      ->check(between(0, kMany))
      ->capture_default_str();
  command
      .add_option("--shutdown-timeout", o.shutdown_seconds,
                  "seconds that open answers have to end after SIGTERM")
      ->check(between(0, kMany))
      ->capture_default_str();
  command.add_flag("--disable-log-requests,--quiet", o.quiet, "no line for each request");
}

void add_engine_options(CLI::App& command, ServeOptions& o) {
  command
      .add_option("--max-model-len,--ctx-size,-c", o.context_per_request,
                  "tokens of a prompt and its answer (default: what model and cache have)")
      ->check(between(1, kMany));
  command
      .add_option("--kv-cache-tokens", o.cache_tokens,
                  "tokens that the cache holds for all requests together (default: what a quarter "
                  "of the free memory holds)")
      ->check(between(1, kMany));
  command
      .add_option("--max-num-seqs,--parallel", o.sequences, "sequences that run at the same time")
      ->check(between(1, 4096))
      ->capture_default_str();
  command
      .add_option("--max-queue", o.waiting_max,
                  "more that may wait; the next is told 429 (default: a quarter of those that run)")
      ->check(between(0, 1e6));
  command
      .add_option("--max-num-batched-tokens,--batch-size", o.step_rows, "rows of one step at most")
      ->check(between(1, 65536))
      ->capture_default_str();
  command
      .add_option("--prefill-seconds", o.prefill_seconds,
                  "that prompts may add to a step in which others decode")
      ->check(between(0, 3600))
      ->capture_default_str();
}

void add_request_options(CLI::App& command, ServeOptions& o) {
  command.add_option("--default-chat-template-kwargs", o.template_kwargs,
                     "JSON, for requests that do not say: '{\"thinking_mode\": \"enabled\"}'");
  command
      .add_option("--allowed-local-media-path,--media-path", o.server.media_directory,
                  "clients may name files below this directory by file:// (default: none)")
      ->check(CLI::ExistingDirectory);
  command.add_option("--limit-mm-per-prompt", o.media_limits,
                     "JSON, of one request: '{\"image\": 200, \"video\": 20}'");
  add_fps_option(command, o.server.video_fps);
}

void add_known_flags(CLI::App& command, ServeOptions& o) {
  for (const char* name : {"--tool-call-parser", "--reasoning-parser", "--reasoning-format",
                           "--max-loras", "--max-lora-rank", "--max-cpu-loras", "--lora-dtype"})
    command.add_option(name, o.known_values, "what this server does by itself; ignored")->group("");
  for (const char* name :
       {"--enable-auto-tool-choice", "--jinja", "--trust-remote-code", "--enable-prefix-caching",
        "--enable-chunked-prefill", "--metrics", "--enable-lora"})
    command.add_flag(name, o.known_flags, "what this server does by itself; ignored")->group("");
}

Status read_keys(ServeOptions& o) {
  o.server.api_keys = o.keys;
  if (!o.key_file.empty()) {
    M3_TRY(const std::string text, read_text_file(o.key_file));
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      const auto begin = line.find_first_not_of(" \t\r"), end = line.find_last_not_of(" \t\r");
      if (begin == line.npos || line[begin] == '#') continue;
      o.server.api_keys.push_back(line.substr(begin, end - begin + 1));
    }
    if (o.server.api_keys.empty()) return fail("{} holds no key", o.key_file);
  }
  for (const std::string& key : o.server.api_keys)
    if (key.empty()) return fail("--api-key is empty");
  return {};
}

Result<Json> read_object(const std::string& text, const char* option) {
  auto json = parse_json(text);
  if (!json) return fail("{}: {}", option, json.error().message);
  if (!json->is_object())
    return fail("{} must be a JSON object, it is {}", option, kind_name(*json));
  return json;
}

Status read_media_limits(ServeOptions& o) {
  if (o.media_limits.empty()) return {};
  M3_TRY(const Json limits, read_object(o.media_limits, "--limit-mm-per-prompt"));
  for (const auto& [key, value] : limits.items()) {
    if ((key != "image" && key != "video") || !value.is_number_integer() || value < 0)
      return fail(
          "--limit-mm-per-prompt: expected \"image\" and \"video\" with numbers, found \"{}\"",
          key);
    (key == "image" ? o.server.images_max : o.server.videos_max) = value.get<std::int64_t>();
  }
  return {};
}

// NAME=DIR, or vLLM's {"name": NAME, "path": DIR}.
Result<ServedAdapter> read_lora_module(const std::string& text) {
  if (text.starts_with('{')) {
    M3_TRY(const Json json, read_object(text, "--lora-modules"));
    const std::string *name = find_string(json, "name"), *path = find_string(json, "path");
    if (name == nullptr || path == nullptr)
      return fail("--lora-modules: expected {{\"name\": NAME, \"path\": DIR}}, found {}", text);
    return ServedAdapter{*name, *path};
  }
  const auto equals = text.find('=');
  if (equals == text.npos) return fail("--lora-modules: expected NAME=DIR, found \"{}\"", text);
  return ServedAdapter{text.substr(0, equals), text.substr(equals + 1)};
}

Status read_lora_modules(ServeOptions& o) {
  std::set<std::string> names(o.names.begin(), o.names.end());
  if (names.empty()) names.insert(o.model.model);
  for (const std::string& text : o.lora_modules) {
    M3_TRY(ServedAdapter adapter, read_lora_module(text));
    if (adapter.name.empty() || adapter.directory.empty())
      return fail("--lora-modules: expected NAME=DIR, found \"{}\"", text);
    if (!names.insert(adapter.name).second)
      return fail("--lora-modules: two models are called \"{}\"", adapter.name);
    o.adapters.push_back(std::move(adapter));
  }
  return {};
}

}  // namespace

void add_serve_options(CLI::App& command, ServeOptions& o) {
  add_model_options(command, o.model);
  add_cache_options(command, o.model.cache);
  add_network_options(command, o);
  add_engine_options(command, o);
  add_request_options(command, o);
  add_speculative_options(command, o.speculative);
  add_known_flags(command, o);
}

Status finish_serve_options(ServeOptions& o) {
  if (std::ranges::count(o.names, "") > 0) return fail("--served-model-name is empty");
  M3_TRY_STATUS(read_keys(o));
  M3_TRY_STATUS(read_media_limits(o));
  M3_TRY_STATUS(read_lora_modules(o));
  if (!o.template_kwargs.empty()) {
    M3_TRY(Json kwargs, read_object(o.template_kwargs, "--default-chat-template-kwargs"));
    auto mode = thinking_mode_from({{"chat_template_kwargs", std::move(kwargs)}});
    if (!mode) return fail("--default-chat-template-kwargs: {}", mode.error().message);
    o.server.thinking_mode = *mode;
  }
  o.http.body_bytes_max = o.body_mb << 20;
  o.http.bodies_bytes_max = std::max(o.http.bodies_bytes_max, 2 * o.http.body_bytes_max);
  // Waiting alone lengthens the answers of a full server by waiting / running: this leaves room for
  // what else a crowd costs.
  if (!o.waiting_max) o.waiting_max = (o.sequences + 3) / 4;
  // Every sequence that decodes has a row in every step.
  if (o.step_rows < o.sequences)
    return fail("--max-num-batched-tokens is {}, fewer than --max-num-seqs {}", o.step_rows,
                o.sequences);
  return {};
}

}  // namespace m3
