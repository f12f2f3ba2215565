// Long work tells how far it is; who shows it, and how, is the caller's business.
#pragma once

#include <cstdint>
#include <functional>

namespace m3 {

// Called now and then with what is done and what there is to do, in the units that the function
// which takes it names. May be empty.
using Progress = std::function<void(std::int64_t done, std::int64_t total)>;

}  // namespace m3
