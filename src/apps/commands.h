// The subcommands of m3. Each add_*() declares its options and, when it is the one called, leaves
// the work to do in `run`.
#pragma once

#include <functional>

#include "base/result.h"

namespace CLI {
class App;
}

namespace m3 {

using Run = std::function<Status()>;

void add_chat(CLI::App& app, Run& run);
void add_serve(CLI::App& app, Run& run);
void add_generate(CLI::App& app, Run& run);
void add_logits(CLI::App& app, Run& run);
void add_data(CLI::App& app, Run& run);
void add_gradients(CLI::App& app, Run& run);
void add_train(CLI::App& app, Run& run);
void add_vision(CLI::App& app, Run& run);
void add_tokenize(CLI::App& app, Run& run);
void add_detokenize(CLI::App& app, Run& run);
void add_render(CLI::App& app, Run& run);
void add_inspect(CLI::App& app, Run& run);
void add_synth(CLI::App& app, Run& run);
void add_init(CLI::App& app, Run& run);
void add_quantize(CLI::App& app, Run& run);
void add_merge(CLI::App& app, Run& run);
void add_perplexity(CLI::App& app, Run& run);
void add_pack(CLI::App& app, Run& run);
void add_bench(CLI::App& app, Run& run);

// Parses the command line and runs the command. Returns the exit status: 0; 1 when the command
// failed, with its sentence on stderr; 2 when the command line cannot be understood.
int run_program(int argc, char** argv);

}  // namespace m3
