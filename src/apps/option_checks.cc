#include "apps/option_checks.h"

#include <map>
#include <string>

#include <charconv>

#include "input/media_part.h"
#include "media/video.h"

namespace m3 {

CLI::Validator between(double low, double high, bool above_low) {
  const auto check = [=](const std::string& text) -> std::string {
    double value = 0;
    const char* end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data(), end, value);
    const bool number = parsed.ec == std::errc() && parsed.ptr == end;
    if (number && value <= high && (above_low ? value > low : value >= low)) return {};
    return fmt::format("{} is not a number {} {} {} {}", text, above_low ? "above" : "from", low,
                       above_low ? "and up to" : "to", high);
  };
  return CLI::Validator(check, "");
}

CLI::Validator whole_number() {
  const auto check = [](const std::string& text) -> std::string {
    std::uint64_t value = 0;
    const char* end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data(), end, value);
    if (parsed.ec == std::errc() && parsed.ptr == end) return {};
    return text + " is not a whole number from 0 to 2^64 - 1";
  };
  return CLI::Validator(check, "");
}

CLI::Option* add_fps_option(CLI::App& command, double& fps) {
  return command.add_option("--fps", fps, "frames to keep of a second of a clip")
      ->check(between(0, kFpsMax, /*above_low=*/true))
      ->capture_default_str();
}

CLI::Option* add_long_side_option(CLI::App& command, std::int64_t& pixels) {
  const auto check = [](const std::string& text) -> std::string {
    std::int64_t value = 0;
    std::from_chars(text.data(), text.data() + text.size(), value);
    const Status status = check_long_side(value);
    return status ? "" : status.error().message;
  };
  return command
      .add_option("--max-long-side", pixels,
                  "shrink pictures and frames to this long side, in pixels, in place of the "
                  "model's limits of their area; a multiple of 28")
      ->check(CLI::Validator(check, ""));
}

void add_recompute_option(CLI::App& command, bool& recompute) {
  command.add_flag(
      "--recompute", recompute,
      "keep of each layer what it was given, its experts and blocks alone, and compute "
      "it again in the backward pass: less memory, more time, the same bits");
}

void add_cache_options(CLI::App& command, CacheTypes& types) {
  static const std::map<std::string, DType> kTypes{{"bf16", DType::kBF16}, {"fp8", DType::kF8E4M3}};
  const auto add = [&](const char* name, std::optional<DType>& type, const char* help) {
    command
        .add_option_function<std::string>(
            name, [&type](const std::string& text) { type = kTypes.at(text); }, help)
        ->check(CLI::IsMember({"bf16", "fp8"}));
  };
  add("--kv-dtype", types.kv,
      "how the cache keeps keys and values: bf16, or fp8 (e4m3) in half the memory (default: bf16; "
      "reference: float32)");
  add("--index-dtype", types.index, "the same for the keys of the index");
}

}  // namespace m3
