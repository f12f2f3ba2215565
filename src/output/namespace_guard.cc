#include "output/namespace_guard.h"

#include <array>

#include "text/control_strings.h"

namespace m3 {
namespace {

constexpr std::string_view kString = control::kNamespace;

// Knuth, Morris and Pratt: with n bytes matched, how many of them may begin the string anew.
constexpr auto kRestarts = [] {
  std::array<std::size_t, kString.size()> restarts{};
  for (std::size_t n = 2; n < kString.size(); ++n) {
    std::size_t k = restarts[n - 1];
    while (k > 0 && kString[k] != kString[n - 1]) k = restarts[k];
    restarts[n] = kString[k] == kString[n - 1] ? k + 1 : 0;
  }
  return restarts;
}();

std::size_t matched_after(std::size_t matched, char next) {
  while (matched > 0 && kString[matched] != next) matched = kRestarts[matched];
  return kString[matched] == next ? matched + 1 : 0;
}

}  // namespace

std::string NamespaceGuard::pass(std::string text) {
  if (matched_ == 0 && text.find(kString[0]) == text.npos) return text;
  std::string shown;
  shown.reserve(text.size());
  for (const char c : text) {
    const std::size_t matched = matched_after(matched_, c);
    if (matched == kString.size()) continue;
    matched_ = matched;
    shown += c;
  }
  return shown;
}

}  // namespace m3
