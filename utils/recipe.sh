# Sourced by every run.sh after utils/parse_options.sh: the environment (utils/path.sh), and what options of all recipes mean.
#
#   steps, utils, local   directories of the programs
#   force                 array: --overwrite where the recipe's variable `overwrite` is true
#   sources               from `ali` (gmm|nhmm|both|none): alignments that networks are trained on, "gmm nhmm", one or none
#   e2e                   checked: a list of end-to-end models, ctc, attention or transducer; empty for none

. "${BASH_SOURCE[0]%/*}/path.sh"
steps=$FULLSUM_ROOT/steps
utils=$FULLSUM_ROOT/utils
local=$FULLSUM_ROOT/local
force=()
if ${overwrite:-false}; then force=(--overwrite); fi

case ${ali=none} in
  both) sources="gmm nhmm" ;;
  gmm | nhmm) sources=$ali ;;
  none) sources= ;;
  *) echo "$0: --ali is gmm, nhmm, both or none, not '$ali'" >&2; exit 2 ;;
esac

if [[ ${e2e=ctc} == none ]]; then
  e2e=
else
  for _model in ${e2e:-""}; do
    case $_model in
      ctc | attention | transducer) ;;
      *) echo "$0: --e2e is none or a list of ctc, attention and transducer, not '$e2e'" >&2; exit 2 ;;
    esac
  done
  unset _model
fi
