#include "data/record_media.h"

#include <string>

namespace m3 {
namespace {

// The addresses of one kind, on their way to their places.
class Addresses {
 public:
  Addresses(std::string kind) : kind_(std::move(kind)), tag_("<" + kind_ + ">") {}

  Status read(const Json& record) {
    for (const std::string& key : {kind_, kind_ + "s"}) {
      const Json* given = find_set_member(record, key);
      if (given == nullptr) continue;
      for (const Json& address : given->is_array() ? *given : Json::array({*given})) {
        if (!address.is_string() && !address.is_object())
          return fail("\"{}\" must hold addresses, it holds {}", key, kind_name(address));
        addresses_.push_back(address);
      }
    }
    return {};
  }

  bool empty() const { return addresses_.empty(); }
  bool has_key(const Json& record) const {
    return find_member(record, kind_) != nullptr || find_member(record, kind_ + "s") != nullptr;
  }
  Status expect_none() const {
    if (addresses_.empty()) return {};
    return fail(
        "the record names {} {}{}, but its \"text\" has no places for them: expected messages, or "
        "\"prompt\" and \"completion\", with {} where each belongs",
        addresses_.size(), kind_, addresses_.size() == 1 ? "" : "s", tag_);
  }
  // That a user's text has no place for what the record does not name.
  Status expect_untagged(std::string_view text) const {
    if (text.find(tag_) == text.npos) return {};
    return fail(
        "a user's text has {}, but the record names no {} for it: expected \"{}s\" in the record, "
        "a list with an address for each {}; where it is a word, \"messages\" without such a key",
        tag_, kind_, kind_, tag_);
  }
  const std::string& tag() const { return tag_; }

  bool is_place(const Json& part) const {
    const std::string* type = find_string(part, "type");
    if (type == nullptr || *type != kind_) return false;
    for (const std::string& key : {kind_ + "_url", kind_, std::string("url"), std::string("path")})
      if (find_set_member(part, key) != nullptr) return false;
    return true;
  }

  // The part of the next address.
  Json take() {
    Json part = {{"type", kind_}};
    if (places_ < addresses_.size()) {
      const Json& address = addresses_[places_];
      if (address.is_object())
        part.update(address);
      else
        part[kind_] = address;
      part["type"] = kind_;
    }
    ++places_;
    return part;
  }

  Status finish() const {
    if (places_ == addresses_.size()) return {};
    return fail("the record names {} {}{}, its messages have {} place{} for them",
                addresses_.size(), kind_, addresses_.size() == 1 ? "" : "s", places_,
                places_ == 1 ? "" : "s");
  }

 private:
  std::string kind_, tag_;
  Json::array_t addresses_;
  std::size_t places_ = 0;
};

Json text_part(std::string_view text) {
  Json part = {{"type", "text"}};
  part["text"] = text;
  return part;
}

class Placer {
 public:
  Status read(const Json& record) {
    M3_TRY_STATUS(images_.read(record));
    return videos_.read(record);
  }

  void place(Json& message) {
    const auto content = message.is_object() ? message.find("content") : message.end();
    if (content == message.end()) return;
    Json parts = Json::array();
    if (content->is_string()) {
      add_text(content->get_ref<const std::string&>(), parts);
    } else if (content->is_array()) {
      for (const Json& part : *content) add_part(part, parts);
    } else {
      return;
    }
    *content = std::move(parts);
  }

  bool empty() const { return images_.empty() && videos_.empty(); }
  Status expect_none() const {
    M3_TRY_STATUS(images_.expect_none());
    return videos_.expect_none();
  }
  // That users' texts have no places of a kind that has no addresses.
  Status expect_addresses(const Json& record, MediaTags tags, const Json& messages) const {
    for (const Addresses* kind : {&images_, &videos_}) {
      if (!kind->empty()) continue;
      if (tags == MediaTags::kArePlacesWithKey && !kind->has_key(record)) continue;
      for (const Json& message : messages) M3_TRY_STATUS(expect_untagged(*kind, message));
    }
    return {};
  }
  Status finish() const {
    M3_TRY_STATUS(images_.finish());
    return videos_.finish();
  }

 private:
  static Status expect_untagged(const Addresses& kind, const Json& message) {
    const std::string* role = find_string(message, "role");
    if (role == nullptr || *role != "user") return {};
    if (const std::string* text = find_string(message, "content"))
      return kind.expect_untagged(*text);
    const Json* parts = find_set_member(message, "content");
    if (parts == nullptr || !parts->is_array()) return {};
    for (const Json& part : *parts)
      if (const std::string* text = find_string(part, "text"))
        M3_TRY_STATUS(kind.expect_untagged(*text));
    return {};
  }

  void add_part(const Json& part, Json& parts) {
    const std::string* type = find_string(part, "type");
    const std::string* text = find_string(part, "text");
    if (type != nullptr && *type == "text" && text != nullptr) return add_text(*text, parts);
    for (Addresses* kind : {&images_, &videos_})
      if (!kind->empty() && kind->is_place(part)) {
        parts.push_back(kind->take());
        return;
      }
    parts.push_back(part);
  }

  // Cuts a text at its tags.
  void add_text(std::string_view text, Json& parts) {
    std::size_t begin = 0;
    for (std::size_t at = 0; at < text.size();) {
      Addresses* found = nullptr;
      for (Addresses* kind : {&images_, &videos_})
        if (!kind->empty() && text.substr(at).starts_with(kind->tag())) found = kind;
      if (found == nullptr) {
        ++at;
        continue;
      }
      if (at > begin) parts.push_back(text_part(text.substr(begin, at - begin)));
      parts.push_back(found->take());
      begin = at += found->tag().size();
    }
    if (begin < text.size()) parts.push_back(text_part(text.substr(begin)));
  }

  Addresses images_{"image"};
  Addresses videos_{"video"};
};

}  // namespace

Status place_record_media(const Json& record, MediaTags tags, Json& messages) {
  Placer placer;
  M3_TRY_STATUS(placer.read(record));
  M3_TRY_STATUS(placer.expect_addresses(record, tags, messages));
  if (placer.empty()) return {};
  for (Json& message : messages) placer.place(message);
  return placer.finish();
}

Status expect_no_record_media(const Json& record) {
  Placer placer;
  M3_TRY_STATUS(placer.read(record));
  return placer.expect_none();
}

}  // namespace m3
