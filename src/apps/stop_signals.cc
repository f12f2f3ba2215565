#include "apps/stop_signals.h"

#include <pthread.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace m3 {
namespace {

constexpr double kLastWordsSeconds = 1;

sigset_t stop_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

}  // namespace

StopSignals::StopSignals(double seconds) : seconds_(seconds) {
  const sigset_t signals = stop_signals();
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  thread_ = std::thread([this] { wait(); });
}

StopSignals::~StopSignals() {
  ended_ = true;
  ::pthread_kill(thread_.native_handle(), SIGTERM);
  thread_.join();
}

void StopSignals::tell(HttpServer* http, EngineHost* host) {
  const std::lock_guard lock(mutex_);
  http_ = http;
  host_ = host;
}

void StopSignals::wait() {
  const sigset_t signals = stop_signals();
  int signal = 0;
  ::sigwait(&signals, &signal);
  if (ended_) return;
  const std::lock_guard lock(mutex_);
  if (http_ == nullptr) std::_Exit(128 + signal);
  std::fprintf(stderr, "m3 serve: stopping; %ld open requests have %.0f s to end\n",
               static_cast<long>(http_->open_requests()), seconds_);
  host_->drain();
  http_->drain();
  const double end = steady_seconds() + seconds_;
  const timespec moment{.tv_sec = 0, .tv_nsec = 20'000'000};
  while (!ended_ && http_->open_requests() > 0 && steady_seconds() < end)
    if (::sigtimedwait(&signals, nullptr, &moment) > 0) break;
  // Whoever is left is told so, and has a moment to hear it.
  host_->stop();
  const double heard = steady_seconds() + kLastWordsSeconds;
  while (!ended_ && http_->open_requests() > 0 && steady_seconds() < heard)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  http_->close();
}

}  // namespace m3
