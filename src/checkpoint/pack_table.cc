#include "checkpoint/pack_table.h"

#include <set>

namespace m3 {
namespace {

constexpr std::int64_t kTextMax = 4096;

class TableWriter {
 public:
  void number(std::uint64_t value) {
    for (int i = 0; i < 8; ++i) bytes_ += static_cast<char>(value >> (8 * i));
  }
  void number(std::int64_t value) { number(static_cast<std::uint64_t>(value)); }
  void text(const std::string& value) {
    number(value.size());
    bytes_ += value;
  }
  std::string release() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

// Reads front to back. What lies beyond the end, or makes no sense, reads as zero or empty from
// there on, and ok() turns false.
class TableReader {
 public:
  explicit TableReader(std::span<const std::byte> bytes) : rest_(bytes) {}

  bool ok() const { return ok_; }
  bool at_end() const { return rest_.empty(); }

  std::uint64_t word() {
    const auto bytes = take(8);
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i)
      value |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
    return value;
  }
  std::int64_t number() { return static_cast<std::int64_t>(word()); }
  std::int64_t count() {
    const std::int64_t value = number();
    ok_ = ok_ && value >= 0;
    return ok_ ? value : 0;
  }
  std::string text() {
    const std::int64_t length = count();
    ok_ = ok_ && length <= kTextMax;
    const auto bytes = take(length);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

 private:
  std::span<const std::byte> take(std::int64_t count) {
    ok_ = ok_ && count <= static_cast<std::int64_t>(rest_.size());
    if (!ok_) return {};
    const auto bytes = rest_.first(static_cast<std::size_t>(count));
    rest_ = rest_.subspan(static_cast<std::size_t>(count));
    return bytes;
  }

  std::span<const std::byte> rest_;
  bool ok_ = true;
};

PackedTensor read_tensor(TableReader& in) {
  PackedTensor tensor;
  tensor.name = in.text();
  tensor.format = in.text();
  tensor.rows = in.number();
  tensor.cols = in.number();
  tensor.offset = in.number();
  tensor.bytes = in.number();
  tensor.checksum = in.word();
  return tensor;
}

PackTable read_table(TableReader& in) {
  PackTable table;
  table.layout = in.text();
  for (std::int64_t left = in.count(); left > 0 && in.ok(); --left) {
    PackSource source;
    source.name = in.text();
    source.bytes = in.number();
    source.modified_ns = in.number();
    source.sample = in.word();
    if (in.ok()) table.sources.push_back(std::move(source));
  }
  for (std::int64_t left = in.count(); left > 0 && in.ok(); --left) {
    PackedTensor tensor = read_tensor(in);
    if (in.ok()) table.tensors.push_back(std::move(tensor));
  }
  return table;
}

Status check_tensors(const PackTable& table, std::int64_t data_end, std::string_view where) {
  std::int64_t end = kPackDataBegin;
  std::set<std::string_view> names;
  for (const PackedTensor& tensor : table.tensors) {
    if (tensor.rows <= 0 || tensor.cols <= 0 || tensor.bytes <= 0)
      return fail("{}: {} cannot be of {} x {} in {} bytes", where, tensor.name, tensor.rows,
                  tensor.cols, tensor.bytes);
    if (!names.insert(tensor.name).second)
      return fail("{}: two tensors are named {}", where, tensor.name);
    // In this order nothing can overflow: `end` is at most data_end.
    if (tensor.offset != end || tensor.bytes > data_end - end ||
        pack_pages(tensor.bytes) > data_end - end)
      return fail("{}: {} of {} bytes cannot lie at {}", where, tensor.name, tensor.bytes,
                  tensor.offset);
    end += pack_pages(tensor.bytes);
  }
  if (end != data_end)
    return fail("{}: the data end at {}, but the tensors at {}", where, data_end, end);
  return {};
}

}  // namespace

std::string pack_table_bytes(const PackTable& table) {
  TableWriter out;
  out.number(kPackVersion);
  out.text(table.layout);
  out.number(table.sources.size());
  for (const PackSource& source : table.sources) {
    out.text(source.name);
    out.number(source.bytes);
    out.number(source.modified_ns);
    out.number(source.sample);
  }
  out.number(table.tensors.size());
  for (const PackedTensor& tensor : table.tensors) {
    out.text(tensor.name);
    out.text(tensor.format);
    for (std::int64_t number : {tensor.rows, tensor.cols, tensor.offset, tensor.bytes})
      out.number(number);
    out.number(tensor.checksum);
  }
  return out.release();
}

Result<PackTable> parse_pack_table(std::span<const std::byte> bytes, std::int64_t data_end,
                                   std::string_view where) {
  TableReader in(bytes);
  const std::int64_t version = in.number();
  if (in.ok() && version != kPackVersion)
    return fail("{} is of version {} of its format, but this program reads {}", where, version,
                kPackVersion);
  PackTable table = read_table(in);
  if (!in.ok() || !in.at_end())
    return fail("{}: the table of {} bytes {}", where, bytes.size(),
                in.ok() ? "goes on behind its last entry" : "is cut short or broken");
  if (data_end < kPackDataBegin || data_end > INT64_MAX - kPackPage)
    return fail("{}: the data cannot end at {}", where, data_end);
  M3_TRY_STATUS(check_tensors(table, data_end, where));
  return table;
}

}  // namespace m3
