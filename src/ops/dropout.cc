#include "ops/dropout.h"

#include <algorithm>
#include <vector>

#include "tensor/float_matrix.h"

namespace m3 {
namespace {

const Dropout* dropout_of(const Linear& linear) {
  return linear.addend == nullptr ? nullptr : linear.addend->dropout;
}

// The same layer, without an addend that drops.
Linear without_dropout(const Linear& linear) {
  return {linear.weight, dropout_of(linear) == nullptr ? linear.addend : nullptr};
}

// An addend as two layers, u = scale * A drop(x) and B u, with memory for what passes between them.
class AddendLayers {
 public:
  AddendLayers(Backend& backend, const Tensor& x, const LowRank& addend)
      : backend_(backend),
        addend_(addend),
        a_{f32_matrix(addend.a)},
        b_{f32_matrix(addend.b)},
        dropped_(make(x.dim(0), x.dim(1))),
        u_(make(x.dim(0), addend.a.dim(0))) {
    backend.gradients()->dropout(x, *addend.dropout, addend.scale, dropped_);
    const LinearOutput output[] = {{&a_, u_}};
    backend.linear(dropped_, output);
  }

  void add_to(const Tensor& out) {
    const Tensor v = make(out.dim(0), out.dim(1));
    const LinearOutput output[] = {{&b_, v}};
    backend_.linear(u_, output);
    backend_.add(v, out);
  }

  void add_gradient(const LinearGradient& layer, const Tensor& d_x) {
    GradientOps& ops = *backend_.gradients();
    const Tensor d_u = make(u_.dim(0), u_.dim(1)),
                 d_dropped = make(dropped_.dim(0), dropped_.dim(1));
    const LinearGradient of_b[] = {{&b_, layer.d_out, layer.d_b, {}, {}}};
    ops.linear(u_, of_b, d_u);
    const LinearGradient of_a[] = {{&a_, d_u, layer.d_a, {}, {}}};
    ops.linear(dropped_, of_a, d_dropped);
    if (!d_x) return;
    ops.dropout(d_dropped, *addend_.dropout, addend_.scale, d_dropped);
    backend_.add(d_dropped, d_x);
  }

 private:
  Tensor make(std::int64_t rows, std::int64_t cols) {
    buffers_.emplace_back(rows * cols * dtype_size(DType::kF32));
    return buffers_.back().tensor(DType::kF32, {rows, cols});
  }

  std::vector<Buffer> buffers_;
  Backend& backend_;
  const LowRank& addend_;
  Linear a_, b_;
  Tensor dropped_, u_;
};

}  // namespace

bool drops(std::span<const LinearOutput> outputs) {
  return std::any_of(outputs.begin(), outputs.end(), [](const LinearOutput& output) {
    return dropout_of(*output.linear) != nullptr;
  });
}

void dropped_linear(Backend& backend, const Tensor& x, std::span<const LinearOutput> outputs) {
  if (!drops(outputs)) return backend.linear(x, outputs);
  std::vector<Linear> layers;
  for (const LinearOutput& output : outputs) layers.push_back(without_dropout(*output.linear));
  std::vector<LinearOutput> sums;
  for (std::size_t i = 0; i < layers.size(); ++i) sums.push_back({&layers[i], outputs[i].out});
  backend.linear(x, sums);
  for (const LinearOutput& output : outputs)
    if (dropout_of(*output.linear) != nullptr)
      AddendLayers(backend, x, *output.linear->addend).add_to(output.out);
  for (std::size_t i = 0; i < outputs.size(); ++i)
    if (outputs[i].swiglu != nullptr)
      backend.swiglu(outputs[i].out, outputs[i + 1].out, *outputs[i].swiglu,
                     outputs[i].activated());
}

void dropped_linear_gradient(Backend& backend, const Tensor& x,
                             std::span<const LinearGradient> layers, const Tensor& d_x) {
  const bool any = std::any_of(layers.begin(), layers.end(), [](const LinearGradient& layer) {
    return dropout_of(*layer.linear) != nullptr;
  });
  if (!any) return backend.gradients()->linear(x, layers, d_x);
  std::vector<Linear> bare;
  for (const LinearGradient& layer : layers) bare.push_back(without_dropout(*layer.linear));
  std::vector<LinearGradient> of_weights;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    LinearGradient layer = layers[i];
    layer.linear = &bare[i];
    if (bare[i].addend == nullptr) layer.d_a = layer.d_b = {};
    of_weights.push_back(layer);
  }
  backend.gradients()->linear(x, of_weights, d_x);
  for (const LinearGradient& layer : layers)
    if (dropout_of(*layer.linear) != nullptr)
      AddendLayers(backend, x, *layer.linear->addend).add_gradient(layer, d_x);
}

}  // namespace m3
