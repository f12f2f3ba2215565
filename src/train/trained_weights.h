// What is trained: the weights of some parts of a model, and float32 numbers beside them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "model/model.h"
#include "model/weight_table.h"
#include "tensor/tensor.h"

namespace m3 {

// Which parts of the model are trained.
struct TrainedParts {
  bool text = true;
  bool mtp = false;
  bool vision = false;
  bool indexer = false;  // of text and MTP modules, where they are trained, also the indexer

  // What they are does not change the loss of next tokens, which the trunk alone predicts.
  bool only_mtp() const { return mtp && !text && !vision; }
};

// Whether the weight is one by which sparse attention chooses blocks.
bool is_of_indexer(const WeightSpec& spec);

// Whether training these parts changes it.
bool is_trained(const WeightSpec& weight, const TrainedParts& parts);

// Whether a model of this config has these parts, with so many MTP modules, and with its vision
// tower or without. Errors: it lacks one.
Status expect_parts(const TrainedParts& parts, const Config& config, std::int64_t mtp_modules,
                    bool vision);

// The weights of these parts that have a gradient, in the order of the weight table; their places
// point into the model. Errors: those of expect_parts().
Result<std::vector<WeightSpec>> trained_weights(Model& model, const TrainedParts& parts);

// One tensor for each of some weights, of its shape; float32 unless another type is asked for.
class WeightValues {
 public:
  // Zeros. Errors: the system has no such memory left.
  static Result<WeightValues> create(std::span<const WeightSpec> weights,
                                     DType dtype = DType::kF32);

  std::span<const Tensor> tensors() const { return tensors_; }
  std::int64_t bytes() const;
  void clear();

 private:
  std::vector<Tensor> tensors_;
  std::vector<Buffer> buffers_;
};

// What a model that is trained reads.
enum class TrainingPrecision : std::uint8_t {
  kBF16,  // weights rounded after every step as they are stored, laid out as for inference
  kF32,   // the float32 weights themselves
};

// Float32 copies of the trained weights; the model reads them from here on, or what is made of
// them, in place of those that it loaded, and must not be used after this is gone.
class MasterWeights {
 public:
  // `backend`, the model's, outlives it. Errors: the system has no such memory left.
  static Result<MasterWeights> create(std::span<const WeightSpec> weights,
                                      TrainingPrecision precision, Backend& backend);

  std::span<const Tensor> tensors() const { return values_.tensors(); }
  // What create() takes for one number.
  static std::int64_t bytes_each(TrainingPrecision precision) {
    return precision == TrainingPrecision::kBF16 ? 4 + 2 + 2 : 4;
  }

  // Lets the model read what the tensors hold now.
  void publish(ThreadPool& pool) const;

 private:
  // A weight that the model reads rounded to bfloat16.
  struct Rounded {
    Tensor values;
    Matrix* matrix = nullptr;  // in bfloat16; null: in float32, as norms and the router are read
    Buffer stored, packed = {};
  };
  Result<Rounded> round(const Place& place, const Tensor& values) const;

  Backend* backend_ = nullptr;
  WeightValues values_;
  std::vector<Rounded> rounded_;
};

}  // namespace m3
