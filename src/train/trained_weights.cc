#include "train/trained_weights.h"

#include <algorithm>

#include "tensor/float_matrix.h"
#include "tensor/numeric.h"

namespace m3 {

bool is_of_indexer(const WeightSpec& spec) {
  return spec.name.find(".self_attn.index_") != std::string::npos;
}

namespace {

// Lets a weight be read from `values`, and copies it there first if it is asked to.
struct MoveTo {
  const Tensor& values;
  bool copies = true;

  void operator()(std::monostate) const {}
  void operator()(Tensor* place) const {
    if (copies) std::copy_n(place->as<float>(), place->elements(), values.as<float>());
    *place = values;
  }
  void operator()(RouterPlace place) const { (*this)(place.matrix); }
  void operator()(Linear* place) const { (*this)(&place->weight); }
  void operator()(Matrix* place) const {
    if (copies) decode_all(*place, values.as<float>());
    *place = f32_matrix({values.as<float>(), DType::kF32, {place->rows, place->cols}});
  }
};

// A matrix that may be in any format; the router's may not.
Matrix* matrix_of(const Place& place) {
  if (auto* const* linear = std::get_if<Linear*>(&place)) return &(*linear)->weight;
  auto* const* matrix = std::get_if<Matrix*>(&place);
  return matrix != nullptr ? *matrix : nullptr;
}

}  // namespace

bool is_trained(const WeightSpec& spec, const TrainedParts& parts) {
  if (!spec.has_gradient && !(parts.indexer && is_of_indexer(spec))) return false;
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

Status expect_parts(const TrainedParts& parts, const Config& config, std::int64_t mtp_modules,
                    bool vision) {
  if (parts.mtp && mtp_modules == 0) return fail("this model has no MTP modules to train");
  if (parts.vision && !vision)
    return fail("the model has no vision tower to train, or is to be loaded without it");
  if (parts.indexer && config.sparse_layer_count() == 0 && !parts.mtp)
    return fail("this model has no sparse layers whose indexers could be trained");
  return {};
}

Result<std::vector<WeightSpec>> trained_weights(Model& model, const TrainedParts& parts) {
  M3_TRY_STATUS(
      expect_parts(parts, model.config(), model.mtp_modules(), model.weights().vision.has_value()));
  M3_TRY(auto table, weight_table(model.config(), model.mtp_modules(), &model.weights()));
  std::erase_if(table, [&](const WeightSpec& spec) { return !is_trained(spec, parts); });
  return table;
}

Result<WeightValues> WeightValues::create(std::span<const WeightSpec> weights, DType dtype) {
  WeightValues values;
  for (const WeightSpec& spec : weights) {
    M3_TRY(Buffer buffer, Buffer::allocate(spec.elements() * dtype_size(dtype)));
    values.tensors_.emplace_back(buffer.data(), dtype, std::span<const std::int64_t>(spec.shape));
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

Result<MasterWeights> MasterWeights::create(std::span<const WeightSpec> weights,
                                            TrainingPrecision precision, Backend& backend) {
  MasterWeights masters;
  masters.backend_ = &backend;
  M3_TRY(masters.values_, WeightValues::create(weights));
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const WeightSpec& weight = weights[i];
    const Tensor& values = masters.tensors()[i];
    std::visit(MoveTo{values}, weight.place);
    if (precision == TrainingPrecision::kF32 || weight.stored != DType::kBF16) continue;
    M3_TRY(Rounded rounded, masters.round(weight.place, values));
    masters.rounded_.push_back(std::move(rounded));
  }
  return masters;
}

Result<MasterWeights::Rounded> MasterWeights::round(const Place& place,
                                                    const Tensor& values) const {
  Rounded rounded{.values = values, .matrix = matrix_of(place), .stored = {}};
  const DType dtype = rounded.matrix != nullptr ? DType::kBF16 : DType::kF32;
  M3_TRY(rounded.stored, Buffer::allocate(values.elements() * dtype_size(dtype)));
  if (rounded.matrix == nullptr) {
    const std::span shape(values.shape.data(), static_cast<std::size_t>(values.rank));
    std::visit(MoveTo{Tensor(rounded.stored.data(), dtype, shape), /*copies=*/false}, place);
    return rounded;
  }
  Matrix& w = *rounded.matrix;
  w = {
      &codec_of(Format::kBF16), rounded.stored.tensor(dtype, {w.rows, w.cols}), {}, w.rows, w.cols};
  const bool multiplies = std::holds_alternative<Linear*>(place);  // an embedding is looked up
  if (const std::int64_t bytes = multiplies ? backend_->packed_bytes(w) : 0; bytes > 0) {
    M3_TRY(rounded.packed, Buffer::allocate(bytes));
    w.packed = rounded.packed.data();
  }
  return rounded;
}

void MasterWeights::publish(ThreadPool& pool) const {
  constexpr std::int64_t kGrain = 1 << 14;
  for (const Rounded& rounded : rounded_) {
    const float* from = rounded.values.as<float>();
    std::byte* to = rounded.stored.data();
    pool.parallel_for(rounded.values.elements(), kGrain, [&](std::int64_t begin, std::int64_t end) {
      if (rounded.matrix != nullptr)
        std::transform(from + begin, from + end, reinterpret_cast<BF16*>(to) + begin, to_bf16);
      else
        std::transform(from + begin, from + end, reinterpret_cast<float*>(to) + begin,
                       round_to_bf16);
    });
    if (rounded.packed.bytes() > 0) backend_->pack(*rounded.matrix, rounded.packed.data());
  }
}

}  // namespace m3
