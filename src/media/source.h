// Where the bytes of a picture or clip come from.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/result.h"

namespace m3 {

// The bytes of one picture or clip, and how messages name it.
class MediaSource {
 public:
  // A path, a file:// address, or a data: address in base64, with line feeds and without padding if
  // need be (spec: chat-and-api §8.7; what it says of its type is not looked at). Errors: a file
  // that cannot be read, an address of the network, or base64 that is none.
  static Result<MediaSource> open(const std::string& address);

  std::span<const std::byte> bytes() const {
    return file_ ? file_->bytes() : std::span<const std::byte>(decoded_);
  }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  std::shared_ptr<const MappedFile> file_;
  std::vector<std::byte> decoded_;
};

}  // namespace m3
