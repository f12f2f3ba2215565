#include "checkpoint/checksum.h"

// This one first asks the processor for its vectors, then goes by the other's names.
#include <xxh_x86dispatch.h>
#include <xxhash.h>

namespace m3 {

std::uint64_t checksum_of(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

std::uint64_t checksum_of(std::string_view text) {
  return checksum_of(std::as_bytes(std::span(text.data(), text.size())));
}

struct Checksum::State {
  XXH3_state_t* xxh;
};

Checksum::Checksum() : state_(new State{XXH3_createState()}) {
  XXH3_64bits_reset(state_->xxh);
}

Checksum::~Checksum() {
  XXH3_freeState(state_->xxh);
}

void Checksum::add(std::span<const std::byte> bytes) {
  XXH3_64bits_update(state_->xxh, bytes.data(), bytes.size());
}

void Checksum::add(std::string_view text) {
  add(std::as_bytes(std::span(text.data(), text.size())));
}

std::uint64_t Checksum::value() const {
  return XXH3_64bits_digest(state_->xxh);
}

}  // namespace m3
