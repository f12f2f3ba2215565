#include "model/packing.h"

#include <algorithm>
#include <cstring>

#include "base/machine.h"

namespace m3 {
namespace {

void release(const Matrix& matrix, const Checkpoint& checkpoint) {
  checkpoint.release(matrix.values);
  if (matrix.scales) checkpoint.release(matrix.scales);
}

// What the table must say of a weight.
PackedTensor described(Backend& backend, const PackableWeight& weight) {
  const Matrix& matrix = *weight.matrix;
  return {.name = weight.name,
          .format = std::string(matrix.codec->name),
          .rows = matrix.rows,
          .cols = matrix.cols,
          .bytes = backend.packed_bytes(matrix)};
}

Status check_sources(const std::vector<PackSource>& then, const std::vector<PackSource>& now,
                     const std::string& path) {
  for (const PackSource& file : now) {
    const auto same_name = [&](const PackSource& other) { return other.name == file.name; };
    const auto old = std::find_if(then.begin(), then.end(), same_name);
    if (old == then.end()) return fail("{} is stale: {} was not there yet", path, file.name);
    if (old->bytes == file.bytes && old->modified_ns == file.modified_ns &&
        old->sample != file.sample)
      return fail("{} is stale: {} is of the size and time that it had, but holds other numbers",
                  path, file.name);
    if (*old != file)
      return fail("{} is stale: {} has changed since ({} bytes then, {} now, modified {:.3f} s {})",
                  path, file.name, old->bytes, file.bytes,
                  std::abs(static_cast<double>(file.modified_ns - old->modified_ns)) / 1e9,
                  file.modified_ns < old->modified_ns ? "earlier" : "later");
  }
  if (then.size() != now.size())
    return fail("{} is stale: it was packed from {} files, and there are {}", path, then.size(),
                now.size());
  return {};
}

Result<const PackedTensor*> find_packed(const PackFile& pack, const PackedTensor& wanted) {
  const PackedTensor* found = pack.find(wanted.name);
  if (found == nullptr) return fail("{} lacks {}", pack.path(), wanted.name);
  if (found->format != wanted.format || found->rows != wanted.rows || found->cols != wanted.cols ||
      found->bytes != wanted.bytes)
    return fail("{}: {} is {} of {} x {} in {} bytes, expected {} of {} x {} in {}", pack.path(),
                wanted.name, found->format, found->rows, found->cols, found->bytes, wanted.format,
                wanted.rows, wanted.cols, wanted.bytes);
  return found;
}

}  // namespace

std::int64_t packed_bytes(Backend& backend, const PackableWeights& weights) {
  std::int64_t total = 0;
  for (const PackableWeight& weight : weights)
    total += pack_pages(backend.packed_bytes(*weight.matrix));
  return total;
}

Result<Buffer> pack_in_memory(Backend& backend, const PackableWeights& weights,
                              const Checkpoint& checkpoint, const Progress& progress) {
  const std::int64_t total = packed_bytes(backend, weights);
  if (total > available_memory())
    return fail(
        "weights in the layout of {} {} take {} bytes, but the system has {} left; a model's own "
        "need "
        "none once m3 pack has put them into a file",
        backend.name(), backend.isa(), total, available_memory());
  M3_TRY(Buffer buffer, Buffer::allocate(total));
  std::int64_t done = 0;
  for (const PackableWeight& weight : weights) {
    const std::int64_t bytes = backend.packed_bytes(*weight.matrix);
    if (bytes == 0) continue;
    std::byte* place = buffer.data() + done;
    backend.pack(*weight.matrix, place);
    weight.matrix->packed = place;
    release(*weight.matrix, checkpoint);
    done += pack_pages(bytes);
    if (progress) progress(done, total);
  }
  return buffer;
}

Status pack_into(std::vector<Buffer>& memory, Backend& backend, const PackableWeights& weights,
                 const Checkpoint& checkpoint, const Progress& progress) {
  if (packed_bytes(backend, weights) == 0) return {};
  M3_TRY(Buffer packed, pack_in_memory(backend, weights, checkpoint, progress));
  memory.push_back(std::move(packed));
  return {};
}

std::string pack_path(const Backend& backend, const Checkpoint& checkpoint) {
  return fmt::format("{}/m3-{}.pack", checkpoint.directory(), backend.packed_layout());
}

Status write_pack(Backend& backend, const PackableWeights& weights, const Checkpoint& checkpoint,
                  const Progress& progress) {
  std::int64_t largest = 0, done = 0;
  for (const PackableWeight& weight : weights)
    largest = std::max(largest, pack_pages(backend.packed_bytes(*weight.matrix)));
  const std::int64_t total = packed_bytes(backend, weights);
  M3_TRY_STATUS(expect_space(checkpoint.directory(), total));
  M3_TRY(const Buffer pages, Buffer::allocate(largest));
  M3_TRY(auto writer, PackWriter::create(pack_path(backend, checkpoint), backend.packed_layout(),
                                         pack_sources(checkpoint)));
  for (const PackableWeight& weight : weights) {
    PackedTensor tensor = described(backend, weight);
    if (tensor.bytes == 0) continue;
    const std::int64_t bytes = tensor.bytes, whole = pack_pages(bytes);
    backend.pack(*weight.matrix, pages.data());
    release(*weight.matrix, checkpoint);
    std::memset(pages.data() + bytes, 0, static_cast<std::size_t>(whole - bytes));
    M3_TRY_STATUS(writer.add(std::move(tensor), {pages.data(), static_cast<std::size_t>(whole)}));
    done += whole;
    if (progress) progress(done, total);
  }
  return writer.finish();
}

Result<std::shared_ptr<const PackFile>> map_pack(Backend& backend, const PackableWeights& weights,
                                                 const Checkpoint& checkpoint, ThreadPool* pool,
                                                 const Progress& progress) {
  M3_TRY(auto pack, PackFile::open(pack_path(backend, checkpoint)));
  if (pack->table().layout != backend.packed_layout())
    return fail("{} holds the layout '{}', expected '{}'", pack->path(), pack->table().layout,
                backend.packed_layout());
  M3_TRY_STATUS(check_sources(pack->table().sources, pack_sources(checkpoint), pack->path()));
  std::vector<const PackedTensor*> tensors;
  std::vector<Matrix*> places;
  for (const PackableWeight& weight : weights) {
    const PackedTensor wanted = described(backend, weight);
    if (wanted.bytes == 0) continue;
    M3_TRY(const PackedTensor* found, find_packed(*pack, wanted));
    tensors.push_back(found);
    places.push_back(weight.matrix);
  }
  M3_TRY_STATUS(pack->check(tensors, pool, progress));
  for (std::size_t i = 0; i < tensors.size(); ++i) places[i]->packed = pack->data(*tensors[i]);
  return pack;
}

}  // namespace m3
