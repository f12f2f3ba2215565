#include "backend/cpu/probe.h"

#include <gtest/gtest.h>

#include "backend/cpu/cpu_backend.h"

namespace m3 {
namespace {

// That a number is right cannot be tested; that it is one, of this planet, and named, can.
TEST(MachineProbe, MeasuresPlausibleLimits) {
  ThreadPool pool(2);
  auto probe = MachineProbe::create(pool, "");
  ASSERT_TRUE(probe.has_value()) << probe.error().message;
  const MachineLimits limits = probe->measure_quickly();
  EXPECT_GT(limits.read_gb_per_s, 0.01);
  EXPECT_LT(limits.read_gb_per_s, 10000);
  EXPECT_GT(limits.matrix_tflop_per_s, 1e-5);
  EXPECT_LT(limits.matrix_tflop_per_s, 1000);
  EXPECT_FALSE(limits.matrix_instruction.empty());
  EXPECT_GT(limits.int8_top_per_s, 1e-5);
  EXPECT_LT(limits.int8_top_per_s, 1000);
  EXPECT_FALSE(limits.int8_instruction.empty());
  EXPECT_GE(limits.read_streams, 1);
}

TEST(MachineProbe, RefusesUnknownInstructionSets) {
  ThreadPool pool(1);
  EXPECT_FALSE(MachineProbe::create(pool, "avx1024").has_value());
  EXPECT_FALSE(probe_machine(pool, "avx1024").has_value());
}

}  // namespace
}  // namespace m3
