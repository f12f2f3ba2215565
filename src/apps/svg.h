// Pieces of an SVG document, as the pictures of `m3` are made of.
#pragma once

#include <string>
#include <string_view>

namespace m3 {

inline constexpr const char* kInk = "#222222";
inline constexpr const char* kFaint = "#d8d8d8";

struct TextStyle {
  double size = 12;
  const char* anchor = "start";
  const char* colour = kInk;
  bool upwards = false;
  bool bold = false;
};

// White paper.
std::string svg_begin(double width, double height);
inline constexpr const char* kSvgEnd = "</svg>\n";

std::string text(double x, double y, std::string_view words, const TextStyle& style = {});
std::string box(double x, double y, double width, double height, const char* colour);

}  // namespace m3
