#include "server/media_rule.h"

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "server/http_text.h"

namespace m3 {
namespace {

bool begins_with(std::string_view address, std::string_view scheme) {
  return address.size() >= scheme.size() &&
         std::equal(scheme.begin(), scheme.end(), address.begin(), [](char a, char b) {
           return a == static_cast<char>(std::tolower(static_cast<unsigned char>(b)));
         });
}

// The file that a path names, which must lie in `directory`.
Result<std::string> resolve(const std::string& path, const std::string& directory) {
  if (path.find('\0') != path.npos) return fail("a file:// address holds a NUL");
  std::error_code error;
  const auto root = std::filesystem::canonical(directory, error);
  if (error) return fail("the server's media directory cannot be read: {}", error.message());
  const auto file = std::filesystem::weakly_canonical(root / path, error);
  const auto inside = std::mismatch(root.begin(), root.end(), file.begin(), file.end());
  if (error || inside.first != root.end())
    return fail("file:// addresses may name files in the server's media directory alone");
  if (!std::filesystem::is_regular_file(file, error))
    return fail("the server's media directory has no such file");
  return file.string();
}

}  // namespace

AddressRule media_rule(std::string directory) {
  return [directory = std::move(directory)](const std::string& address) -> Result<std::string> {
    if (begins_with(address, "data:")) return address;
    if (begins_with(address, "http://") || begins_with(address, "https://"))
      return fail("this server fetches nothing from the network: send the media as a data: URL");
    if (directory.empty())
      return fail(
          "this server reads no files for clients: send the media as a data: URL (the "
          "server's --allowed-local-media-path would permit file://)");
    const bool is_url = begins_with(address, "file://");
    return resolve(is_url ? decode_percent(std::string_view(address).substr(7)) : address,
                   directory);
  };
}

}  // namespace m3
