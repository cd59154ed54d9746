# Sourced by a script after it has given its variables their defaults: --some-name VALUE sets $some_name.
#
#   --some-name VALUE or --some-name=VALUE
#                         only for variables that exist and are in lower case; anything else is an error (exit 2)
#   --flag                for a variable that is true or false: true
#   --config FILE         lines `some_name=VALUE`; read as text, never run; the command line wins
#   --help                prints the comment at the top of the script
#
# What follows the options stays in "$@". Nothing is ever eval'd.

_option_die() {
  echo "$0: $*" >&2
  exit 2
}

_option_set() { # NAME VALUE WHERE
  local name=${1//-/_} where=$3
  [[ $name =~ ^[a-z][a-z0-9_]*$ && -v $name ]] || _option_die "$where: no such option; see --help"
  if [[ ${!name} == true || ${!name} == false ]]; then
    [[ $2 == true || $2 == false ]] || _option_die "$where is true or false, not '$2'"
  fi
  printf -v "$name" %s "$2"
}

_option_config() { # FILE
  local line number=0 value
  [[ -f $1 && -r $1 ]] || _option_die "--config $1: no such file"
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    line=${line%$'\r'}
    if [[ $line =~ ^[[:space:]]*(#.*)?$ ]]; then continue; fi
    [[ $line =~ ^[[:space:]]*([A-Za-z0-9_-]+)=(.*)$ ]] || _option_die "$1:$number: needs name=value"
    local name=${BASH_REMATCH[1]}
    value=${BASH_REMATCH[2]}
    if [[ $value =~ ^\"([^\"]*)\"[[:space:]]*(#.*)?$ || $value =~ ^\'([^\']*)\'[[:space:]]*(#.*)?$ ]]; then
      value=${BASH_REMATCH[1]}
    else
      value=${value%%[[:space:]]#*}
      value=${value%"${value##*[![:space:]]}"}
    fi
    _option_set "$name" "$value" "$1:$number: $name"
  done <"$1"
}

_option_given=()
_option_script=$0
if [[ ! -f $0 ]]; then _option_script=$PWD/${0##*/}; fi # the script was called from elsewhere and has gone to its directory
while (($#)); do
  case $1 in
    --help | -h)
      awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$_option_script"
      if [[ -v log_json ]]; then # a recipe with stages
        echo "Of all recipes:"
        echo "  --quiet               show warnings and errors alone"
        echo "  --log-json FILE       add the log and the progress to FILE as JSON lines; -: write them to stderr in place of text"
      fi
      exit 0
      ;;
    --config)
      (($# > 1)) || _option_die "--config needs a file"
      _option_config "$2"
      shift 2
      ;;
    --config=*) _option_config "${1#*=}"; shift ;;
    --) shift; break ;;
    --*=*) _option_given+=("${1%%=*}" "${1#*=}"); shift ;;
    --*)
      _option_name=${1#--}
      _option_name=${_option_name//-/_}
      if [[ $_option_name =~ ^[a-z][a-z0-9_]*$ && ${!_option_name-} =~ ^(true|false)$ &&
        ! ${2-} =~ ^(true|false)$ ]]; then
        _option_given+=("$1" true)
        shift
      else
        [[ $_option_name =~ ^[a-z][a-z0-9_]*$ && -v $_option_name ]] || _option_die "$1: no such option; see --help"
        (($# > 1)) || _option_die "$1 needs a value"
        _option_given+=("$1" "$2")
        shift 2
      fi
      ;;
    *) break ;;
  esac
done
for ((_option_i = 0; _option_i < ${#_option_given[@]}; _option_i += 2)); do
  _option_set "${_option_given[_option_i]#--}" "${_option_given[_option_i + 1]}" "${_option_given[_option_i]}"
done
unset _option_given _option_i _option_name _option_script
