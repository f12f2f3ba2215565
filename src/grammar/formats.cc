#include "grammar/formats.h"

namespace m3 {
namespace {

// Days that a month has in every year, and 29 February in the fourth years, of which a hundredth is
// one only when it is a four-hundredth.
#define M3_DATE                                           \
  "([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|" \
  "(0[469]|11)-(0[1-9]|[12][0-9]|30)|"                    \
  "02-(0[1-9]|1[0-9]|2[0-8]))|"                           \
  "([0-9]{2}(0[48]|[2468][048]|[13579][26])|"             \
  "([02468][048]|[13579][26])00)-02-29)"
#define M3_TIME                                              \
  "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?" \
  "(Z|[-+]([01][0-9]|2[0-3]):[0-5][0-9])"
#define M3_HEX "[0-9a-fA-F]"
#define M3_ATOM "[-A-Za-z0-9!#$%&'*+/=?^_`{|}~]{1,64}"
#define M3_LABEL "[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?"
#define M3_OCTET "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"

struct Format {
  std::string_view name, pattern;
};

constexpr Format kFormats[] = {
    {"date", M3_DATE},
    {"time", M3_TIME},
    {"date-time", M3_DATE "T" M3_TIME},
    {"uuid", M3_HEX "{8}-(" M3_HEX "{4}-){3}" M3_HEX "{12}"},
    {"email", M3_ATOM "(\\." M3_ATOM "){0,4}@(" M3_LABEL "\\.){1,4}[A-Za-z]{2,63}"},
    {"ipv4", "(" M3_OCTET "\\.){3}" M3_OCTET},
};

}  // namespace

std::optional<std::string_view> format_pattern(std::string_view format) {
  for (const Format& known : kFormats)
    if (known.name == format) return known.pattern;
  return std::nullopt;
}

}  // namespace m3
