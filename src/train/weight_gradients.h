// Where the derivatives of the loss by the weights are summed.
#pragma once

#include <map>
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

// One float32 tensor for each trained weight, of its shape, zeros at first.
class WeightGradients {
 public:
  // `model` outlives it. Errors: MTP modules or the vision tower are asked for and the model has
  // none; the system has no such memory left.
  static Result<WeightGradients> create(Model& model, const TrainedParts& parts);

  const TrainedParts& parts() const { return parts_; }

  struct Entry {
    std::string name;  // the released one
    Tensor gradient;
  };
  // In the order of the weight table.
  const std::vector<Entry>& entries() const { return entries_; }

  // The gradient of a weight of the model, by the place where the model keeps it; empty: it is not
  // trained.
  Tensor of(const Linear& weight) const { return at(&weight); }
  Tensor of(const Matrix& weight) const { return at(&weight); }
  Tensor of(const Tensor& weight) const { return at(&weight); }

  std::int64_t bytes() const;

 private:
  Tensor at(const void* place) const;

  TrainedParts parts_;
  std::vector<Entry> entries_;
  std::map<const void*, Tensor> by_place_;
  std::vector<Buffer> buffers_;
};

}  // namespace m3
