// Rows of the embedding table, exact in float32. Limited by memory; a few rows a step.
#include <algorithm>

#include "backend/cpu/cpu_ops.h"
#include "ops/arguments.h"

namespace m3::cpu {

void CpuBackend::embed(const Matrix& table, const Tensor& ids, const Tensor& out) {
  expect_matrix("embed: table", table, table.rows, table.cols);
  expect_rank("embed: out", out, 2);
  expect_tensor("embed: out", out, DType::kF32, {out.dim(0), table.cols});
  expect_tensor("embed: ids", ids, DType::kI32, {out.dim(0)});
  expect_ids("embed: ids", ids, table.rows, /*least=*/-1);
  for_each_task(pool_, out.dim(0), [&](std::int64_t t) {
    const std::int32_t id = ids.as<std::int32_t>()[t];
    if (id < 0)
      std::fill_n(out.row<float>(t), table.cols, 0.0f);
    else
      table.codec->decode(table, id, 0, table.cols, out.row<float>(t));
  });
}

}  // namespace m3::cpu
