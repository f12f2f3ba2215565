// Loops that do nothing but meet one limit of the machine. For isa_*.cc only.
#pragma once

#include <cstdint>

namespace m3::cpu {
namespace {

template <class S, int kStreams>
std::uint64_t read_streams_of(const char* base, std::int64_t bytes) {
  constexpr std::int64_t kVector = S::kLanes * 4, kLine = 4 * kVector;
  const std::int64_t each = bytes / kStreams / kLine * kLine;
  typename S::H seen[4] = {};
  for (std::int64_t at = 0; at < each; at += kLine)
#pragma GCC unroll 8
    for (int s = 0; s < kStreams; ++s)
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)
        seen[i] = S::bit_xor(seen[i], S::load_h(base + s * each + at + i * kVector));
  const auto all = S::bit_xor(S::bit_xor(seen[0], seen[1]), S::bit_xor(seen[2], seen[3]));
  std::uint64_t words[kVector / 8];
  S::store_h(words, all);
  std::uint64_t result = 0;
  for (std::uint64_t w : words) result ^= w;
  return result;
}

template <class S>
std::uint64_t read_streams(const void* base, std::int64_t bytes, int streams) {
  const auto* from = static_cast<const char*>(base);
  if (streams == 1) return read_streams_of<S, 1>(from, bytes);
  if (streams == 2) return read_streams_of<S, 2>(from, bytes);
  if (streams == 4) return read_streams_of<S, 4>(from, bytes);
  return read_streams_of<S, 8>(from, bytes);
}

// Enough independent sums to hide the latency of a multiplication, few enough for registers.
constexpr int kProbeSums = 12;

// multiply(sum, operand) once for each sum in each round.
template <class S, typename Operand, typename Multiply>
float multiply_rounds(std::int64_t rounds, Operand operand, const Multiply& multiply) {
  typename S::F sums[kProbeSums];
  for (auto& s : sums) s = S::zero();
  for (std::int64_t r = 0; r < rounds; ++r) {
    // Keeps the compiler from seeing that every round multiplies the same numbers.
    asm volatile("" : "+x"(operand));
#pragma GCC unroll 12
    for (int i = 0; i < kProbeSums; ++i) sums[i] = multiply(sums[i], operand);
  }
  float total = 0;
  for (auto& s : sums) total += S::sum(s);
  return total;
}

template <class S>
float multiply_f32(std::int64_t rounds) {
  using F = typename S::F;
  return multiply_rounds<S>(rounds, S::set1(1e-9f), [](F sum, F x) { return S::fma(x, x, sum); });
}

// Products of 8-bit integers, four to each sum of 32 bits: the peak of D::dot_quads where the bytes
// of x and w need no unpacking, as when many rows share them.
template <class D>
std::int32_t multiply_int8(std::int64_t rounds) {
  using S = typename D::Simd;
  typename S::H sums[kProbeSums], x = S::set1_32(0x01010101), w = S::set1_32(0x02020202);
  for (auto& s : sums) s = S::set1_32(0);
  for (std::int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < kProbeSums; ++i) {
      // For every product: the compiler must not see that all of them are the same.
      asm volatile("" : "+x"(x));
      sums[i] = D::probe_quads(sums[i], x, w);
    }
  }
  for (int i = 1; i < kProbeSums; ++i) sums[0] = S::add_32(sums[0], sums[i]);
  std::int32_t lanes[S::kLanes];
  S::store_h(lanes, sums[0]);
  return lanes[0];
}

template <class S>
constexpr double kInt8OpsPerRound = kProbeSums* S::kLanes * 4 * 2;

template <class S>
constexpr double kF32FlopsPerRound = kProbeSums* S::kLanes * 2;

}  // namespace
}  // namespace m3::cpu
