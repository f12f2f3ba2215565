// The derivative of attention over pages of whole sequences (spec: training §2.7).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "backend/cpu/attention_visits.h"
#include "backend/cpu/gradient_products.h"

namespace m3::cpu {

// A page's keys and values of one head in bfloat16; tokens that no row has reached are zeros.
struct PageRows {
  std::uint16_t *keys, *values;  // [tokens, dim_stride()]
  std::uint16_t* keys_turned;    // [dim, token_stride()]

  static std::int64_t dim_stride(const KvView& cache) {
    return RowRounder::stride_of(cache.head_dim);
  }
  static std::int64_t token_stride(const KvView& cache) {
    return RowRounder::stride_of(cache.page_tokens);
  }
};

// A sequence from its first token on, whose rows follow each other.
struct WholeSequence {
  std::int64_t first_row = 0, tokens = 0;
  std::int64_t first_page = 0;  // among those of all sequences
  std::span<const RowRun> runs = {};

  std::int64_t pages(std::int64_t page_tokens) const { return divide_up(tokens, page_tokens); }
};

// What the rows of `runs`, which last as long as the result, belong to. A row whose slot is not its
// place in its sequence is an error.
std::vector<WholeSequence> sequences_of(std::span<const RowRun> runs, const Rows& rows,
                                        std::int64_t page_tokens);

// fill(sequence, block, head, page) for each page of each sequence and each head, by many threads.
using PageFill = std::function<void(const WholeSequence& sequence, std::int64_t block,
                                    std::int64_t head, const PageRows& page)>;
// Pages [page of all sequences, kv_heads], in the arena's memory.
std::vector<PageRows> make_pages(const KvView& cache, std::span<const WholeSequence> sequences,
                                 ThreadPool& pool, OpArena& arena, const PageFill& fill);

// A page's first `tokens` tokens; key(t) and value(t) give a row [head_dim], valid until the next.
using RowOf = std::function<const float*(std::int64_t token)>;
void fill_page(const Kernels& kernels, const KvView& cache, std::int64_t tokens, const RowOf& key,
               const RowOf& value, const PageRows& out);

// [rows, heads * dim]; those of keys and values have the K/V heads.
struct AttentionDerivative {
  const Tensor &d_out, &d_q, &d_k, &d_v;
};

// Writes d_q, d_k and d_v. Without log sums in the call, rows of a sequence all see the same.
void differentiate(const AttentionCall& call, std::span<const WholeSequence> sequences,
                   std::span<const PageRows> pages, const AttentionDerivative& d, ThreadPool& pool,
                   TaskScratch& tasks, OpArena& arena);

}  // namespace m3::cpu
