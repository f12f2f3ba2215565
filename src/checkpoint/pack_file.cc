#include "checkpoint/pack_file.h"

#include <atomic>
#include <cstring>
#include <filesystem>
#include <thread>

#include "checkpoint/checksum.h"

namespace m3 {
namespace {

struct Trailer {
  std::int64_t offset = 0;
  std::int64_t bytes = 0;
  std::uint64_t checksum = 0;
  char magic[8] = {};
};
static_assert(sizeof(Trailer) == 32 && kPackMagic.size() == sizeof Trailer::magic);
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);

constexpr auto kTrailerBytes = static_cast<std::int64_t>(sizeof(Trailer));
// The released model's table has 3 MB.
constexpr std::int64_t kTableBytesMax = 256 << 20;

std::span<const std::byte> part(std::span<const std::byte> bytes, std::int64_t begin,
                                std::int64_t count) {
  return bytes.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
}

// The magic, then zeros: the first of them is one, and each is like the one before.
bool is_head(std::span<const std::byte> head) {
  const auto zeros = head.subspan(kPackMagic.size());
  return std::memcmp(head.data(), kPackMagic.data(), kPackMagic.size()) == 0 &&
         zeros.front() == std::byte{0} &&
         std::memcmp(zeros.data(), zeros.data() + 1, zeros.size() - 1) == 0;
}

Result<PackTable> read_table(std::span<const std::byte> file, const std::string& path) {
  const auto size = static_cast<std::int64_t>(file.size());
  if (size < kPackDataBegin + kTrailerBytes)
    return fail("{} is cut short: it has {} bytes", path, size);
  if (!is_head(part(file, 0, kPackDataBegin)))
    return fail("{} is damaged, or no pack: its head is not one", path);
  Trailer trailer;
  std::memcpy(&trailer, file.data() + size - kTrailerBytes, sizeof trailer);
  if (std::memcmp(trailer.magic, kPackMagic.data(), sizeof trailer.magic) != 0)
    return fail("{} is damaged or cut short: its end is not that of a pack", path);
  if (trailer.offset < kPackDataBegin || trailer.offset > size - kTrailerBytes ||
      trailer.bytes != size - kTrailerBytes - trailer.offset || trailer.bytes > kTableBytesMax)
    return fail("{} is damaged: a file of {} bytes cannot have a table of {} at {}", path, size,
                trailer.bytes, trailer.offset);
  const auto table = part(file, trailer.offset, trailer.bytes);
  if (checksum_of(table) != trailer.checksum)
    return fail("{} is damaged: its table has another checksum than it should", path);
  return parse_pack_table(table, trailer.offset, path);
}

// Of the same size and time, another file is another model all the same: copies of directories
// have such. Few pages, since a checkpoint is many files, and each page a read of the disk.
std::uint64_t sample_of(std::span<const std::byte> file) {
  constexpr std::int64_t kHead = 64 << 10, kPages = 16;
  const auto size = static_cast<std::int64_t>(file.size());
  const auto head = part(file, 0, std::min(size, kHead));
  std::vector<std::byte> sample(head.begin(), head.end());
  for (std::int64_t i = 1; i <= kPages; ++i) {
    const std::int64_t begin = (size - std::min(size, kPackPage)) / kPages * i;
    const auto page = part(file, begin, std::min(size - begin, kPackPage));
    sample.insert(sample.end(), page.begin(), page.end());
  }
  return checksum_of(sample);
}

}  // namespace

std::vector<PackSource> pack_sources(const Checkpoint& checkpoint) {
  std::vector<PackSource> sources;
  for (const auto& file : checkpoint.files()) {
    const MappedFile& mapping = file->mapping();
    sources.push_back({std::filesystem::path(mapping.path()).filename().string(),
                       static_cast<std::int64_t>(mapping.bytes().size()), mapping.modified_ns(),
                       sample_of(mapping.bytes())});
  }
  return sources;
}

Result<std::shared_ptr<const PackFile>> PackFile::open(const std::string& path) {
  std::shared_ptr<PackFile> pack(new PackFile());
  M3_TRY(pack->file_, MappedFile::open(path));
  M3_TRY(pack->table_, read_table(pack->file_->bytes(), path));
  for (const PackedTensor& tensor : pack->table_.tensors)
    pack->by_name_.emplace(tensor.name, &tensor);
  return std::shared_ptr<const PackFile>(std::move(pack));
}

const PackedTensor* PackFile::find(std::string_view name) const {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : at->second;
}

const std::byte* PackFile::data(const PackedTensor& tensor) const {
  return file_->bytes().data() + tensor.offset;
}

Status PackFile::check(std::span<const PackedTensor* const> tensors, ThreadPool* pool,
                       const Progress& progress) const {
  std::int64_t total = 0;
  for (const PackedTensor* tensor : tensors) total += pack_pages(tensor->bytes);
  std::atomic<std::int64_t> done = 0, first_bad = std::ssize(tensors);
  const auto caller = std::this_thread::get_id();
  const auto check = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const PackedTensor& tensor = *tensors[static_cast<std::size_t>(i)];
      const auto bytes = part(file_->bytes(), tensor.offset, pack_pages(tensor.bytes));
      file_->will_need(bytes);
      if (checksum_of(bytes) != tensor.checksum) {
        std::int64_t known = first_bad;
        while (i < known && !first_bad.compare_exchange_weak(known, i)) {
        }
      }
      done += std::ssize(bytes);
      // One thread at a time, and without a halt of the others.
      if (progress && std::this_thread::get_id() == caller) progress(done, total);
    }
  };
  if (pool != nullptr)
    pool->parallel_for(std::ssize(tensors), 1, check);
  else
    check(0, std::ssize(tensors));
  if (progress) progress(total, total);
  if (first_bad == std::ssize(tensors)) return {};
  return fail("{} is damaged: {} has another checksum than it should", path(),
              tensors[static_cast<std::size_t>(first_bad)]->name);
}

Result<PackWriter> PackWriter::create(const std::string& path, std::string_view layout,
                                      std::vector<PackSource> sources) {
  M3_TRY(auto file, FileWriter::create(path));
  PackWriter writer(std::move(file));
  writer.table_.layout = layout;
  writer.table_.sources = std::move(sources);
  std::string head(kPackMagic);
  head.resize(kPackDataBegin);
  M3_TRY_STATUS(writer.file_.write(head));
  return writer;
}

Status PackWriter::add(PackedTensor tensor, std::span<const std::byte> pages) {
  M3_CHECK(std::ssize(pages) == pack_pages(tensor.bytes), "{} bytes for {} of {}", pages.size(),
           tensor.name, tensor.bytes);
  tensor.offset = end_;
  tensor.checksum = checksum_of(pages);
  M3_TRY_STATUS(file_.write(pages));
  end_ += std::ssize(pages);
  table_.tensors.push_back(std::move(tensor));
  return {};
}

Status PackWriter::finish() {
  const std::string table = pack_table_bytes(table_);
  Trailer trailer{.offset = end_, .bytes = std::ssize(table)};
  trailer.checksum = checksum_of(std::as_bytes(std::span(table)));
  std::memcpy(trailer.magic, kPackMagic.data(), sizeof trailer.magic);
  M3_TRY_STATUS(file_.write(table));
  M3_TRY_STATUS(file_.write(std::as_bytes(std::span(&trailer, 1))));
  return file_.commit();
}

}  // namespace m3
