#include "backend/cpu/isa.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "backend/cpu/amx_probe.h"
#include "backend/cpu/cpu_backend.h"
#include "base/cpu_features.h"

namespace m3 {
namespace {

TEST(CpuIsas, AreListedBestFirstAndEndWithWhatAllMachinesHave) {
  const CpuFeatures machine = cpu_features();
  std::vector<std::string> expected;
  if (machine.amx_bf16 && cpu::amx_granted()) expected.push_back("amx");
  if (machine.avx512_bf16 && !machine.intel) expected.push_back("avx512-bf16");
  if (machine.avx512_vnni) expected.push_back("avx512-vnni");
  if (machine.avx512_bf16 && machine.intel) expected.push_back("avx512-bf16");
  if (machine.avx512) expected.push_back("avx512");
  if (machine.avx2) expected.push_back("avx2");
  expected.push_back("x86-64");
  EXPECT_EQ(cpu_isas(), expected);
}

TEST(CpuIsas, CanEachBeForced) {
  ThreadPool pool(1);
  for (const std::string& name : cpu_isas()) {
    const auto backend = make_cpu_backend(name, pool);
    ASSERT_TRUE(backend.has_value()) << backend.error().message;
    EXPECT_EQ((*backend)->name(), "cpu");
    EXPECT_EQ((*backend)->isa(), name);
    EXPECT_EQ((*backend)->cache_format().kv, DType::kBF16);
  }
}

TEST(CpuIsas, EmptyNameIsTheBest) {
  ThreadPool pool(1);
  const auto backend = make_cpu_backend("", pool);
  ASSERT_TRUE(backend.has_value()) << backend.error().message;
  EXPECT_EQ((*backend)->isa(), cpu_isas().front());
}

TEST(CpuIsas, UnknownOrAbsentNamesGetAListOfWhatThereIs) {
  ThreadPool pool(1);
  for (const char* name :
       {"avx1024", "AVX2", " ", "amx", "avx512-bf16", "avx512-vnni", "avx512", "avx2"}) {
    const auto isas = cpu_isas();
    const auto backend = make_cpu_backend(name, pool);
    const bool here = std::find(isas.begin(), isas.end(), name) != isas.end();
    EXPECT_EQ(backend.has_value(), here) << name;
    if (here) continue;
    EXPECT_NE(backend.error().message.find("x86-64"), std::string::npos) << backend.error().message;
    EXPECT_NE(backend.error().message.find(name), std::string::npos) << backend.error().message;
  }
}

TEST(CpuIsas, ATwinIsThereByNameAlone) {
  ThreadPool pool(1);
  const auto isas = cpu_isas();
  for (const std::string& name : cpu_twins()) {
    EXPECT_EQ(std::count(isas.begin(), isas.end(), name), 0);
    const auto backend = make_cpu_backend(name, pool);
    ASSERT_TRUE(backend.has_value()) << backend.error().message;
    EXPECT_EQ((*backend)->isa(), name);
  }
}

}  // namespace
}  // namespace m3
