#include "text/pretokenizer.h"

#include <algorithm>
#include <array>

#include "text/unicode_class.h"
#include "text/utf8.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace m3 {
namespace {

// Steps that one match may take for each byte of text, and in any case. M3's patterns take about
// three a byte; the limit is there for patterns that take exponentially many.
constexpr std::size_t kStepsPerByte = 16;
constexpr std::size_t kStepsMin = 1 << 20;
constexpr std::size_t kJitStackBytesMax = 16 << 20;

constexpr std::array<std::string_view, 8> kProperties = {"L",  "Lu", "Ll", "Lt",
                                                         "Lm", "Lo", "M",  "N"};
constexpr std::string_view kEscapes = "rntsS";

bool is_ascii(char c) {
  return static_cast<unsigned char>(c) < 0x80;
}

bool is_ascii_word(char c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

// ---- What the pattern may ask for.

// The escape at `at` (just behind the backslash): its length, or what is wrong with it.
Result<std::size_t> escape_length(std::string_view pattern, std::size_t at) {
  if (at == pattern.size()) return fail("ends in a backslash");
  const char kind = pattern[at];
  if (!is_ascii_word(kind) || kEscapes.find(kind) != kEscapes.npos) return 1;
  if (kind != 'p' && kind != 'P') return fail("uses \\{}, which is not supported", kind);
  const std::size_t close = pattern.find('}', at);
  if (at + 1 == pattern.size() || pattern[at + 1] != '{' || close == pattern.npos)
    return fail("has a \\{} without a name in braces", kind);
  const std::string_view name = pattern.substr(at + 2, close - at - 2);
  if (std::find(kProperties.begin(), kProperties.end(), name) == kProperties.end())
    return fail("uses the property {}, supported are L, Lu, Ll, Lt, Lm, Lo, M and N", name);
  return close + 1 - at;
}

Status check_pattern(std::string_view pattern) {
  for (std::size_t at = 0; at < pattern.size();) {
    if (!is_ascii(pattern[at])) return fail("has a character beyond ASCII at byte {}", at);
    if (pattern.substr(at, 2) == "[:") return fail("uses a POSIX class at byte {}", at);
    if (pattern.substr(at, 2) == "(*") return fail("uses a control verb at byte {}", at);
    if (pattern[at++] != '\\') continue;
    M3_TRY(const std::size_t length, escape_length(pattern, at));
    at += length;
  }
  return {};
}

// ---- Representatives.

// By class (in the order of UnicodeClass) and length in bytes, 2 to 4. Empty: the class has no
// character of this length.
constexpr std::array<std::array<std::string_view, 3>, 10> kRepresentatives = {{
    {"\u00C0", "\u1E00", "\U00010400"},  // kUpper
    {"\u00E0", "\u1E01", "\U00010428"},  // kLower
    {"\u01C5", "\u1F88", ""},            // kTitle
    {"\u02B0", "\u1D2C", "\U00016B40"},  // kModifier
    {"\u00AA", "\u4E00", "\U00020000"},  // kOtherLetter
    {"\u0301", "\u20D0", "\U0001D165"},  // kMark
    {"\u00B2", "\u2160", "\U0001D7CE"},  // kNumber
    {"\u00A0", "\u2003", ""},            // kSpace
    {"\u00A6", "\u2010", "\U0001F600"},  // kVisible
    {"\u00A6", "\u2010", "\U0001F600"},  // kHidden: no pattern can tell it from kVisible
}};
// For each byte that is no UTF-8: a control character, which is neither letter, number nor space.
constexpr char kBadByte = '\x01';

// The only characters beyond ASCII that equal an ASCII letter when case is ignored: the long s,
// which M3's contractions match, and the Kelvin sign.
bool folds_to_ascii(char32_t code_point) {
  return code_point == 0x17F || code_point == 0x212A;
}

// The text as the pattern sees it: valid UTF-8, as long as `text`.
std::string with_representatives(std::string_view text) {
  std::string subject(text);
  for (std::size_t at = 0; at < text.size();) {
    if (is_ascii(text[at])) {
      ++at;
      continue;
    }
    const Utf8Char c = read_utf8(text, at);
    if (c.state != Utf8Char::State::kValid) {
      std::fill_n(subject.begin() + static_cast<std::ptrdiff_t>(at), c.length, kBadByte);
    } else if (!folds_to_ascii(c.code_point)) {
      const auto row = static_cast<std::size_t>(unicode_class(c.code_point));
      subject.replace(at, c.length, kRepresentatives[row][c.length - 2u]);
    }
    at += c.length;
  }
  return subject;
}

// ---- Matching.

struct FreeMatch {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  void operator()(pcre2_jit_stack* stack) const { pcre2_jit_stack_free(stack); }
};

// What PCRE2 needs to search one text over and over.
class Search {
 public:
  Search(const pcre2_code* code, std::string_view text)
      : code_(code),
        subject_(with_representatives(text)),
        data_(pcre2_match_data_create(1, nullptr)),
        context_(pcre2_match_context_create(nullptr)),
        stack_(pcre2_jit_stack_create(32 << 10, kJitStackBytesMax, nullptr)) {
    const std::size_t steps = kStepsMin + kStepsPerByte * text.size();
    pcre2_set_match_limit(context_.get(),
                          static_cast<std::uint32_t>(std::min<std::size_t>(steps, UINT32_MAX)));
    pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
  }

  // Finds the next match at or after `from`: true, and begin() and end() are its offsets.
  Result<bool> next(std::size_t from) {
    // The check of UTF-8 would read the whole text at each match; with_representatives made it so.
    const int found =
        pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(subject_.data()), subject_.size(), from,
                    PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, data_.get(), context_.get());
    if (found == PCRE2_ERROR_NOMATCH) return false;
    if (found >= 0) return true;
    PCRE2_UCHAR reason[128] = {};
    pcre2_get_error_message(found, reason, sizeof reason);
    return fail("the tokenizer's pattern gave up at byte {} of {}: {}", from, subject_.size(),
                reinterpret_cast<const char*>(reason));
  }
  std::size_t begin() const { return pcre2_get_ovector_pointer(data_.get())[0]; }
  std::size_t end() const { return pcre2_get_ovector_pointer(data_.get())[1]; }

 private:
  const pcre2_code* code_;
  std::string subject_;
  std::unique_ptr<pcre2_match_data, FreeMatch> data_;
  std::unique_ptr<pcre2_match_context, FreeMatch> context_;
  std::unique_ptr<pcre2_jit_stack, FreeMatch> stack_;
};

}  // namespace

void Pretokenizer::FreeCode::operator()(pcre2_real_code_8* code) const {
  pcre2_code_free(code);
}

Result<Pretokenizer> Pretokenizer::compile(const std::string& pattern) {
  if (auto status = check_pattern(pattern); !status)
    return fail("the pattern of the pre-tokenizer {}: {}", status.error().message, pattern);
  int error = 0;
  PCRE2_SIZE where = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                          PCRE2_UTF | PCRE2_UCP, &error, &where, nullptr));
  if (!code) {
    PCRE2_UCHAR reason[128] = {};
    pcre2_get_error_message(error, reason, sizeof reason);
    return fail("the pattern of the pre-tokenizer is wrong at byte {}: {}: {}", where,
                reinterpret_cast<const char*>(reason), pattern);
  }
  // Without a just-in-time compiler on this machine, matching is only slower.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return Pretokenizer(std::move(code));
}

Result<std::vector<std::string_view>> Pretokenizer::split(std::string_view text) const {
  std::vector<std::string_view> pieces;
  Search search(code_.get(), text);
  for (std::size_t at = 0; at < text.size();) {
    M3_TRY(const bool found, search.next(at));
    const std::size_t begin = found ? search.begin() : text.size();
    if (begin > at) pieces.push_back(text.substr(at, begin - at));
    if (!found) break;
    pieces.push_back(text.substr(begin, search.end() - begin));
    at = search.end();
  }
  return pieces;
}

}  // namespace m3
