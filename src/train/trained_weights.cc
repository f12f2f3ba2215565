#include "train/trained_weights.h"

#include <algorithm>

namespace m3 {
namespace {

bool trains(const WeightSpec& spec, const TrainedParts& parts) {
  if (!spec.has_gradient) return false;
  switch (spec.part) {
    case Part::kText:
      return parts.text;
    case Part::kMtp:
      return parts.mtp;
    case Part::kVision:
      return parts.vision;
  }
  return false;
}

// Copies a weight to `values`, and lets its place be there.
struct MoveTo {
  const Tensor& values;

  void operator()(std::monostate) const {}
  void operator()(Tensor* place) const {
    std::copy_n(place->as<float>(), place->elements(), values.as<float>());
    *place = values;
  }
  void operator()(RouterPlace place) const { (*this)(place.matrix); }
  void operator()(Linear* place) const { (*this)(&place->weight); }
  void operator()(Matrix* place) const {
    Matrix matrix;
    matrix.codec = &codec_of(Format::kF32);
    matrix.values = Tensor(values.as<float>(), DType::kF32, {place->rows, place->cols});
    matrix.rows = place->rows;
    matrix.cols = place->cols;
    for (std::int64_t row = 0; row < place->rows; ++row)
      place->codec->decode(*place, row, 0, place->cols, values.as<float>() + row * place->cols);
    *place = matrix;
  }
};

}  // namespace

Result<std::vector<WeightSpec>> trained_weights(Model& model, const TrainedParts& parts) {
  if (parts.mtp && model.mtp_modules() == 0) return fail("this model has no MTP modules to train");
  if (parts.vision && !model.weights().vision)
    return fail("this model was loaded without a vision tower to train");
  M3_TRY(auto table, weight_table(model.config(), model.mtp_modules(), &model.weights()));
  std::erase_if(table, [&](const WeightSpec& spec) { return !trains(spec, parts); });
  return table;
}

Result<WeightValues> WeightValues::create(std::span<const WeightSpec> weights) {
  WeightValues values;
  for (const WeightSpec& spec : weights) {
    M3_TRY(Buffer buffer, Buffer::allocate(spec.elements() * dtype_size(DType::kF32)));
    values.tensors_.emplace_back(buffer.data(), DType::kF32,
                                 std::span<const std::int64_t>(spec.shape));
    values.buffers_.push_back(std::move(buffer));
  }
  return values;
}

std::int64_t WeightValues::bytes() const {
  std::int64_t bytes = 0;
  for (const Buffer& buffer : buffers_) bytes += buffer.bytes();
  return bytes;
}

void WeightValues::clear() {
  for (const Tensor& tensor : tensors_) std::fill_n(tensor.as<float>(), tensor.elements(), 0.0f);
}

Result<MasterWeights> MasterWeights::create(std::span<const WeightSpec> weights) {
  MasterWeights masters;
  M3_TRY(masters.values_, WeightValues::create(weights));
  for (std::size_t i = 0; i < weights.size(); ++i)
    std::visit(MoveTo{masters.tensors()[i]}, weights[i].place);
  return masters;
}

}  // namespace m3
