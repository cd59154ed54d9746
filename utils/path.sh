# Sourced by every run.sh: makes the environment where needed and puts it, steps/ and utils/ within reach.
#
# FULLSUM_ENV=DIR uses the Python environment in DIR instead of .venv, FULLSUM_ENV=system the python3 on the PATH.
# With list=true (run.sh --list) nothing is installed.

FULLSUM_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export FULLSUM_ROOT
if [[ ${list:-false} != true ]]; then
  case ${FULLSUM_ENV:-} in
    system) ;;
    "") "$FULLSUM_ROOT/utils/install.sh" || exit $? ; PATH=$FULLSUM_ROOT/.venv/bin:$PATH ;;
    *) PATH=$FULLSUM_ENV/bin:$PATH ;;
  esac
fi
export PATH
export PYTHONPATH=$FULLSUM_ROOT${PYTHONPATH:+:$PYTHONPATH}
# Equal sorting and encoding everywhere.
export LC_ALL=C.UTF-8 PYTHONUTF8=1
