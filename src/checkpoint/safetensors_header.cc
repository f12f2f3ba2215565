// The header's grammar is three levels deep and fixed, so it is read event by event: nothing is
// built in memory that the checks have not seen, and a hostile nesting ends at the fourth level.
#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "checkpoint/safetensors.h"

namespace m3 {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kLengthBytes = 8;
constexpr std::uint64_t kHeaderBytesMax = 512 << 20;

// A name as far as a person wants to read it; a hostile one may be megabytes long.
std::string shown(std::string_view name) {
  constexpr std::size_t kShown = 120;
  return name.size() <= kShown ? std::string(name) : fmt::format("{}...", name.substr(0, kShown));
}

// Receives the events of one header. Every handler returns false, with `error` set, at the first
// thing that does not belong.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  std::vector<TensorInfo> tensors;
  Metadata metadata;
  std::string error;

  bool start_object(std::size_t) override {
    if (level_ == Level::kStart) return enter(Level::kTop);
    if (level_ == Level::kTop) return name_ == "__metadata__" ? enter(Level::kMetadata) : begin();
    return refuse("an object");
  }
  bool end_object() override {
    switch (level_) {
      case Level::kTensor:
        return finish() && enter(Level::kTop);
      case Level::kMetadata:
        return enter(Level::kTop);
      default:
        return enter(Level::kEnd);
    }
  }
  bool key(string_t& key) override {
    if (level_ == Level::kTop) {
      name_ = key;
      return names_.insert(key).second || stop("the name '{}' occurs twice", shown(key));
    }
    field_ = key;
    return true;
  }
  bool string(string_t& text) override {
    if (level_ == Level::kMetadata) {
      metadata[field_] = text;
      return true;
    }
    if (level_ != Level::kTensor || field_ != "dtype") return refuse("a string");
    const auto type = dtype_named(text);
    if (!type)
      return stop(
          "tensor '{}' has type '{}'; read are F32, BF16, F16, F8_E4M3, F8_E8M0, U8, I8, I32 and "
          "I64",
          shown(name_), shown(text));
    if (dtype_) return twice();
    dtype_ = type;
    return true;
  }
  bool start_array(std::size_t) override {
    if (level_ != Level::kTensor) return refuse("an array");
    if (field_ != "shape" && field_ != "data_offsets") return refuse("an array");
    auto& list = field_ == "shape" ? shape_ : offsets_;
    if (list) return twice();
    list.emplace();
    list_ = &*list;
    return enter(Level::kList);
  }
  bool end_array() override { return enter(Level::kTensor); }
  bool number_unsigned(number_unsigned_t value) override {
    if (level_ != Level::kList) return refuse("a number");
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      return refuse("a number beyond 2^63 - 1");
    // Longer lists are refused when the tensor ends; this only bounds what a file can make us hold.
    if (list_->size() <= Tensor::kMaxRank) list_->push_back(static_cast<std::int64_t>(value));
    return true;
  }
  bool number_integer(number_integer_t) override { return refuse("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return refuse("a number that is not an integer");
  }
  bool null() override { return refuse("null"); }
  bool boolean(bool) override { return refuse("a boolean"); }
  bool binary(binary_t&) override { return refuse("binary data"); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return stop("it is not valid JSON near byte {}", position);
  }

 private:
  enum class Level { kStart, kTop, kMetadata, kTensor, kList, kEnd };

  bool enter(Level level) {
    level_ = level;
    return true;
  }
  bool begin() {
    dtype_.reset();
    shape_.reset();
    offsets_.reset();
    return enter(Level::kTensor);
  }
  bool finish() {
    if (!dtype_ || !shape_ || !offsets_)
      return stop("tensor '{}' lacks dtype, shape or data_offsets", shown(name_));
    if (static_cast<int>(shape_->size()) > Tensor::kMaxRank)
      return stop("tensor '{}' has more than {} axes", shown(name_), +Tensor::kMaxRank);
    if (offsets_->size() != 2)
      return stop("data_offsets of tensor '{}' are not two numbers", shown(name_));
    tensors.push_back({name_, *dtype_, *shape_, (*offsets_)[0], (*offsets_)[1]});
    return true;
  }
  bool twice() { return stop("tensor '{}' has two fields '{}'", shown(name_), shown(field_)); }
  bool refuse(std::string_view what) {
    return stop("{} stands where none belongs, near tensor '{}', field '{}'", what, shown(name_),
                shown(field_));
  }
  template <typename... Args>
  bool stop(fmt::format_string<Args...> format, Args&&... args) {
    error = fmt::format(format, std::forward<Args>(args)...);
    return false;
  }

  Level level_ = Level::kStart;
  std::set<std::string, std::less<>> names_;
  std::string name_;
  std::string field_;
  std::optional<DType> dtype_;
  std::optional<std::vector<std::int64_t>> shape_;
  std::optional<std::vector<std::int64_t>> offsets_;
  std::vector<std::int64_t>* list_ = nullptr;
};

// Bytes of a tensor, or nothing if they do not fit 63 bits.
std::optional<std::int64_t> bytes_of(const TensorInfo& tensor) {
  std::int64_t bytes = dtype_size(tensor.dtype);
  for (std::int64_t axis : tensor.shape)
    if (__builtin_mul_overflow(bytes, axis, &bytes)) return std::nullopt;
  return bytes;
}

Status check_size(const TensorInfo& tensor, std::string_view where) {
  const auto bytes = bytes_of(tensor);
  if (!bytes)
    return fail("{}: tensor '{}' has shape {}, which is more bytes than there are", where,
                shown(tensor.name), describe_shape(tensor.shape));
  if (tensor.begin > tensor.end || tensor.end - tensor.begin != *bytes)
    return fail("{}: tensor '{}', {} {}, needs {} bytes, but its range is [{}, {})", where,
                shown(tensor.name), dtype_name(tensor.dtype), describe_shape(tensor.shape), *bytes,
                tensor.begin, tensor.end);
  return {};
}

// Puts the tensors in the order of their data, which must cover [0, data_bytes) exactly once.
Status check_ranges(std::vector<TensorInfo>& tensors, std::int64_t data_bytes,
                    std::string_view where) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  std::int64_t covered = 0;
  for (const TensorInfo& tensor : tensors) {
    M3_TRY_STATUS(check_size(tensor, where));
    if (tensor.begin != covered)
      return fail("{}: the data of tensor '{}' begin at {}, but the data before it end at {}: {}",
                  where, shown(tensor.name), tensor.begin, covered,
                  tensor.begin < covered ? "they overlap" : "there is a hole");
    if (tensor.end > data_bytes)
      return fail("{}: tensor '{}' ends at byte {} of the data, but the file holds {}: truncated",
                  where, shown(tensor.name), tensor.end, data_bytes);
    covered = tensor.end;
  }
  if (covered != data_bytes)
    return fail("{}: the tensors end at byte {} of the data, but the file holds {}: {}", where,
                covered, data_bytes, "foreign bytes follow, or the header was changed");
  return {};
}

// The header's length, checked against the file.
Result<std::int64_t> header_length(std::span<const std::byte> head, std::int64_t file_bytes,
                                   std::string_view where) {
  if (file_bytes < kLengthBytes || static_cast<std::int64_t>(head.size()) < kLengthBytes)
    return fail("{}: {} bytes are too few for a safetensors file", where, file_bytes);
  static_assert(std::endian::native == std::endian::little, "lengths are stored little endian");
  constexpr std::string_view kPointer = "version https://git-lfs";
  if (std::string_view(reinterpret_cast<const char*>(head.data()), head.size())
          .starts_with(kPointer))
    return fail("{} is a git-lfs pointer, not the file itself: run git lfs pull in its clone",
                where);
  std::uint64_t length = 0;
  std::memcpy(&length, head.data(), sizeof length);
  if (length > kHeaderBytesMax)
    return fail("{}: its header claims {} bytes, and at most {} are read: not a safetensors file",
                where, length, kHeaderBytesMax);
  const auto end = kLengthBytes + static_cast<std::int64_t>(length);
  if (end > file_bytes || end > static_cast<std::int64_t>(head.size()))
    return fail("{}: its header claims {} bytes, but the file has {}: truncated", where, length,
                file_bytes);
  return end - kLengthBytes;
}

}  // namespace

Result<ParsedHeader> parse_safetensors_header(std::span<const std::byte> head,
                                              std::int64_t file_bytes, std::string_view where) {
  M3_TRY(const std::int64_t length, header_length(head, file_bytes, where));
  const auto* text = reinterpret_cast<const char*>(head.data()) + kLengthBytes;
  HeaderReader reader;
  if (!Json::sax_parse(text, text + length, &reader))
    return fail("{}: its header is broken: {}", where, reader.error);
  ParsedHeader header{std::move(reader.tensors), std::move(reader.metadata), kLengthBytes + length};
  M3_TRY_STATUS(check_ranges(header.tensors, file_bytes - header.data_begin, where));
  return header;
}

}  // namespace m3
