// How a server is told to end.
#pragma once

#include <atomic>
#include <mutex>
#include <thread>

#include "server/engine_host.h"
#include "server/http.h"

namespace m3 {

// Waits for SIGTERM or Ctrl-C. While the model is loaded, either ends the program; later the first
// lets open answers end, for `seconds` at most, and the second does not. To be made before any
// other thread, which all leave these signals alone then.
class StopSignals {
 public:
  explicit StopSignals(double seconds);
  ~StopSignals();

  // From here on these two are told; null: nobody is there to be told any more.
  void tell(HttpServer* http, EngineHost* host);

 private:
  void wait();

  const double seconds_;
  std::atomic<bool> ended_{false};
  std::mutex mutex_;  // of what follows
  HttpServer* http_ = nullptr;
  EngineHost* host_ = nullptr;
  std::thread thread_;
};

}  // namespace m3
