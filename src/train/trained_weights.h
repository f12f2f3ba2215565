// What is trained: the weights of some parts of a model, and float32 numbers beside them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/model.h"
#include "model/weight_table.h"
#include "tensor/tensor.h"

namespace m3 {

// Which parts of the model are trained.
struct TrainedParts {
  bool text = true;
  bool mtp = false;
  bool vision = false;
};

// The weights of these parts that have a gradient, in the order of the weight table; their places
// point into the model. Errors: MTP modules or the vision tower are asked for and the model has
// none.
Result<std::vector<WeightSpec>> trained_weights(Model& model, const TrainedParts& parts);

// One float32 tensor for each of some weights, of its shape.
class WeightValues {
 public:
  // Zeros. Errors: the system has no such memory left.
  static Result<WeightValues> create(std::span<const WeightSpec> weights);

  std::span<const Tensor> tensors() const { return tensors_; }
  std::int64_t bytes() const;
  void clear();

 private:
  std::vector<Tensor> tensors_;
  std::vector<Buffer> buffers_;
};

// Float32 copies of the trained weights; the model reads them from here on in place of those that
// it loaded, and must not be used after this is gone.
class MasterWeights {
 public:
  // Errors: the system has no such memory left.
  static Result<MasterWeights> create(std::span<const WeightSpec> weights);

  std::span<const Tensor> tensors() const { return values_.tensors(); }
  std::int64_t bytes() const { return values_.bytes(); }

 private:
  WeightValues values_;
};

}  // namespace m3
