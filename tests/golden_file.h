// The official model's answers in tests/data/goldens, and how close to them ours are.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"

namespace m3 {

inline std::string golden_path(const std::string& name) {
  return std::string(M3_SOURCE_DIR) + "/tests/data/goldens/" + name + ".safetensors";
}

// A golden file, by name of tensor.
class GoldenFile {
 public:
  explicit GoldenFile(const std::string& name) {
    auto file = SafetensorsFile::open(golden_path(name));
    EXPECT_TRUE(file) << (file ? "" : file.error().message);
    file_ = *file;
  }
  const std::vector<TensorInfo>& infos() const { return file_->tensors(); }
  Tensor at(const std::string& name) const { return file_->tensor(*file_->find(name)); }
  std::vector<std::int32_t> ints(const std::string& name) const {
    const Tensor t = at(name);
    return {t.as<std::int32_t>(), t.as<std::int32_t>() + t.elements()};
  }

 private:
  std::shared_ptr<const SafetensorsFile> file_;
};

inline double worst_difference(const std::vector<float>& ours, const Tensor& golden) {
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const double want = golden.as<float>()[i];
    worst = std::max(worst, std::abs(ours[i] - want));
    largest = std::max(largest, std::abs(want));
    if (!std::isfinite(ours[i])) return INFINITY;
  }
  return worst / std::max(1.0, largest / 10);
}

// The cosine of each row, ascending.
inline std::vector<double> cosines(const std::vector<float>& ours, const Tensor& golden) {
  const auto width = static_cast<std::size_t>(golden.row_elements());
  std::vector<double> all;
  for (std::size_t begin = 0; begin < ours.size(); begin += width) {
    double dot = 0, a = 0, b = 0;
    for (std::size_t i = begin; i < begin + width; ++i) {
      const double x = ours[i], y = golden.as<float>()[i];
      dot += x * y;
      a += x * x;
      b += y * y;
    }
    all.push_back(dot / std::sqrt(a * b));
  }
  std::sort(all.begin(), all.end());
  return all;
}

inline double worst_cosine(const std::vector<float>& ours, const Tensor& golden) {
  return cosines(ours, golden).front();
}
inline double median_cosine(const std::vector<float>& ours, const Tensor& golden) {
  const auto all = cosines(ours, golden);
  return all[all.size() / 2];
}

}  // namespace m3
