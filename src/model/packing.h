// Weights in the backend's own layout (Backend::pack): packed in memory, or into a file and mapped.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/pack_file.h"
#include "ops/backend.h"
#include "tensor/matrix.h"
#include "tensor/tensor.h"

namespace m3 {

// The weight of a linear layer, at its place.
struct PackableWeight {
  std::string name;
  Matrix* matrix;
};
using PackableWeights = std::vector<PackableWeight>;

// Bytes of all that the backend wants packed.
std::int64_t packed_bytes(Backend& backend, const PackableWeights& weights);

// Packs those that the backend wants packed, one after the other, and sets their Matrix::packed.
// Returns the memory that holds them; that of the checkpoint's weights may then be taken back.
// `progress` counts bytes. Errors: the system has not that much memory left.
Result<Buffer> pack_in_memory(Backend& backend, const PackableWeights& weights,
                              const Checkpoint& checkpoint, const Progress& progress);

// The same, kept in `memory`; nothing where the backend wants nothing packed.
Status pack_into(std::vector<Buffer>& memory, Backend& backend, const PackableWeights& weights,
                 const Checkpoint& checkpoint, const Progress& progress);

// Where the packed weights of a checkpoint lie: m3-LAYOUT.pack in its directory.
std::string pack_path(const Backend& backend, const Checkpoint& checkpoint);

// Packs them into that file, one after the other: in memory is the largest one. `progress` counts
// bytes. Errors: as FileWriter; no memory.
Status write_pack(Backend& backend, const PackableWeights& weights, const Checkpoint& checkpoint,
                  const Progress& progress);

// Maps the file, checks it, reads what is asked for and sets Matrix::packed. The file may hold more
// weights: of another instruction set that shares the layout, or modules that are not loaded now.
// `progress` counts bytes. Errors: damaged, packed from other files or by another version, a weight
// is missing or differs from what the backend asks for. Then no Matrix::packed is set.
Result<std::shared_ptr<const PackFile>> map_pack(Backend& backend, const PackableWeights& weights,
                                                 const Checkpoint& checkpoint, ThreadPool* pool,
                                                 const Progress& progress);

}  // namespace m3
