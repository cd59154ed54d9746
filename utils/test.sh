#!/usr/bin/env bash
# Sets everything up and runs the tests.
#
# Usage: utils/test.sh [--modern] [--fast | --slow] [arguments of pytest]
#   --modern  in the environment with the newest torch and without k2
#   --fast    leaves out the tests that take more than ten seconds each
#   --slow    also those that run a recipe on a miniature clone of its corpus (tests/clones), minutes each
# For instance: utils/test.sh tests/artifacts/test_symbols_lexicon.py -x
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
environment=.venv
install=() chosen=()
while true; do
  case ${1-} in
    --modern) environment=.venv-modern install=(--modern); shift ;;
    --fast) chosen=(-m "not slow"); shift ;;
    --slow) chosen=(--slow); shift ;;
    --help | -h) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "utils/${BASH_SOURCE[0]##*/}"; exit 0 ;;
    *) break ;;
  esac
done
utils/install.sh "${install[@]}"
PATH=$PWD/$environment/bin:$PATH
export PATH PYTHONPATH=$PWD LC_ALL=C.UTF-8
exec "$PWD/$environment/bin/python" -m pytest "${chosen[@]}" "$@"
