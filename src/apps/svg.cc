#include "apps/svg.h"

#include <fmt/core.h>

namespace m3 {
namespace {

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      default:
        // No control character may stand in XML, escaped or not.
        out += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    }
  }
  return out;
}

}  // namespace

std::string svg_begin(double width, double height) {
  return fmt::format(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" "
             "viewBox=\"0 0 {0:.0f} {1:.0f}\" font-family=\"Helvetica, Arial, sans-serif\">\n",
             width, height) +
         box(0, 0, width, height, "#ffffff");
}

std::string text(double x, double y, std::string_view words, const TextStyle& style) {
  std::string more = style.bold ? " font-weight=\"bold\"" : "";
  if (style.upwards) more += fmt::format(" transform=\"rotate(-90 {:.1f} {:.1f})\"", x, y);
  return fmt::format(
      "<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"{}\" text-anchor=\"{}\" "
      "fill=\"{}\"{}>{}</text>\n",
      x, y, style.size, style.anchor, style.colour, more, escaped(words));
}

std::string box(double x, double y, double width, double height, const char* colour) {
  return fmt::format(
      "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\"/>\n", x, y,
      width, height, colour);
}

}  // namespace m3
