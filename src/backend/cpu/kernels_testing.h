// What the tests of kernels share: every instruction set of this machine.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/x_packer.h"
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

// x [rows, k] as a kernel of linear layers wants it.
class PackedForKernel {
 public:
  PackedForKernel(const Kernels& kernels, XForm form, const float* x, std::int64_t rows,
                  std::int64_t k) {
    const std::int64_t panel_rows = panel_rows_of(kernels, form);
    for (std::int64_t row = 0; row < rows; row += panel_rows) {
      if (panel_rows > 1) {
        const std::int64_t count = std::min(panel_rows, rows - row);
        std::vector<const float*> in_panel;
        for (std::int64_t r = row; r < row + count; ++r) in_panel.push_back(x + r * k);
        const PanelPacking packing = panel_packing_of(kernels, form);
        packing.pack(in_panel.data(), count, k, add(packing.bytes(k, count)));
      } else {
        const Packing packing = packing_of(kernels, form);
        packing.pack(x + row * k, k, add(packing.bytes(k)));
      }
    }
  }
  const void* const* pointers() const { return pointers_.data(); }

 private:
  void* add(std::int64_t bytes) {
    buffers_.emplace_back(bytes);
    pointers_.push_back(buffers_.back().data());
    return buffers_.back().data();
  }

  std::vector<Buffer> buffers_;
  std::vector<const void*> pointers_;
};

#define M3_TEST_EVERY_ISA(suite) \
  INSTANTIATE_TEST_SUITE_P(Isas, suite, testing::ValuesIn(isas_to_test()), isa_test_name)

}  // namespace m3::cpu
