// What the tests of kernels share: every instruction set of this machine.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/isa.h"
#include "tensor/tensor.h"

namespace m3::cpu {

class IsaTest : public testing::TestWithParam<std::string> {
 protected:
  const Kernels& kernels_ = *kernels_named(GetParam()).value();
};

// Those that this machine has, and the twins.
inline std::vector<std::string> isas_to_test() {
  std::vector<std::string> names = cpu_isas();
  for (const std::string& twin : cpu_twins()) names.push_back(twin);
  return names;
}

inline std::string isa_test_name(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

// x [rows, k] as the dot kernel of linear layers wants it.
class PackedForDot {
 public:
  PackedForDot(const Kernels& kernels, const float* x, std::int64_t rows, std::int64_t k) {
    for (std::int64_t row = 0; row < rows; row += kernels.x_panel_rows) {
      const std::int64_t count = std::min(kernels.x_panel_rows, rows - row);
      const bool is_panel = kernels.x_panel_rows > 1;
      buffers_.emplace_back(is_panel ? kernels.x_panel_bytes(k, count)
                                     : kernels.packed_row_bytes(k));
      pointers_.push_back(buffers_.back().data());
      std::vector<const float*> in_panel;
      for (std::int64_t r = row; r < row + count; ++r) in_panel.push_back(x + r * k);
      if (is_panel) {
        kernels.pack_x_panel(in_panel.data(), count, k, buffers_.back().data());
      } else {
        kernels.pack_row(x + row * k, k, buffers_.back().data());
      }
    }
  }
  const void* const* pointers() const { return pointers_.data(); }

 private:
  std::vector<Buffer> buffers_;
  std::vector<const void*> pointers_;
};

#define M3_TEST_EVERY_ISA(suite) \
  INSTANTIATE_TEST_SUITE_P(Isas, suite, testing::ValuesIn(isas_to_test()), isa_test_name)

}  // namespace m3::cpu
