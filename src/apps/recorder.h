// Keeps what a forward computed, row by row, and replays choices that were made before.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "checkpoint/safetensors.h"
#include "model/model.h"
#include "model/watch.h"

namespace m3 {

// Which rows of the current step belong to which job (sequence).
struct RecordedRows {
  std::size_t job;
  std::int64_t first_row;  // of the batch
  std::int64_t slot;       // of the sequence
  std::int64_t rows;
};

class Recorder final : public Watch {
 public:
  // One job for each of `lengths`. Without `trace` only logits are kept. `model` outlives this.
  Recorder(const Model& model, std::vector<std::int64_t> lengths, bool trace);

  // Reads experts.L and blocks.L of the only job. Errors: several jobs, no such tensor in the file,
  // wrong shape or type, an id out of range or out of order.
  Status replay(const std::string& path);

  // Before each forward: forget the last step's rows, then name this one's, in the order of the
  // batch.
  void begin_step() { step_.clear(); }
  void add_rows(const RecordedRows& rows) { step_.push_back(rows); }
  // After it: every row's logits.
  void keep_logits(const Tensor& logits) { keep("logits", logits); }
  // After a step of MTP module `module`, which begins and names its rows like a forward: of all
  // rows but a sequence's last, which has no next token; of module k of a chain, its last 1 + k.
  void keep_mtp(std::int64_t module, const MtpOutputs& outputs);

  // Everything kept, under the names of `m3 logits`, prefixed "0.", "1." where there are several
  // jobs.
  std::vector<NamedTensor> tensors() const;

  bool give_blocks(std::int64_t layer, const Tensor& blocks) override;
  bool give_experts(std::int64_t layer, const Tensor& experts) override;
  void saw_blocks(std::int64_t layer, const Tensor& blocks) override;
  void saw_experts(std::int64_t layer, const Tensor& experts, const Tensor& weights) override;
  void saw_hidden(std::int64_t layer, const Tensor& hidden) override;
  void saw_final(const Tensor& hidden) override;

 private:
  struct Kept {
    Buffer buffer;
    Tensor tensor;
  };
  // The tensor has a row for every token but the last `without`.
  void keep(const std::string& name, const Tensor& rows, std::int64_t without = 0);
  bool give(const std::string& name, const Tensor& out) const;
  Status check_choices(const std::string& name, const Tensor& values) const;

  const Model& model_;
  std::vector<std::int64_t> lengths_;
  bool trace_;
  std::vector<RecordedRows> step_;
  std::vector<std::map<std::string, Kept>> kept_;  // by job
  std::shared_ptr<const SafetensorsFile> choices_;
};

}  // namespace m3
