# Sourced by every run.sh after utils/parse_options.sh: the environment (utils/path.sh), and what options of all recipes mean.
#
#   steps, utils, local   directories of the programs
#   force                 array: --overwrite where the recipe's variable `overwrite` is true
#   sources               from `ali` (gmm|nhmm|both|none): alignments that networks are trained on, "gmm nhmm", one or none
#   teachers              alignments by which end-to-end models are supervised: the same, or one of the recipe's variable `more_teachers`
#                         that `ali` names; networks are then trained on the GMM's alignments
#   jobs, backend         where steps that divide into parts run them, and conf/cluster.yaml about the cluster if it is there:
#                         FULLSUM_JOBS, FULLSUM_BACKEND and FULLSUM_CLUSTER, which those steps read
#   quiet, log_json       what is said of the work: FULLSUM_QUIET and FULLSUM_LOG_JSON, which all steps read
#   absolute PATH         PATH, which was given relative to the recipe, for a recipe that goes elsewhere; nothing of nothing
#   report                function: writes pages about everything below exp
#   ways                  checked: a list of teachers of utils/semisup.sh, for recipes that have the variable
#   e2e                   checked: a list of end-to-end models, ctc, attention or transducer; empty for none
#   among TEXT LIST WORD..    function: ends the recipe unless LIST has some of the words and no others; TEXT begins the message
#   clustered             function: takes conf/cluster.yaml of the current directory, for a recipe that has gone elsewhere

(($# == 0)) || { echo "$0: '$1' is no option; see --help" >&2; exit 2; }
among() {
  local text=$1 list=$2 word
  shift 2
  for word in ${list:-""}; do
    [[ " $* " == *" $word "* ]] || { echo "$0: $text a list of ${*}, not '$list'" >&2; exit 2; }
  done
}
clustered() { if [[ -f conf/cluster.yaml ]]; then export FULLSUM_CLUSTER=$PWD/conf/cluster.yaml; fi; }
. "${BASH_SOURCE[0]%/*}/path.sh"
steps=$FULLSUM_ROOT/steps
utils=$FULLSUM_ROOT/utils
local=$FULLSUM_ROOT/local
force=()
if ${overwrite:-false}; then force=(--overwrite); fi

[[ ${jobs=1} =~ ^[1-9][0-9]*$ ]] || { echo "$0: --jobs is a number from 1 on, not '$jobs'" >&2; exit 2; }
case ${backend=local} in
  local | slurm | dask) ;;
  *) echo "$0: --backend is local, slurm or dask, not '$backend'" >&2; exit 2 ;;
esac
export FULLSUM_JOBS=$jobs FULLSUM_BACKEND=$backend
clustered
if ${quiet:-false}; then export FULLSUM_QUIET=true; fi
if [[ -n ${log_json-} ]]; then
  if [[ $log_json != [-/]* ]]; then log_json=$PWD/$log_json; fi
  { : >>"$([[ $log_json == - ]] && echo /dev/null || echo "$log_json")"; } 2>/dev/null ||
    { echo "$0: --log-json $log_json: cannot be written" >&2; exit 2; }
  export FULLSUM_LOG_JSON=$log_json
fi

case ${ali=none} in
  both) sources="gmm nhmm" ;;
  gmm | nhmm) sources=$ali ;;
  none) sources= ;;
  *)
    [[ $ali =~ ^[a-z]+$ && " ${more_teachers-} " == *" $ali "* ]] ||
      { echo "$0: --ali is gmm, nhmm, both, ${more_teachers:+${more_teachers// /, }, }or none, not '$ali'" >&2; exit 2; }
    sources=gmm
    ;;
esac
teachers=$sources
if [[ " ${more_teachers-} " == *" $ali "* ]]; then teachers=$ali; fi

if [[ ${e2e=ctc} == none ]]; then
  e2e=
else
  among "--e2e is none or" "$e2e" ctc attention transducer
fi

_before=" "
[[ -z ${ways-} ]] || among "--ways is" "$ways" fixed ema cache rounds decoded decoded_again by_hybrid
for _way in ${ways-}; do
  [[ $_way != decoded_again && $_way != by_hybrid || $_before == *" decoded "* ]] ||
    { echo "$0: --ways is a list in which decoded stands before $_way, which learns from it, not '$ways'" >&2; exit 2; }
  _before+="$_way "
done
unset _way _before

absolute() { if [[ -z $1 || $1 == /* ]]; then echo "$1"; else echo "$PWD/$1"; fi; }
# report [OPTION..]: pages in exp/report that show all alignments, decodings and models below exp.
report() { python "$steps/report.py" exp exp/report "$@"; }

# python: as ever, but one process for all (utils/current.py) tells of the steps that are up to date, in a tenth of the time
# that it takes to start another one.
python() {
  local answer=
  if [[ ${1-} == "$steps"/*.py && $BASH_SUBSHELL == 0 ]]; then
    if [[ -z ${_ask-} ]]; then
      # What takes its place when it has ended answers nothing: bash forgets a coprocess that is gone, even before the next line.
      coproc _current { env python "$utils/current.py" || :; exec cat >/dev/null; }
      exec {_ask}>&"${_current[1]}" {_hear}<&"${_current[0]}"
    fi
    trap '' PIPE # a process that is gone answers nothing, and the step runs
    printf '%s\0' $(($# + 1)) "$PWD" "$@" >&$_ask 2>/dev/null || :
    trap - PIPE
    read -r answer <&$_hear || :
  fi
  [[ $answer == current ]] || command python "$@" || _ended $? "$1"
}
_ended() { # CODE PROGRAM: tells of a process that could not tell itself what ended it
  if [[ " 127 132 134 135 136 137 139 " == *" $1 "* ]]; then
    local by="exit code $1"
    if (($1 > 128)); then by=SIG$(kill -l "$1"); fi
    echo "$0: ${2##*/} was ended by $by, most likely for want of memory (a limit, or the system's; see dmesg); smaller batches need less," \
      "in most steps --batch-frames; the same command resumes the work" >&2
  fi
  return "$1"
}
