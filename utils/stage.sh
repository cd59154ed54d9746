# Sourced by every run.sh before its own variables: numbered stages that can be listed, chosen and are timed.
#
#   . ../../utils/stage.sh
#   . ../../utils/parse_options.sh      # --stage 3 --stop-stage 5 --list
#   if stage 0 "data"; then
#     ...
#   fi
#
# Each stage that ran adds a line to exp/stage_times.jsonl: number, title, seconds, number of outputs that were made
# (not just found up to date), whether it succeeded. utils/results.py makes the table of times from it.
#
# --quiet and --log-json FILE (as in pipeline/base/log.py) hold for stages and, through FULLSUM_QUIET and FULLSUM_LOG_JSON,
# which utils/recipe.sh sets, for the steps in them.

stage=0
stop_stage=1000
list=false
quiet=false
if [[ ${FULLSUM_QUIET-} =~ ^(1|true|yes)$ ]]; then quiet=true; fi
log_json=${FULLSUM_LOG_JSON-}
_stage_now= _stage_title= _stage_start= _stage_first= _stage_marker= _stage_seen=" "

stage() { # NUMBER TITLE: true when this stage is to run
  local number=$1 title=$2
  [[ $stage =~ ^[0-9]+$ && $stop_stage =~ ^[0-9]+$ ]] || {
    echo "$0: --stage and --stop-stage are numbers, not '$stage' and '$stop_stage'" >&2
    exit 2
  }
  _stage_end true
  _stage_seen+="$number "
  if $list; then
    printf '%3d  %s\n' "$number" "$title"
    return 1
  fi
  ((10#$number >= 10#$stage && 10#$number <= 10#$stop_stage)) || return 1 # 08 is no octal number
  mkdir -p exp
  _stage_now=$number _stage_title=$title _stage_start=$(_stage_clock)
  _stage_first=${_stage_first:-$_stage_start}
  _stage_marker=$(mktemp exp/.stage.XXXXXX)
  _stage_say info "stage $number: $title"
}

_stage_say() { # LEVEL TEXT: to people, and as a JSON line where that is asked for
  if [[ -n $log_json ]]; then
    local line
    printf -v line '{"time": "%s", "level": "%s", "stage": %d, "message": "%s"}\n' \
      "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$1" "${_stage_now:-0}" "${2//[\"\\]/}"
    if [[ $log_json == - ]]; then
      printf %s "$line" >&2
      return
    fi
    printf %s "$line" >>"$log_json"
  fi
  if [[ $1 == error ]]; then
    echo "== $2" >&2
  elif ! $quiet; then
    echo "== $2"
  fi
}

_stage_clock() { # milliseconds
  local now=${EPOCHREALTIME:-$(date +%s.%N)}
  now=${now/,/.}
  local fraction=${now#*.}000
  echo $((${now%.*} * 1000 + 10#${fraction:0:3}))
}

_stage_span() { # MILLISECONDS: for people
  if (($1 < 60000)); then
    printf '%d.%d s' $(($1 / 1000)) $(($1 % 1000 / 100))
  else
    printf '%d min %02d s' $(($1 / 60000)) $(($1 % 60000 / 1000))
  fi
}

_stage_end() { # OK: closes the stage that is running, if there is one
  [[ -n $_stage_now ]] || return 0
  local took=$(($(_stage_clock) - _stage_start)) made
  made=$(find . -name stamp.json -newer "$_stage_marker" -not -path '*.tmp/*' 2>/dev/null | wc -l)
  rm -f "$_stage_marker"
  printf '{"stage": %d, "title": "%s", "seconds": %d.%03d, "made": %d, "ok": %s, "at": "%s"}\n' \
    "$_stage_now" "${_stage_title//[\"\\]/}" $((took / 1000)) $((took % 1000)) "$made" "$1" \
    "$(date -u +%Y-%m-%dT%H:%M:%SZ)" >>exp/stage_times.jsonl
  if $1; then
    _stage_say info "stage $_stage_now done in $(_stage_span $took)"
  else
    _stage_say error "stage $_stage_now ($_stage_title) failed after $(_stage_span $took)"
  fi
  _stage_now=
}

_stage_exit() {
  local code=$?
  if ((code == 0)); then _stage_end true; else _stage_end false; fi
  if ((code == 0)) && ! $list; then
    if [[ -n $_stage_first ]]; then
      _stage_say info "all done in $(_stage_span $(($(_stage_clock) - _stage_first)))"
    elif [[ $_stage_seen != " " ]]; then
      echo "$0: no stage from $stage to $stop_stage; there are:$_stage_seen" >&2
      exit 2
    fi
  fi
  exit "$code"
}
trap _stage_exit EXIT
# Without these the exit trap sees the status of the last command, and an ended stage would count as done.
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
