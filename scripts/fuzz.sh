#!/usr/bin/env bash
# fuzz.sh SECONDS [NAME...]: builds the fuzz targets and runs them for SECONDS in all, over fuzz/corpus/NAME.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$1
shift
names=("$@")
if [[ ${#names[@]} -eq 0 ]]; then
  for source in fuzz/*.cc; do
    names+=("$(basename "$source" .cc)")
  done
fi
for name in "${names[@]}"; do
  if [[ ! -f "fuzz/$name.cc" ]]; then
    echo "fuzz: there is no target '$name'" >&2
    exit 2
  fi
done
scripts/build.sh asan+ubsan "${names[@]/#/fuzz_}"
found=build/fuzz  # logs, what the fuzzer learnt, and inputs that failed
each=$((seconds / ${#names[@]}))
[[ $each -ge 1 ]] || each=1  # 0 would mean no limit
for name in "${names[@]}"; do
  mkdir -p "$found/$name" "fuzz/corpus/$name"
  echo "fuzz: $name for $each s"
  if ! "build/asan+ubsan/fuzz_$name" "$found/$name" "fuzz/corpus/$name" -max_total_time="$each" -rss_limit_mb=4096 \
      -timeout=20 -max_len=65536 -artifact_prefix="$found/$name-" >"$found/$name.log" 2>&1; then
    tail -n 30 "$found/$name.log"
    echo "fuzz: $name failed; the input is $found/$name-*"
    exit 1
  fi
  grep -o '^Done [0-9]* runs.*' "$found/$name.log" || true
done
