// Reading the fields of config.json: typed, ranged, and with the first mistake kept.
//
// A getter that finds a mistake notes it and returns some value of its range, so that a reader is a
// plain list of assignments; whoever started the reading asks for the error once, at the end.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace m3 {

// One reading of one document.
struct Reading {
  std::string where;                  // the document's name in messages
  std::optional<Error> error;         // the first mistake found
  std::vector<std::string> unread;    // full names of keys that nobody knows
  std::vector<std::string> warnings;  // each a sentence

  // Keeps the first mistake only: later ones tend to follow from it.
  template <typename... Args>
  void mistake(fmt::format_string<Args...> format, Args&&... args) {
    if (!error)
      error = Error{fmt::format("{}: {}", where, fmt::format(format, std::forward<Args>(args)...))};
  }
  Status status() const {
    if (error) return tl::unexpected<Error>(*error);
    return {};
  }
};

// Errors: not JSON, or a number that no double holds.
Result<nlohmann::json> parse_document(std::string_view text, std::string_view where);

struct IntegerRange {
  std::int64_t min;
  std::int64_t max;
};

struct NumberRange {
  double min;
  double max;
};

// The fields of one JSON object. A field that is null counts as missing. `missing` is the value of
// a missing field; without it the field is required.
class Fields {
 public:
  // `object` must outlive this; it may be null or no object, which are both mistakes.
  Fields(Reading& reading, const nlohmann::json& object, std::string path);

  // Fields that are missing here are looked up there.
  void fall_back_to(Fields& outer) { outer_ = &outer; }

  bool has(std::string_view key) const;
  // The field as an object; its fields are read through the result. Empty if it is missing.
  std::optional<Fields> object(std::string_view key);

  // An integer written as one: 64.0, "64" and true are mistakes.
  std::int64_t integer(std::string_view key, IntegerRange range,
                       std::optional<std::int64_t> missing = std::nullopt);
  double number(std::string_view key, NumberRange range,
                std::optional<double> missing = std::nullopt);
  bool boolean(std::string_view key, bool missing);
  std::string text(std::string_view key, std::optional<std::string> missing = std::nullopt);
  // The place of a text in `accepted`; any other text is a mistake that lists these.
  std::size_t choice(std::string_view key, std::span<const std::string_view> accepted,
                     std::optional<std::size_t> missing = std::nullopt);
  std::optional<std::vector<std::string>> texts(std::string_view key);
  std::optional<std::vector<std::int64_t>> integers(std::string_view key, IntegerRange range);
  // A boolean that has to be `wanted` if it is there, because the model has no other form.
  void require_flag(std::string_view key, bool wanted);
  // A text that has to be this one, if it is there.
  void require_text(std::string_view key, std::string_view wanted);
  // The names of all fields that are not null; not those of the outer object.
  std::vector<std::string> names() const;
  // Marks keys that are known and have no effect.
  void ignore(std::span<const std::string_view> keys);

  // "text_config.head_dim", for messages.
  std::string name_of(std::string_view key) const;
  // Adds the keys that nobody asked for to the reading's list.
  void note_unread();
  Reading& reading() const { return *reading_; }

 private:
  const nlohmann::json* find(std::string_view key);
  const nlohmann::json* require(std::string_view key);
  void expected(std::string_view key, std::string_view what, const nlohmann::json& found);

  Reading* reading_;
  const nlohmann::json* object_;
  std::string path_;
  Fields* outer_ = nullptr;
  std::set<std::string, std::less<>> read_;
};

}  // namespace m3
