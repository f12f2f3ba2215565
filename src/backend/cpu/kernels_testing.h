// What the tests of kernels share: every instruction set of this machine.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/isa.h"

namespace m3::cpu {

class IsaTest : public testing::TestWithParam<std::string> {
 protected:
  const Kernels& kernels_ = *kernels_named(GetParam()).value();
};

inline std::string isa_test_name(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

#define M3_TEST_EVERY_ISA(suite) \
  INSTANTIATE_TEST_SUITE_P(Isas, suite, testing::ValuesIn(cpu_isas()), isa_test_name)

}  // namespace m3::cpu
