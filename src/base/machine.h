// What this machine, and the container that we may run in, let us use.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

namespace m3 {

// Cores that this process may use: those it may run on, or fewer where a control group grants less
// time than that. At least 1.
int available_cores();

// Bytes that may still be allocated without swapping, less a tenth as a reserve: what the system
// has, or what the control group has left, where that is less.
std::int64_t available_memory();

// As the processor calls itself, "AMD EPYC 9554 64-Core Processor"; "unknown processor" where
// nothing says so.
std::string processor_name();

struct CgroupLimits {
  double cores = std::numeric_limits<double>::infinity();
  std::int64_t memory_left = std::numeric_limits<std::int64_t>::max();
};

// Limits of a group (cgroup v2) and of all groups above it. `membership` is what /proc/self/cgroup
// says, `mount` where the hierarchy is mounted. A file that is absent or reads "max" limits
// nothing.
CgroupLimits read_cgroup_limits(const std::string& membership,
                                const std::string& mount = "/sys/fs/cgroup");

}  // namespace m3
