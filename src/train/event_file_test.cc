#include "train/event_file.h"

#include <gtest/gtest.h>

namespace m3 {
namespace {

// RFC 3720, B.4, and the check value of the catalogue of CRCs.
TEST(EventFile, SumsAreCastagnolis) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
}

// As TensorFlow writes it: the first record of its files.
TEST(EventFile, BeginsAsTensorFlowsDo) {
  const std::string record = version_event(0);
  const std::string event =
      record.substr(12, record.size() - 16);  // without length, its sum and the event's
  EXPECT_EQ(event, std::string("\x09\0\0\0\0\0\0\0\0\x10\0\x1a\x0d"
                               "brain.Event:2",
                               26));
  EXPECT_EQ(static_cast<std::size_t>(record[0]), event.size());
}

}  // namespace
}  // namespace m3
