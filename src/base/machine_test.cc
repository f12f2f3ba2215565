#include "base/machine.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace m3 {
namespace {

namespace fs = std::filesystem;

class Cgroup : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "m3-cgroup-XXXXXX").string();
    mount_ = ::mkdtemp(pattern.data());
    fs::create_directories(mount_ / "pods/ours");
  }
  void TearDown() override { fs::remove_all(mount_); }
  void write(const char* path, const char* text) { std::ofstream(mount_ / path) << text; }
  fs::path mount_;
};

TEST_F(Cgroup, TheTightestLimitOfAGroupAndThoseAboveHolds) {
  write("pods/memory.max", "1000\n");
  write("pods/memory.current", "900\n");
  write("pods/memory.stat", "anon 10\ninactive_file 300\n");
  write("pods/ours/memory.max", "max\n");
  write("pods/ours/memory.current", "800\n");
  write("pods/cpu.max", "max 100000\n");
  write("pods/ours/cpu.max", "250000 100000\n");
  const CgroupLimits ours = read_cgroup_limits("1:cpu:/x\n0::/pods/ours\n", mount_);
  EXPECT_EQ(ours.memory_left, 400);
  EXPECT_EQ(ours.cores, 2.5);
  const CgroupLimits above = read_cgroup_limits("0::/pods\n", mount_);
  EXPECT_EQ(above.memory_left, 400);
  EXPECT_GT(above.cores, 1e9);
}

TEST_F(Cgroup, NothingSaidLimitsNothing) {
  for (const char* membership : {"", "0::/", "0::/pods/ours", "0::/not/here", "garbage"}) {
    const CgroupLimits limits = read_cgroup_limits(membership, mount_);
    EXPECT_GT(limits.memory_left, std::int64_t{1} << 60) << membership;
    EXPECT_GT(limits.cores, 1e9) << membership;
  }
}

TEST(Machine, HasACoreAndMemory) {
  EXPECT_GE(available_cores(), 1);
  EXPECT_GT(available_memory(), 1 << 20);
}

TEST(Machine, TheProcessorHasAName) {
  EXPECT_GT(processor_name().size(), 2u);
  EXPECT_EQ(processor_name().find('\n'), std::string::npos);
}

}  // namespace
}  // namespace m3
