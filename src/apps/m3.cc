// The one program: `m3 COMMAND ...`.

#include "apps/commands.h"

int main(int argc, char** argv) {
  return m3::run_program(argc, argv);
}
