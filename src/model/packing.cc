#include "model/packing.h"

#include "base/machine.h"

namespace m3 {
namespace {

constexpr std::int64_t kAlignment = 4096;

std::int64_t aligned(std::int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

Result<Buffer> pack_weights(Backend& backend, const std::vector<PackableWeight>& weights,
                            const Progress& progress) {
  std::int64_t total = 0, done = 0;
  for (const PackableWeight& weight : weights)
    total += aligned(backend.packed_bytes(*weight.matrix));
  if (total > available_memory())
    return fail("weights in the layout of {} {} take {} bytes, but the system has {} left",
                backend.name(), backend.isa(), total, available_memory());
  M3_TRY(Buffer buffer, Buffer::allocate(total));
  for (const PackableWeight& weight : weights) {
    const std::int64_t bytes = backend.packed_bytes(*weight.matrix);
    if (bytes == 0) continue;
    std::byte* place = buffer.data() + done;
    backend.pack(*weight.matrix, place);
    weight.matrix->packed = place;
    done += aligned(bytes);
    if (progress) progress(done, total);
  }
  return buffer;
}

}  // namespace m3
