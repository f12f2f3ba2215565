#include <algorithm>

#include "backend/reference/reference_backend.h"
#include "backend/reference/reference_gradients.h"
#include "ops/arguments.h"

namespace m3::reference {

void ReferenceBackend::embed(const Matrix& table, const Tensor& ids, const Tensor& out) {
  const std::int64_t tokens = ids.dim(0), hidden = table.cols;
  expect_matrix("embed: table", table, table.rows, hidden);
  expect_tensor("embed: ids", ids, DType::kI32, {tokens});
  expect_tensor("embed: out", out, DType::kF32, {tokens, hidden});
  expect_ids("embed: ids", ids, table.rows, /*least=*/-1);
  pool_.parallel_for(tokens, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int32_t id = ids.as<std::int32_t>()[t];
      if (id < 0)
        std::fill_n(out.row<float>(t), hidden, 0.0f);
      else
        table.codec->decode(table, id, 0, hidden, out.row<float>(t));
    }
  });
}

// Threads share out the columns, so that rows of one id are added in their order.
void ReferenceGradients::embed(const Tensor& ids, const Tensor& d_out, const Tensor& d_table) {
  expect_rank("embed gradient: d_table", d_table, 2);
  const std::int64_t tokens = ids.dim(0), hidden = d_table.dim(1);
  expect_tensor("embed gradient: ids", ids, DType::kI32, {tokens});
  expect_tensor("embed gradient: d_out", d_out, DType::kF32, {tokens, hidden});
  expect_ids("embed gradient: ids", ids, d_table.dim(0), /*least=*/-1);
  constexpr std::int64_t kColumns = 64;
  pool_.parallel_for(hidden, kColumns, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      const std::int32_t id = ids.as<std::int32_t>()[t];
      if (id < 0) continue;
      for (std::int64_t i = begin; i < end; ++i)
        d_table.row<float>(id)[i] += d_out.row<float>(t)[i];
    }
  });
}

}  // namespace m3::reference
