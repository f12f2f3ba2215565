#!/usr/bin/env bash
# build.sh PRESET [TARGET...]: configures where needed and builds; shows the log only when it fails.
set -euo pipefail
cd "$(dirname "$0")/.."

preset=$1
shift
targets=()
[[ $# -gt 0 ]] && targets=(--target "$@")
log=$(mktemp)
trap 'rm -f "$log"' EXIT

run() {
  if ! "$@" >"$log" 2>&1; then
    tail -n 60 "$log" >&2
    echo "build: '$*' failed; the log's end is above" >&2
    exit 1
  fi
}
if [[ ! -f "build/$preset/build.ninja" ]]; then
  echo "build: configuring $preset" >&2
  run cmake --preset "$preset"
fi
[[ -f "build/$preset/.ninja_log" ]] || echo "build: compiling $preset, a few minutes the first time" >&2
run cmake --build --preset "$preset" "${targets[@]}"
