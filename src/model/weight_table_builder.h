// What the parts of the weight table share. Only weight_table*.cc include this.
#pragma once

#include "model/weight_table.h"

namespace m3 {

// How a linear is drawn, cut and grouped. A random linear has std = gain / sqrt(columns).
struct LinearStyle {
  Split split = Split::kReplicated;
  Fusion fusion = Fusion::kNone;
  Kind kind = Kind::kNorm;
  double gain = 1;
  bool quantised = true;
};

// Appends weights under one prefix. A returned entry is valid until the next one is added.
class TableBuilder {
 public:
  // `released` and `native` begin the names in the two spellings; an empty `native` means that
  // transformers does not have these weights.
  TableBuilder(std::vector<WeightSpec>& table, Part part, std::string released, std::string native)
      : table_(&table), part_(part), released_(std::move(released)), native_(std::move(native)) {}

  // The same with longer prefixes.
  TableBuilder inside(const std::string& released, const std::string& native) const;
  TableBuilder inside(const std::string& name) const { return inside(name, name); }
  // The same for weights of this layer.
  TableBuilder layer(std::int64_t index) const;

  // Any weight, under its whole name.
  WeightSpec& weight(const std::string& name, std::vector<std::int64_t> shape, Init init) const;
  // A vector that becomes float32.
  WeightSpec& vector(const std::string& name, std::int64_t size, Init init, Tensor* place) const;
  // A [rows, cols] linear; `name` is without ".weight".
  WeightSpec& linear(const std::string& name, std::int64_t rows, std::int64_t cols,
                     const LinearStyle& style, Linear* place) const;

  // Where transformers keeps the weight, if not under the same name and alone.
  void native_source(WeightSpec& spec, const std::string& name, std::vector<std::int64_t> shape,
                     std::int64_t first_row) const;

 private:
  std::vector<WeightSpec>* table_;
  Part part_;
  std::int64_t layer_ = -1;
  std::string released_;
  std::string native_;
};

// One decoder layer, of the model or of an MTP module; `weights` may be null.
void add_layer(const TableBuilder& table, const Config& config, bool sparse, bool moe,
               LayerWeights* weights);

// Tower, projector and merger (spec: vision §2.1); `weights` may be null.
void add_vision(std::vector<WeightSpec>& table, const Config& config, VisionWeights* weights);

}  // namespace m3
