#include "apps/recorder.h"

#include <algorithm>
#include <cstring>

namespace m3 {
namespace {

// "blocks.3" -> "blocks" and 3; anything else has no layer.
struct ChoiceName {
  std::string_view kind;
  std::int64_t layer = -1;
};

ChoiceName parse_choice_name(std::string_view name) {
  const auto dot = name.find('.');
  if (dot == std::string_view::npos) return {};
  ChoiceName parsed{name.substr(0, dot), 0};
  for (const char c : name.substr(dot + 1)) {
    if (c < '0' || c > '9' || parsed.layer > 1'000'000) return {};
    parsed.layer = parsed.layer * 10 + (c - '0');
  }
  return parsed;
}

}  // namespace

Recorder::Recorder(const Model& model, std::vector<std::int64_t> lengths, bool trace)
    : model_(model), lengths_(std::move(lengths)), trace_(trace), kept_(lengths_.size()) {}

void Recorder::keep_mtp(std::int64_t module, const MtpOutputs& outputs) {
  const bool chained = model_.config().mtp_chain == MtpChain::kPostNorm;
  const std::int64_t without = chained ? 1 + module : 1;
  keep(fmt::format("mtp.{}.hidden", module), outputs.hidden, without);
  keep(fmt::format("mtp.{}.logits", module), outputs.logits, without);
}

void Recorder::keep(const std::string& name, const Tensor& rows, std::int64_t without) {
  model_.backend().synchronize();
  const std::int64_t row_bytes = rows.row_elements() * dtype_size(rows.dtype);
  for (const RecordedRows& part : step_) {
    Kept& kept = kept_[part.job][name];
    if (!kept.tensor) {
      std::vector<std::int64_t> shape(rows.shape.begin(), rows.shape.begin() + rows.rank);
      shape[0] = lengths_[part.job] - without;
      kept.buffer = Buffer(shape[0] * row_bytes);
      kept.tensor = Tensor(kept.buffer.data(), rows.dtype, shape);
    }
    std::memcpy(kept.tensor.rows(part.slot, part.slot + part.rows).data,
                rows.rows(part.first_row, part.first_row + part.rows).data,
                static_cast<std::size_t>(part.rows * row_bytes));
  }
}

std::vector<NamedTensor> Recorder::tensors() const {
  std::vector<NamedTensor> all;
  for (std::size_t job = 0; job < kept_.size(); ++job)
    for (const auto& [name, kept] : kept_[job])
      all.push_back({kept_.size() > 1 ? fmt::format("{}.{}", job, name) : name, kept.tensor});
  return all;
}

Status Recorder::replay(const std::string& path) {
  if (lengths_.size() > 1)
    return fail("--choices goes with one --ids-file, not {}", lengths_.size());
  M3_TRY(choices_, SafetensorsFile::open(path));
  std::size_t found = 0;
  for (const TensorInfo& info : choices_->tensors()) {
    const ChoiceName name = parse_choice_name(info.name);
    if (name.kind != "blocks" && name.kind != "experts") continue;
    if (auto status = check_choices(info.name, choices_->tensor(info)); !status)
      return fail("{}: {}: {}", path, info.name, status.error().message);
    ++found;
  }
  const Config& c = model_.config();
  if (found == 0 && c.moe_layer_count() + c.sparse_layer_count() > 0)
    return fail("{} holds no choices, which would be tensors named experts.0, blocks.0 and so on",
                path);
  return {};
}

// Lists must have the forward's own form, since ops rely on it: ascending, in range, -1 behind.
Status Recorder::check_choices(const std::string& name, const Tensor& values) const {
  const Config& c = model_.config();
  const ChoiceName parsed = parse_choice_name(name);
  if (parsed.layer < 0 || parsed.layer >= c.layers)
    return fail("the model has {} layers", c.layers);
  const bool blocks = parsed.kind == "blocks";
  const auto layer = static_cast<std::size_t>(parsed.layer);
  if (!(blocks ? c.sparse_layers : c.moe_layers)[layer])
    return fail("layer {} chooses no {}", parsed.layer, parsed.kind);
  const int rank = blocks ? 3 : 2;
  const std::int64_t width = blocks ? c.selection.topk : c.experts_per_token;
  const bool fits = values.dtype == DType::kI32 && values.rank == rank &&
                    values.dim(0) == lengths_[0] && (!blocks || values.dim(1) == c.index_heads) &&
                    (blocks ? values.dim(2) <= width : values.dim(1) == width);
  if (!fits)
    return fail("found {}, expected I32 [{}, {}{}]", values.describe(), lengths_[0],
                blocks ? fmt::format("{}, up to ", c.index_heads) : "", width);
  const std::int64_t listed = values.dim(rank - 1);
  for (std::int64_t list = 0; list < values.elements() / std::max<std::int64_t>(1, listed);
       ++list) {
    const std::int64_t token = blocks ? list / c.index_heads : list;
    const std::int64_t limit = blocks ? token / c.block_tokens + 1 : c.experts;
    std::int32_t before = -1;
    for (std::int64_t i = 0; i < listed; ++i) {
      std::int32_t id;
      std::memcpy(&id, static_cast<const std::byte*>(values.data) + (list * listed + i) * 4, 4);
      if (blocks && id == -1) {
        before = static_cast<std::int32_t>(limit);  // nothing may follow
        continue;
      }
      if (id <= before || id >= limit)
        return fail("token {} lists {}: expected ascending ids below {}", token, id, limit);
      before = id;
    }
  }
  return {};
}

bool Recorder::give(const std::string& name, const Tensor& out) const {
  if (!choices_) return false;
  const TensorInfo* info = choices_->find(name);
  if (info == nullptr) return false;
  const Tensor values = choices_->tensor(*info);
  model_.backend().synchronize();
  std::fill_n(out.as<std::int32_t>(), out.elements(), -1);
  const std::int64_t width = out.dim(out.rank - 1), given = values.dim(values.rank - 1);
  const std::int64_t lists = out.elements() / width / out.dim(0);  // a row's
  for (const RecordedRows& part : step_)
    for (std::int64_t i = 0; i < part.rows * lists; ++i)
      std::memcpy(out.row<std::int32_t>(part.first_row) + i * width,
                  static_cast<const std::byte*>(values.data) + (part.slot * lists + i) * given * 4,
                  static_cast<std::size_t>(given) * 4);
  return true;
}

bool Recorder::give_blocks(std::int64_t layer, const Tensor& blocks) {
  return give(fmt::format("blocks.{}", layer), blocks);
}

bool Recorder::give_experts(std::int64_t layer, const Tensor& experts) {
  return give(fmt::format("experts.{}", layer), experts);
}

void Recorder::saw_blocks(std::int64_t layer, const Tensor& blocks) {
  if (trace_) keep(fmt::format("blocks.{}", layer), blocks);
}

void Recorder::saw_experts(std::int64_t layer, const Tensor& experts, const Tensor& weights) {
  if (!trace_) return;
  keep(fmt::format("experts.{}", layer), experts);
  keep(fmt::format("expert_weights.{}", layer), weights);
}

void Recorder::saw_hidden(std::int64_t layer, const Tensor& hidden) {
  if (trace_) keep(fmt::format("hidden.{}", layer), hidden);
}

void Recorder::saw_final(const Tensor& hidden) {
  if (trace_) keep("hidden.final", hidden);
}

}  // namespace m3
