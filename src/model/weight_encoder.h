// Rows of one weight on their way into a file. Only model_writer.cc includes this.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "model/model_writer.h"

namespace m3 {

class WeightEncoder {
 public:
  WeightEncoder(const WrittenWeight& weight, RowSource& source, ThreadPool* pool);

  // Reads all rows once, if the format has a factor of the whole matrix. Errors: a number that is
  // not finite.
  Status prepare();
  // The values of rows [first, first + rows), until the next call; keeps their scales. To be called
  // for all rows in order. Errors: a number that is not finite.
  Result<std::span<const std::byte>> encode(std::int64_t first, std::int64_t rows);

  std::span<const std::byte> scales() const { return scales_; }
  float factor() const { return factor_; }
  // Of the rows so far; the sums run in the order of the rows, whatever the threads.
  const RoundingError& error() const { return error_; }

 private:
  void encode_row(std::int64_t row, std::byte* values, float* x, float* rounded);
  RoundingError error_of(const float* x, const float* rounded) const;
  // Calls body(row) for all rows in [first, first + rows).
  template <typename Body>
  void for_rows(std::int64_t first, std::int64_t rows, const Body& body) const;
  Status expect_finite(std::int64_t first, std::int64_t rows) const;

  const WrittenWeight& weight_;
  const Codec& codec_;
  RowSource& source_;
  ThreadPool* pool_;
  float factor_ = 1;
  std::vector<std::byte> values_, scales_;
  std::vector<float> largest_;         // [rows] magnitudes
  std::vector<RoundingError> errors_;  // [rows], where the source measures them
  RoundingError error_;
};

}  // namespace m3
