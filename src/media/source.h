// Where the bytes of a picture or clip come from.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "base/file.h"
#include "base/result.h"

namespace m3 {

// Of what has no end, or none in sight: as many bytes as the vendor takes of a clip by URL. Regular
// files are mapped, whatever their size.
constexpr std::int64_t kStreamBytesMax = 250'000'000;

// The bytes of one picture or clip, and how messages name it.
class MediaSource {
 public:
  // A path, a file:// address, or a data: address in base64, with line feeds and without padding if
  // need be (spec: chat-and-api §8.7; what it says of its type is not looked at). Pipes and devices
  // are read to their end, waiting for whoever writes. Errors: a file that cannot be read, a pipe
  // of more than `stream_bytes_max` bytes, an address that is empty or of the network, or base64
  // that is none.
  static Result<MediaSource> open(const std::string& address,
                                  std::int64_t stream_bytes_max = kStreamBytesMax);

  std::span<const std::byte> bytes() const {
    return file_ ? file_->bytes() : std::as_bytes(std::span(held_));
  }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  std::shared_ptr<const MappedFile> file_;
  std::string held_;  // of what is no file
};

}  // namespace m3
