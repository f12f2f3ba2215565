// What tests and the fuzzer of the network's side share.
#pragma once

#include <arpa/inet.h>
#include <sys/socket.h>

#include <cstdint>

#include "base/check.h"

namespace m3::testing {

// A socket that is connected to `port` of this machine.
inline int connect_to_loopback(int port) {
  const int connected = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  M3_CHECK(::connect(connected, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0,
           "nobody listens at port {}", port);
  return connected;
}

}  // namespace m3::testing
