#include "base/glob.h"

#include <gtest/gtest.h>

#include <string>

namespace m3 {
namespace {

TEST(Glob, Matches) {
  EXPECT_TRUE(glob_matches("", ""));
  EXPECT_FALSE(glob_matches("", "a"));
  EXPECT_TRUE(glob_matches("*", ""));
  EXPECT_TRUE(glob_matches("*", "a.b"));
  EXPECT_TRUE(glob_matches("a.b", "a.b"));
  EXPECT_FALSE(glob_matches("a.b", "a.bc"));
  EXPECT_FALSE(glob_matches("a.b", "aab"));
  EXPECT_TRUE(glob_matches("*o_proj.weight", "layers.3.self_attn.o_proj.weight"));
  EXPECT_FALSE(glob_matches("*o_proj", "layers.3.self_attn.o_proj.weight"));
  EXPECT_TRUE(glob_matches("*layers.?.*", "model.layers.3.mlp"));
  EXPECT_FALSE(glob_matches("*layers.?.*", "model.layers.13.mlp"));
  EXPECT_TRUE(glob_matches("a*b*c", "aXbXbXc"));
  EXPECT_FALSE(glob_matches("a*b*c", "aXcXb"));
  EXPECT_FALSE(glob_matches("?", ""));
}

TEST(Glob, HostilePatternsTakeBoundedTime) {
  std::string pattern;
  for (int i = 0; i < 2000; ++i) pattern += "*a";
  EXPECT_FALSE(glob_matches(pattern + "b", std::string(5000, 'a')));
}

}  // namespace
}  // namespace m3
