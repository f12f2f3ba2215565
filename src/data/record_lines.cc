#include "data/record_lines.h"

#include <algorithm>

namespace m3 {
namespace {

constexpr std::string_view kBlank = " \t\r\n";

// Steps through a text and counts its lines.
class Cursor {
 public:
  Cursor(std::string_view text, std::size_t at) : text_(text) { go_to(at); }

  bool at_end() const { return at_ >= text_.size(); }
  char here() const { return text_[at_]; }
  std::size_t at() const { return at_; }
  std::int64_t line() const { return line_; }
  void go_to(std::size_t at) {
    at = std::min(at, text_.size());
    line_ += std::count(text_.begin() + static_cast<std::ptrdiff_t>(at_),
                        text_.begin() + static_cast<std::ptrdiff_t>(at), '\n');
    at_ = at;
  }
  void skip_blank() { go_to(text_.find_first_not_of(kBlank, at_)); }
  // To the end of the string that begins here. False: it has none.
  bool skip_string() {
    std::size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != '"') end += text_[end] == '\\' ? 2 : 1;
    go_to(end + 1);
    return end < text_.size();
  }

 private:
  std::string_view text_;
  std::size_t at_ = 0;
  std::int64_t line_ = 1;
};

std::vector<RecordPlace> find_lines(std::string_view text) {
  std::vector<RecordPlace> places;
  std::int64_t line = 1;
  for (std::size_t begin = 0; begin < text.size(); ++line) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    if (text.substr(begin, end - begin).find_first_not_of(kBlank) != text.npos)
      places.push_back({{begin, end}, line});
    begin = end + 1;
  }
  return places;
}

// Leaves the cursor on the comma or bracket behind the element that begins here. False: the text
// ends inside the element, or in front of it.
bool skip_element(Cursor& cursor) {
  if (cursor.at_end()) return false;
  int depth = 0;
  while (!cursor.at_end()) {
    const char c = cursor.here();
    if (c == '"') {
      if (!cursor.skip_string()) return false;
      continue;
    }
    if (depth == 0 && (c == ',' || c == ']' || c == '}')) return true;
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') --depth;
    cursor.go_to(cursor.at() + 1);
  }
  return depth == 0;
}

RecordPlaces find_elements(std::string_view text, std::size_t bracket) {
  RecordPlaces found;
  Cursor cursor(text, bracket + 1);
  cursor.skip_blank();
  for (bool more = cursor.at_end() || cursor.here() != ']'; more;) {
    cursor.skip_blank();
    const std::size_t begin = cursor.at();
    const std::int64_t line = cursor.line();
    if (!skip_element(cursor)) {
      found.line = line;
      found.broken =
          "the file ends inside this record, before the ] that closes the list: is it whole?";
      return found;
    }
    found.records.push_back({{begin, cursor.at()}, line});
    more = !cursor.at_end() && cursor.here() == ',';
    if (more) cursor.go_to(cursor.at() + 1);
  }
  const bool closed = !cursor.at_end() && cursor.here() == ']';
  if (closed) cursor.go_to(cursor.at() + 1);
  cursor.skip_blank();
  found.line = cursor.line();
  if (!closed)
    found.broken = "the list of records is not closed by a ]: is the file whole?";
  else if (!cursor.at_end())
    found.broken = "something stands behind the list of records";
  return found;
}

}  // namespace

RecordPlaces find_records(std::string_view text) {
  const std::size_t first = text.find_first_not_of(kBlank);
  if (first == text.npos) return {};
  if (text[first] == '[') return find_elements(text, first);
  return {.records = find_lines(text)};
}

}  // namespace m3
