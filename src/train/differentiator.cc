#include "train/differentiator.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "model/batch.h"
#include "tensor/layout.h"
#include "train/batch_mask.h"

namespace m3 {
namespace {

// Rows whose logits exist at the same time: for fewer the head is read, and its derivative added
// to, too often; more of a large vocabulary would take more memory than they save time.
std::int64_t head_rows(std::int64_t tokens, std::int64_t vocab) {
  constexpr std::int64_t kLeast = 64, kMost = 512, kLogits = 1 << 24;
  return std::min(tokens, std::clamp(kLogits / vocab, kLeast, kMost));
}

std::int64_t pages_of(std::int64_t tokens, std::int64_t page_tokens) {
  return (tokens + page_tokens - 1) / page_tokens;
}

// Each sequence with pages of its own.
Batch make_batch(std::span<const TrainingSequence> sequences, std::int64_t page_tokens) {
  Batch batch;
  std::int32_t next = 0;
  for (const TrainingSequence& sequence : sequences) {
    std::vector<std::int32_t> pages(
        static_cast<std::size_t>(pages_of(std::ssize(sequence.ids), page_tokens)));
    std::iota(pages.begin(), pages.end(), next);
    next += static_cast<std::int32_t>(pages.size());
    const std::int64_t first_row = batch.rows();
    batch.add_sequence(sequence.ids, /*slot=*/0, pages, /*all_outputs=*/false);
    sequence.splices.add_to(batch, /*slot=*/0, std::ssize(sequence.ids), first_row);
  }
  return batch;
}

// The positions of all rows, where any sequence has its own.
void add_positions(std::span<const TrainingSequence> sequences, Batch& batch) {
  if (std::ranges::all_of(sequences, [](const auto& s) { return s.positions.empty(); })) return;
  batch.positions = batch.slots;
  auto at = batch.positions.begin();
  for (const TrainingSequence& s : sequences) {
    M3_CHECK(s.positions.empty() || s.positions.size() == s.ids.size(), "{} positions of {} ids",
             s.positions.size(), s.ids.size());
    std::ranges::copy(s.positions, at);
    at += std::ssize(s.ids);
  }
}

// values[t + by] in place of values[t], and `fill` where the sequence has ended.
void place_shifted(const std::vector<std::int32_t>& values, std::int64_t by, std::int32_t fill,
                   std::int32_t* to) {
  const std::int64_t count = std::ssize(values), left = std::max<std::int64_t>(0, count - by);
  std::copy_n(values.end() - left, left, to);
  std::fill_n(to + left, count - left, fill);
}

}  // namespace

Result<Differentiator> Differentiator::create(const Model& model, const WeightGradients& gradients,
                                              std::int64_t tokens, float mtp_scale, Keep keep,
                                              const SideLosses& side) {
  if (model.backend().gradients() == nullptr)
    return fail("the {} backend computes no derivatives", model.backend().name());
  return Differentiator(model, gradients, tokens, mtp_scale, keep, side);
}

Differentiator::Differentiator(const Model& model, const WeightGradients& gradients,
                               std::int64_t tokens, float mtp_scale, Keep keep,
                               const SideLosses& side)
    : model_(&model),
      weights_(&gradients),
      backend_(&model.backend()),
      ops_(model.backend().gradients()),
      mtp_scale_(mtp_scale),
      keep_(keep),
      kept_(model.config(), gradients.parts().mtp ? model.mtp_modules() : 0, tokens,
            head_rows(tokens, model.config().vocab), keep),
      layers_(model, gradients, tokens),
      side_(side),
      side_sums_(model),
      depths_(1 + static_cast<std::size_t>(gradients.parts().mtp ? model.mtp_modules() : 0)) {
  buffer_ = lay_out(placements(model.config().hidden, tokens, depths_,
                               {&d_stream_, &d_embedded_, &d_continued_}, d_joined_));
  if (gradients.parts().vision) vision_.emplace(model, gradients);
  if (side.indexer) indexer_.emplace(model, gradients, tokens);
}

std::vector<Placement> Differentiator::placements(std::int64_t hidden, std::int64_t tokens,
                                                  std::span<Depth> depths,
                                                  std::initializer_list<Tensor*> streams,
                                                  Tensor& joined) {
  std::vector<Placement> placements;
  const auto add = [&](std::initializer_list<Tensor*> tensors, DType dtype,
                       const std::vector<std::int64_t>& shape) {
    for (Tensor* tensor : tensors) placements.push_back({tensor, dtype, shape});
  };
  for (Depth& depth : depths) {
    add({&depth.ids, &depth.labels}, DType::kI32, {tokens});
    add({&depth.losses}, DType::kF32, {tokens});
    add({&depth.embedded, &depth.last, &depth.hidden, &depth.d_hidden}, DType::kF32,
        {tokens, hidden});
  }
  add(streams, DType::kF32, {tokens, hidden});
  add({&joined}, DType::kF32, {tokens, 2 * hidden});
  return placements;
}

std::int64_t Differentiator::bytes_for(const Config& config, std::int64_t mtp_modules,
                                       std::int64_t tokens, Keep keep, bool indexer) {
  std::vector<Depth> depths(1 + static_cast<std::size_t>(mtp_modules));
  Tensor streams[3], joined;
  return KeptActivations::bytes_for(config, mtp_modules, tokens, head_rows(tokens, config.vocab),
                                    keep) +
         LayerGradient::bytes_for(config, tokens) +
         (indexer ? IndexerGradient::bytes_for(config, tokens) : 0) +
         bytes_of(placements(config.hidden, tokens, depths, {&streams[0], &streams[1], &streams[2]},
                             joined));
}

void Differentiator::begin_step(std::int64_t rows) {
  step_rows_ = rows;
  side_sums_ = SideSums(*model_);
}

Result<LossSums> Differentiator::add(std::span<const TrainingSequence> sequences,
                                     std::int64_t scored) {
  return run(sequences, scored);
}

Result<LossSums> Differentiator::losses(std::span<const TrainingSequence> sequences) {
  return run(sequences, {});
}

Result<LossSums> Differentiator::run(std::span<const TrainingSequence> sequences,
                                     std::optional<std::int64_t> scored) {
  const std::int64_t page_tokens = model_->config().block_tokens;
  Batch batch = make_batch(sequences, page_tokens);
  add_positions(sequences, batch);
  const BatchMask mask(sequences);
  batch.mask = mask.rows();
  if (batch.mask.bias && scored && indexer_)
    return fail(
        "indexers learn only where masks come to padding and documents, and this batch has "
        "one that says which tokens see which");
  const std::int64_t rows = batch.rows();
  M3_CHECK(rows <= kept_.tokens(), "{} rows in a differentiator for {}", rows, kept_.tokens());
  std::int64_t pages = 0;
  for (const TrainingSequence& s : sequences) pages += pages_of(std::ssize(s.ids), page_tokens);
  M3_TRY(const PagedCache cache,
         PagedCache::create(model_->config(), model_->cache_format(), pages, modules()));
  place_rows(sequences);
  // No gradient goes to the embedding of a placeholder; MTP modules do look it up (spec: training
  // §2.7, §3.1).
  for (const auto& [first, features] : batch.splices)
    std::fill_n(depths_[0].ids.as<std::int32_t>() + first, features.dim(0), -1);
  Watch nobody;
  Watch& watch = scored ? side_sums_.loads : nobody;
  const Model::Step step = model_->begin(batch, cache, kept_.shared().first(rows, 0), watch);
  forward(batch, step);

  if (scored) {
    const auto share =
        static_cast<float>(1 / static_cast<double>(std::max<std::int64_t>(1, *scored)));
    head(depths_[0], rows, reaches_trunk() ? std::optional(share) : std::nullopt);
    for (std::size_t d = 1; d < depths_.size(); ++d)
      head(depths_[d], rows, share * mtp_scale_ / static_cast<float>(modules()));
    backward(step);
    if (vision_) vision_->add(sequences, batch.splices, d_stream_);
  } else {
    for (const Depth& depth : depths_) head(depth, rows, {});
  }
  backend_->synchronize();
  return sum_losses(sequences);
}

LossSums Differentiator::sum_losses(std::span<const TrainingSequence> sequences) const {
  LossSums sums{.mtp = std::vector<double>(depths_.size() - 1)};
  for (std::size_t d = 0; d < depths_.size(); ++d) {
    const float* losses = depths_[d].losses.as<float>();
    double& sum = d == 0 ? sums.main : sums.mtp[d - 1];
    for (std::int64_t s = 0; s < std::ssize(sequences); ++s)
      for (std::size_t row = 0; row < sequences[static_cast<std::size_t>(s)].ids.size(); ++row) {
        if (!std::isfinite(*losses)) sums.not_finite = std::min(s, sums.not_finite.value_or(s));
        sum += *losses++;
      }
  }
  sums.sequences = std::ssize(sequences);
  return sums;
}

// Depth d reads id t + d and predicts the label of row t + d (spec: training §3.1, §3.2).
void Differentiator::place_rows(std::span<const TrainingSequence> sequences) {
  for (std::size_t d = 0; d < depths_.size(); ++d) {
    std::int32_t* ids = depths_[d].ids.as<std::int32_t>();
    std::int32_t* labels = depths_[d].labels.as<std::int32_t>();
    for (const TrainingSequence& sequence : sequences) {
      M3_CHECK(sequence.ids.size() == sequence.labels.size(), "{} ids and {} labels",
               sequence.ids.size(), sequence.labels.size());
      place_shifted(sequence.ids, static_cast<std::int64_t>(d), 0, ids);
      place_shifted(sequence.labels, static_cast<std::int64_t>(d), kNotScored, labels);
      ids += sequence.ids.size();
      labels += sequence.ids.size();
    }
  }
}

// ------------------------------------------------------------------------------- forward

void Differentiator::forward(const Batch& batch, const Model::Step& step) {
  const Activations& a = step.a;
  const std::int64_t rows = a.hidden.dim(0);
  model_->embed(batch, a);
  for (std::int64_t layer = 0; layer < model_->config().layers; ++layer) forward_layer(layer, step);
  const Depth& trunk = depths_[0];
  backend_->copy(a.hidden, trunk.last.rows(0, rows));
  backend_->rms_norm(a.hidden, model_->weights().final_norm, model_->eps(),
                     trunk.hidden.rows(0, rows));
  for (std::int64_t module = 0; module < modules(); ++module) forward_module(module, batch, step);
}

void Differentiator::forward_layer(std::int64_t layer, const Model::Step& step) {
  const KeptLayer kept = kept_.layer(layer, step.a.hidden.dim(0));
  const Model::Step own{kept.a, step.rows, step.cache, step.watch};
  backend_->copy(own.a.hidden, kept.input);
  model_->attention_half(layer, own);
  backend_->copy(own.a.hidden, kept.middle);
  model_->feed_forward_half(layer, own.a, step.watch);
}

// A module continues the depth before it, row by row, after that one's last norm.
void Differentiator::forward_module(std::int64_t module, const Batch& batch,
                                    const Model::Step& step) {
  const std::int64_t layer = model_->config().layers + module, rows = step.a.hidden.dim(0);
  const MtpWeights& w = model_->weights().mtp[static_cast<std::size_t>(module)];
  const Depth& before = depths_[static_cast<std::size_t>(module)];
  const Depth& depth = depths_[static_cast<std::size_t>(module) + 1];
  const Activations a = kept_.layer(layer, rows).a;
  Batch shifted = batch;
  shifted.splices.clear();
  std::copy_n(depth.ids.as<std::int32_t>(), rows, a.ids.as<std::int32_t>());
  model_->embed(shifted, a);
  backend_->copy(a.hidden, depth.embedded.rows(0, rows));
  MtpInput input{.module = module, .hidden = before.hidden.rows(0, rows), .sources = {}};
  input.sources.resize(static_cast<std::size_t>(rows));
  std::iota(input.sources.begin(), input.sources.end(), 0);
  model_->join(w, input, a);
  forward_layer(layer, step);
  backend_->copy(a.hidden, depth.last.rows(0, rows));
  backend_->rms_norm(a.hidden, w.final_norm, model_->eps(), depth.hidden.rows(0, rows));
}

// ------------------------------------------------------------------------------- backward

void Differentiator::head(const Depth& depth, std::int64_t rows, std::optional<float> scale) {
  const Linear& w = model_->weights().head;
  const std::int32_t* labels = depth.labels.as<std::int32_t>();
  const std::int64_t together = kept_.shared().logits.dim(0);
  if (!scale) ops_->zero(depth.d_hidden.rows(0, rows));
  for (std::int64_t first = 0; first < rows; first += together) {
    const std::int64_t last = std::min(rows, first + together);
    const Tensor x = depth.hidden.rows(first, last), d_x = depth.d_hidden.rows(first, last);
    const Tensor losses = depth.losses.rows(first, last);
    if (std::all_of(labels + first, labels + last, [](auto id) { return id == kNotScored; })) {
      ops_->zero(losses);
      ops_->zero(d_x);
      continue;
    }
    const Tensor logits = kept_.shared().logits.rows(0, last - first);
    const LinearOutput output[] = {{&w, logits}};
    backend_->linear(x, output);
    ops_->cross_entropy(logits, depth.labels.rows(first, last), scale.value_or(0), losses);
    if (!scale) continue;
    const LinearGradient gradient[] = {weights_->of(w, logits)};
    ops_->linear(x, gradient, d_x);
  }
}

void Differentiator::backward(const Model::Step& step) {
  for (std::int64_t module = modules() - 1; module >= 0; --module) backward_module(module, step);
  if (reaches_trunk()) backward_trunk(step);
}

void Differentiator::backward_trunk(const Model::Step& step) {
  const std::int64_t rows = step.a.hidden.dim(0);
  const Weights& weights = model_->weights();
  const Depth& trunk = depths_[0];
  const Tensor d_stream = d_stream_.rows(0, rows);
  ops_->zero(d_stream);
  ops_->rms_norm(trunk.last.rows(0, rows), weights.final_norm, model_->eps(),
                 trunk.d_hidden.rows(0, rows), d_stream, weights_->of(weights.final_norm));
  for (std::int64_t layer = model_->config().layers - 1; layer >= weights_->lowest_layer(); --layer)
    backward_layer(layer, step, d_stream);
  if (const Tensor d_table = weights_->of(weights.embedding))
    ops_->embed(trunk.ids.rows(0, rows), d_stream, d_table);
}

void Differentiator::backward_layer(std::int64_t layer, const Model::Step& step,
                                    const Tensor& d_stream) {
  const KeptLayer kept = kept_.layer(layer, d_stream.dim(0));
  if (keep_ == Keep::kInputs) repeat_layer(layer, kept, step);
  const std::int64_t rows = d_stream.dim(0);
  const float share = 1 / static_cast<float>(step_rows_ > 0 ? step_rows_ : rows);
  const auto balance = static_cast<float>(side_.balance * static_cast<double>(rows)) * share;
  layers_.run(layer, kept, step.rows, step.cache.kv(layer), {balance, side_sums_}, d_stream);
  if (indexer_)
    indexer_->add(layer, kept, step, share / static_cast<float>(model_->config().index_heads),
                  side_sums_);
}

void Differentiator::repeat_layer(std::int64_t layer, const KeptLayer& kept,
                                  const Model::Step& step) {
  const Model::Step own{kept.a, step.rows, step.cache, step.watch};
  backend_->copy(kept.input, own.a.hidden);
  model_->repeat_attention_half(layer, own);
  backend_->copy(own.a.hidden, kept.middle);
  model_->repeat_feed_forward_half(layer, own.a);
}

// Adds to the derivative by the depth before.
void Differentiator::backward_module(std::int64_t module, const Model::Step& step) {
  const std::int64_t layer = model_->config().layers + module, rows = step.a.hidden.dim(0);
  const Weights& weights = model_->weights();
  const MtpWeights& w = weights.mtp[static_cast<std::size_t>(module)];
  const Depth& before = depths_[static_cast<std::size_t>(module)];
  const Depth& depth = depths_[static_cast<std::size_t>(module) + 1];
  const float eps = model_->eps();
  const Tensor d_stream = d_stream_.rows(0, rows), d_joined = d_joined_.rows(0, rows);
  const Tensor d_embedded = d_embedded_.rows(0, rows), d_continued = d_continued_.rows(0, rows);
  ops_->zero(d_stream);
  ops_->rms_norm(depth.last.rows(0, rows), w.final_norm, eps, depth.d_hidden.rows(0, rows),
                 d_stream, weights_->of(w.final_norm));
  backward_layer(layer, step, d_stream);
  const LinearGradient join[] = {weights_->of(w.join, d_stream)};
  ops_->linear(kept_.layer(layer, rows).a.joined, join, d_joined);
  ops_->split(d_joined, d_embedded, d_continued);
  ops_->rms_norm(before.hidden.rows(0, rows), w.hidden_norm, eps, d_continued,
                 before.d_hidden.rows(0, rows), weights_->of(w.hidden_norm));
  ops_->zero(d_stream);
  ops_->rms_norm(depth.embedded.rows(0, rows), w.embedding_norm, eps, d_embedded, d_stream,
                 weights_->of(w.embedding_norm));
  if (const Tensor d_table = weights_->of(weights.embedding))
    ops_->embed(depth.ids.rows(0, rows), d_stream, d_table);
}

}  // namespace m3
