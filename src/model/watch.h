// A window into a forward, for traces, replays and drafters. The model itself has no debug paths.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace m3 {

// Every function is called once a layer (or step) in forward order. Tensors are the forward's own
// buffers, valid until the next op: call Backend::synchronize() before reading values.
class Watch {
 public:
  virtual ~Watch() = default;

  // May fill `blocks` [rows, index_heads, topk] I32 (ascending, then -1) and return true: the layer
  // then attends to these instead of choosing.
  virtual bool give_blocks(std::int64_t /*layer*/, const Tensor& /*blocks*/) { return false; }
  // May fill `experts` [rows, k] I32 (ascending) and return true: their weights are still computed.
  virtual bool give_experts(std::int64_t /*layer*/, const Tensor& /*experts*/) { return false; }

  // What enters the first layer.
  virtual void saw_embedded(const Tensor& /*hidden*/) {}
  virtual void saw_blocks(std::int64_t /*layer*/, const Tensor& /*blocks*/) {}
  virtual void saw_experts(std::int64_t /*layer*/, const Tensor& /*experts*/,
                           const Tensor& /*weights*/) {}
  // The residual stream after a layer. In the last layer only rows whose logits are wanted
  // remain, unless Batch::keep_final.
  virtual void saw_hidden(std::int64_t /*layer*/, const Tensor& /*hidden*/) {}
  // After the final norm: [outputs, hidden].
  virtual void saw_final(const Tensor& /*hidden*/) {}
};

}  // namespace m3
