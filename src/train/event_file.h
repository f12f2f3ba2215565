// The file that TensorBoard reads: records of an Event each (tensorflow/core/util/event.proto).
//
//   record   length of the event, 64 bits, and its masked CRC-32C, 32 bits;
//            the event and its masked CRC-32C; little endian
//   event    1: seconds since 1970, double; 2: step; one of
//            3: the file's version, text; 5: summary; 7: session log
//   summary  1: value, of 1: tag, text; 2: number, float
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace m3 {

// CRC-32C (Castagnoli) of bytes.
std::uint32_t crc32c(std::string_view bytes);

struct EventScalar {
  std::string tag;
  double value;
};

// Each is a record. Every file begins with the version; after it, a session that goes on at a step
// takes back what others said of this and later ones.
std::string version_event(double seconds);
std::string session_event(double seconds, std::int64_t step);
std::string scalars_event(double seconds, std::int64_t step, std::span<const EventScalar> scalars);

}  // namespace m3
