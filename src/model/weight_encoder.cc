#include "model/weight_encoder.h"

#include <algorithm>
#include <cmath>

namespace m3 {
namespace {

// NaN and infinity give infinity.
float largest_of(const float* x, std::int64_t count) {
  float largest = 0;
  bool finite = true;
  for (std::int64_t k = 0; k < count; ++k) {
    finite = finite && std::isfinite(x[k]);
    largest = std::max(largest, std::fabs(x[k]));
  }
  return finite ? largest : INFINITY;
}

}  // namespace

WeightEncoder::WeightEncoder(const WrittenWeight& weight, RowSource& source, ThreadPool* pool)
    : weight_(weight),
      codec_(*weight.codec),
      source_(source),
      pool_(pool),
      scales_(static_cast<std::size_t>(weight.scale_bytes())),
      largest_(static_cast<std::size_t>(weight.rows)),
      errors_(source.measures_errors() ? static_cast<std::size_t>(weight.rows) : 0) {}

template <typename Body>
void WeightEncoder::for_rows(std::int64_t first, std::int64_t rows, const Body& body) const {
  constexpr std::int64_t kGrainElements = 1 << 16;
  const auto range = [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> x(static_cast<std::size_t>(weight_.cols)), rounded(x.size());
    for (std::int64_t row = first + begin; row < first + end; ++row)
      body(row, x.data(), rounded.data());
  };
  const std::int64_t grain = std::max<std::int64_t>(1, kGrainElements / weight_.cols);
  if (pool_ != nullptr)
    pool_->parallel_for(rows, grain, range);
  else
    range(0, rows);
}

Status WeightEncoder::expect_finite(std::int64_t first, std::int64_t rows) const {
  for (std::int64_t row = first; row < first + rows; ++row)
    if (!std::isfinite(largest_[static_cast<std::size_t>(row)]))
      return fail("{}: row {} holds a number that is not finite", weight_.spec->name, row);
  return {};
}

Status WeightEncoder::prepare() {
  if (codec_.whole_scale == nullptr) return {};
  for_rows(0, weight_.rows, [&](std::int64_t row, float* x, float*) {
    source_.read_row(weight_, row, x);
    largest_[static_cast<std::size_t>(row)] = largest_of(x, weight_.cols);
  });
  M3_TRY_STATUS(expect_finite(0, weight_.rows));
  factor_ = codec_.whole_scale(*std::max_element(largest_.begin(), largest_.end()));
  return {};
}

Result<std::span<const std::byte>> WeightEncoder::encode(std::int64_t first, std::int64_t rows) {
  const std::int64_t row_bytes = value_row_bytes(codec_, weight_.cols);
  values_.resize(static_cast<std::size_t>(rows * row_bytes));
  for_rows(first, rows, [&](std::int64_t row, float* x, float* rounded) {
    encode_row(row, values_.data() + (row - first) * row_bytes, x, rounded);
  });
  M3_TRY_STATUS(expect_finite(first, rows));
  if (errors_.empty()) return values_;
  for (std::int64_t row = first; row < first + rows; ++row) {
    const RoundingError& error = errors_[static_cast<std::size_t>(row)];
    error_.squares += error.squares;
    error_.error_squares += error.error_squares;
    error_.error_max = std::max(error_.error_max, error.error_max);
  }
  return values_;
}

void WeightEncoder::encode_row(std::int64_t row, std::byte* values, float* x, float* rounded) {
  source_.read_row(weight_, row, x);
  const auto at = static_cast<std::size_t>(row);
  largest_[at] = largest_of(x, weight_.cols);
  if (!std::isfinite(largest_[at])) return;
  std::byte* scales = scales_.data() + row * scale_row_bytes(codec_, weight_.cols);
  codec_.encode(x, weight_.cols, factor_, values, scales);
  if (errors_.empty()) return;
  Matrix stored{&codec_, {values, codec_.values_dtype, {1, values_cols(codec_, weight_.cols)}}};
  if (!scales_.empty())
    stored.scales = {scales, codec_.scales_dtype, {1, scale_cols(codec_, weight_.cols)}};
  stored.rows = 1;
  stored.cols = weight_.cols;
  stored.scale = factor_;
  codec_.decode(stored, 0, 0, weight_.cols, rounded);
  errors_[at] = error_of(x, rounded);
}

RoundingError WeightEncoder::error_of(const float* x, const float* rounded) const {
  RoundingError error;
  for (std::int64_t k = 0; k < weight_.cols; ++k) {
    const double difference = double{rounded[k]} - x[k];
    error.squares += double{x[k]} * x[k];
    error.error_squares += difference * difference;
    error.error_max = std::max(error.error_max, std::abs(difference));
  }
  return error;
}

}  // namespace m3
