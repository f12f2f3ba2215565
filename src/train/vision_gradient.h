// The derivative of the vision tower: the mirror of VisionTower::encode().
#pragma once

#include <span>
#include <vector>

#include "model/model.h"
#include "model/vision.h"
#include "ops/gradients.h"
#include "train/training_sequence.h"
#include "train/weight_gradients.h"

namespace m3 {

class VisionGradient {
 public:
  // Both outlive it. The model has a vision tower, and its backend derivatives.
  VisionGradient(const Model& model, const WeightGradients& weights);

  // Adds the derivatives by the tower's weights of what these sequences show, each picture once.
  // `splices`: where in the rows of all sequences its embeddings stand; d_rows [rows, text hidden]:
  // the derivatives by what the rows begin with.
  void add(std::span<const TrainingSequence> sequences, std::span<const Splice> splices,
           const Tensor& d_rows);
  // What add() takes of a picture or clip, at most at a time.
  static std::int64_t bytes_for(const Config& config, const MediaGrid& grid);

 private:
  // What a layer has read and computed; [rows, hidden] each.
  struct KeptLayer {
    Tensor input, q, k, v, attended, middle;
  };
  // Of one slice.
  struct Scratch;
  // Of what follows its last layer.
  struct Projection;

  // Given the derivatives by the embeddings of one picture or clip, d_features [tokens, text
  // hidden]. Encodes it once more, and keeps what it passes through: what lies between belongs to
  // one slice at a time.
  void add(const Tensor& pixels, const MediaGrid& grid, const Tensor& d_features);
  void add_slice(const VisionTower::Slice& slice, const Tensor& pixels, const Tensor& d_features);
  void project(const VisionTower::Buffers& b, const Tensor& d_features, const Tensor& d_hidden);
  void mlp(const EncoderLayerWeights& w, const KeptLayer& kept, const Scratch& s,
           const Tensor& d_hidden);
  void attention(const EncoderLayerWeights& w, const KeptLayer& kept, const VisionTower::Buffers& b,
                 const Scratch& s, const Tensor& d_hidden);
  // Of y = W x + b: the derivatives by weight, bias and, where d_x is given, x.
  void linear(const Tensor& x, const BiasedLinear& w, const Tensor& d_out, const Tensor& d_x);
  void bias(const BiasedLinear& w, const Tensor& d_out);
  // out = W x, without the bias.
  void forward(const Tensor& x, const BiasedLinear& w, const Tensor& out);
  LayerNorm norm_of(const LayerNormWeights& w) const;
  void norm(const Tensor& x, const LayerNormWeights& w, const Tensor& d_out, const Tensor& d_x);

  const Config& model_config_;
  const VisionConfig& config_;
  const VisionWeights& vision_;
  const WeightGradients& weights_;
  Backend& backend_;
  GradientOps& ops_;
  VisionTower tower_;
};

}  // namespace m3
