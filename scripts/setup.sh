#!/usr/bin/env bash
# Installs what the build (and, with --test, the tests) need from Debian's packages, and nothing that is there already.
# With --test also the Python packages of tests/server, from PyPI, into build/python.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(g++ cmake ninja-build libfmt-dev libexpected-dev libcli11-dev nlohmann-json3-dev libpcre2-dev libxxhash-dev libboost-dev libgtest-dev python3
          libpng-dev libjpeg62-turbo-dev libwebp-dev libgif-dev libavformat-dev libavcodec-dev libswscale-dev libavutil-dev)
if [[ "${1:-}" == --test ]]; then
  packages+=(clang-14 libclang-rt-14-dev clang-format-14 python3-venv)
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT

install_packages() {
  local missing=() status as_root=()
  for package in "${packages[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [[ "$status" == installed ]] || missing+=("$package")
  done
  [[ ${#missing[@]} -eq 0 ]] && return

  if ! command -v apt-get >/dev/null; then
    echo "setup: this needs Debian's packages ${missing[*]}, and there is no apt-get here" >&2
    exit 1
  fi
  if [[ $EUID -ne 0 ]]; then
    if ! command -v sudo >/dev/null; then
      echo "setup: run as root: apt-get install ${missing[*]}" >&2
      exit 1
    fi
    as_root=(sudo)
  fi
  echo "setup: installing ${missing[*]}" >&2
  if ! { "${as_root[@]}" apt-get update && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
         apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    echo "setup: apt-get failed; the last lines above say why" >&2
    exit 1
  fi
}

# The environment knows by its copy of the list what it holds.
install_python() {
  local list=tests/server/requirements.txt place=build/python
  [[ -x "$place/bin/python" ]] && cmp -s "$list" "$place/requirements.txt" && return
  echo "setup: installing the Python packages of $list" >&2
  rm -rf "$place"
  if ! { python3 -m venv "$place" && "$place/bin/pip" install --retries 2 -r "$list"; } >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    echo "setup: the packages of $list could not be installed from PyPI into $place; the last lines above say why" >&2
    exit 1
  fi
  cp "$list" "$place/requirements.txt"
}

install_packages
if [[ "${1:-}" == --test ]]; then
  install_python
fi
