#include "backend/reference/reference_backend.h"

namespace m3 {

std::unique_ptr<Backend> make_reference_backend(ThreadPool& pool) {
  return std::make_unique<reference::ReferenceBackend>(pool);
}

}  // namespace m3
