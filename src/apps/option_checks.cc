#include "apps/option_checks.h"

#include <charconv>

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

CLI::Option* add_fps_option(CLI::App& command, double& fps) {
  constexpr double kFpsMax = 1000;  // as decode_video()
  return command.add_option("--fps", fps, "frames to keep of a second of a clip")
      ->check(between(0, kFpsMax, /*above_low=*/true))
      ->capture_default_str();
}

}  // namespace m3
