// What commands that read data files ask for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "data/dataset.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace m3 {

struct DataOptions {
  std::vector<std::string> files;
  std::int64_t max_tokens = 0;  // 0: the model's positions
  Overlong overlong = Overlong::kRefuse;
  std::string thinking_mode;  // "": that of the template's default
  double fps = 1;
};

// What help says of the files.
inline constexpr const char* kDataFilesHelp =
    ".jsonl or .json with \"messages\" (OpenAI), \"conversations\" (ShareGPT), \"instruction\" and "
    "\"output\" (Alpaca), \"prompt\" and \"completion\" or \"text\" in each record; .txt: one text";

// All options but the files.
std::vector<CLI::Option*> add_data_options(CLI::App& command, DataOptions& options);

// Shows progress on stderr. `vision`: pictures may be in them. Errors: more tokens than the model
// in `directory` has positions; its preprocessor files are broken. What is wrong with the data is
// the dataset's to tell.
Result<Dataset> read_dataset(const DataOptions& options, const std::string& directory,
                             const Config& config, const Tokenizer& tokenizer, bool vision,
                             ThreadPool& pool);

// Rows that are computed together: as --pack says (0: it was not given), but no fewer than the
// longest sequence has, which is told on stderr.
std::int64_t rows_together(std::int64_t pack, std::int64_t longest);

}  // namespace m3
