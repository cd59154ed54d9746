#!/usr/bin/env bash
# Sets everything up and runs the tests.
#
# Usage: utils/test.sh [--modern] [--jobs N] [--fast | --slow] [arguments of pytest]
#   --modern  in the environment with the newest torch and without k2
#   --jobs N  processes that share the files of tests, one for each core by default, eight at most
#   --fast    leaves out the tests that take more than ten seconds each
#   --slow    also those that run a recipe on a miniature clone of its corpus (tests/clones), minutes each
# For instance: utils/test.sh tests/artifacts/test_symbols_lexicon.py -x
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
environment=.venv
install=() chosen=()
jobs=$(nproc 2>/dev/null || echo 2)
jobs=$((jobs < 8 ? jobs : 8))
while true; do
  case ${1-} in
    --modern) environment=.venv-modern install=(--modern); shift ;;
    --jobs) jobs=${2:?--jobs needs a number}; shift 2 ;;
    --fast) chosen=(-m "not slow"); shift ;;
    --slow) chosen=(--slow); shift ;;
    --help | -h) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "utils/${BASH_SOURCE[0]##*/}"; exit 0 ;;
    *) break ;;
  esac
done
utils/install.sh "${install[@]}"
PATH=$PWD/$environment/bin:$PATH
export PATH PYTHONPATH=$PWD LC_ALL=C.UTF-8
# Each process has one core: threads of several that wait for each other would spin.
if ((jobs > 1)); then export OMP_NUM_THREADS=1; chosen+=(-n "$jobs" --dist loadfile); fi
exec "$PWD/$environment/bin/python" -m pytest "${chosen[@]}" "$@"
