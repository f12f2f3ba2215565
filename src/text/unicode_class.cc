#include "text/unicode_class.h"

#include <algorithm>
#include <iterator>

namespace m3 {
namespace {

// A run of code points of one class, up to the next run. kUpperLower: capital and small letters in
// turn, beginning with a capital.
enum class RunClass : std::uint8_t {
  kUpper = static_cast<std::uint8_t>(UnicodeClass::kUpper),
  kLower,
  kTitle,
  kModifier,
  kOtherLetter,
  kMark,
  kNumber,
  kSpace,
  kVisible,
  kHidden,
  kUpperLower,
};
static_assert(static_cast<int>(RunClass::kHidden) == static_cast<int>(UnicodeClass::kHidden));

struct Run {
  char32_t first;
  RunClass run_class;
};

using enum RunClass;
constexpr Run kRuns[] = {
#include "text/unicode_class_table.inc"
};

}  // namespace

UnicodeClass unicode_class(char32_t code_point) {
  if (code_point > 0x10FFFF) return UnicodeClass::kHidden;
  const auto next =
      std::upper_bound(std::begin(kRuns), std::end(kRuns), code_point,
                       [](char32_t value, const Run& run) { return value < run.first; });
  const Run& run = *std::prev(next);
  if (run.run_class != kUpperLower) return static_cast<UnicodeClass>(run.run_class);
  return (code_point - run.first) % 2 == 0 ? UnicodeClass::kUpper : UnicodeClass::kLower;
}

}  // namespace m3
