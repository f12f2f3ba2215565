#include "model/weight_table_builder.h"

#include <cmath>
#include <string_view>

namespace m3 {
namespace {

constexpr std::string_view kReleased = "language_model.";
constexpr std::string_view kNative = "model.language_model.";
constexpr std::string_view kNativeTextOnly = "model.";

// A text-only checkpoint drops the prefix (spec: text-model §1.1, §2.3).
void add_unprefixed(const WeightSpec& spec, std::vector<Source>& sources) {
  if (spec.name.starts_with(kReleased))
    sources.push_back({spec.name.substr(kReleased.size()), spec.shape});
}

void add_native(const Source& source, std::vector<Source>& sources) {
  sources.push_back(source);
  if (!source.name.starts_with(kNative)) return;
  Source text_only = source;
  text_only.name.replace(0, kNative.size(), kNativeTextOnly);
  sources.push_back(std::move(text_only));
}

}  // namespace

TableBuilder TableBuilder::inside(const std::string& released, const std::string& native) const {
  TableBuilder inner = *this;
  inner.released_ += released;
  if (!native_.empty()) inner.native_ += native;
  return inner;
}

TableBuilder TableBuilder::layer(std::int64_t index) const {
  TableBuilder inner = inside(fmt::format("layers.{}.", index));
  inner.layer_ = index;
  return inner;
}

WeightSpec& TableBuilder::weight(const std::string& name, std::vector<std::int64_t> shape,
                                 Init init) const {
  WeightSpec& spec = table_->emplace_back();
  spec.name = released_ + name;
  spec.shape = std::move(shape);
  spec.part = part_;
  if (part_ == Part::kVision) spec.kind = Kind::kVision;
  spec.layer = layer_;
  spec.init = init;
  add_unprefixed(spec, spec.others);
  if (!native_.empty()) add_native({native_ + name, spec.shape}, spec.others);
  return spec;
}

WeightSpec& TableBuilder::vector(const std::string& name, std::int64_t size, Init init,
                                 Tensor* place) const {
  WeightSpec& spec = weight(name, {size}, init);
  if (place != nullptr) spec.place = place;
  return spec;
}

WeightSpec& TableBuilder::linear(const std::string& name, std::int64_t rows, std::int64_t cols,
                                 const LinearStyle& style, Linear* place) const {
  const Init init{0, style.gain / std::sqrt(static_cast<double>(cols))};
  WeightSpec& spec = weight(name + ".weight", {rows, cols}, init);
  spec.split = style.split;
  spec.fusion = style.fusion;
  spec.kind = style.kind;
  spec.quantised = style.quantised;
  if (place != nullptr) spec.place = place;
  return spec;
}

void TableBuilder::native_source(WeightSpec& spec, const std::string& name,
                                 std::vector<std::int64_t> shape, std::int64_t first_row) const {
  if (native_.empty()) return;
  spec.others.clear();
  add_unprefixed(spec, spec.others);
  add_native({native_ + name, std::move(shape), first_row}, spec.others);
}

}  // namespace m3
