#!/usr/bin/env bash
# Makes the Python environment of this checkout, or does nothing when it is complete.
#
# Usage: utils/install.sh [options]
#   --python PATH       interpreter to use; otherwise $PYTHON, then whatever fitting one is found on this machine
#   --torch VERSION     torch to install (default 1.13.1 beside k2, else the newest)
#   --k2 VERSION        k2 to install (default 1.23.4)
#   --find-links URL    further place with wheels, such as https://k2-fsa.github.io/k2/cuda.html
#   --modern            an environment of its own, .venv-modern: Python 3.11 to 3.14, the newest torch, no k2
#   --print-env         print the directory of the environment at the end
# Versions given once are remembered for this checkout; name others to change them.
#
# Everything works in both environments. Without --modern it is k2's where Python 3.10 or 3.11 is found, since the newest
# k2 that the package index has, 1.23.4, needs these and torch 1.13.1; else the modern one, as .venv. Other builds of
# k2 fit newer GPUs: utils/install.sh --python python3.11 --torch 2.4.0 --k2 1.24.4.dev20250307+cpu.torch2.4.0 \
#   --find-links https://k2-fsa.github.io/k2/cpu.html
set -euo pipefail
shopt -s nullglob

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python= torch= k2= find_links= modern=false print_env=false

die() { echo "install.sh: $*" >&2; exit 2; }
say() { echo "install.sh: $*" >&2; }

while (($#)); do
  case $1 in
    --python | --torch | --k2 | --find-links)
      (($# > 1)) || die "$1 needs a value"
      name=${1#--}
      printf -v "${name//-/_}" %s "$2"
      shift 2
      ;;
    --modern) modern=true; shift ;;
    --print-env) print_env=true; shift ;;
    --help | -h) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) die "unknown option $1; see --help" ;;
  esac
done

if $modern; then env=$root/.venv-modern; else env=$root/.venv; fi
if [[ -z $torch$k2$find_links && -f $env/.versions ]]; then
  { read -r torch && read -r k2 && read -r find_links; } <"$env/.versions" || die "$env/.versions is damaged; remove it"
fi

# Prints the version of an interpreter that can make environments. Only running it tells: a shim of pyenv exists for
# every version that is installed anywhere, and fails when called.
works() { "$1" -c 'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

candidates() {
  local version=$1 dir
  echo "python$version"
  echo python3
  echo python
  for dir in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*; do echo "$dir/bin/python"; done
  if command -v uv >/dev/null; then uv python find "$version" 2>/dev/null || true; fi
  for dir in "$HOME"/{miniconda3,anaconda3,miniforge3,mambaforge,.conda} /opt/conda ${CONDA_PREFIX:-}; do
    for dir in "$dir" "$dir"/envs/*; do echo "$dir/bin/python"; done
  done
}

# Prints the first interpreter of one of the versions that is on this machine.
find_python() {
  local version found candidate
  for version in $1; do
    while read -r candidate; do
      if found=$(works "$candidate") && [[ $found == "$version" ]]; then echo "$candidate" && return; fi
    done < <(candidates "$version")
  done
  return 1
}

fetch_python() {
  local version
  for version in $1; do
    if command -v uv >/dev/null && uv python install "$version" >&2; then uv python find "$version" && return; fi
    if command -v conda >/dev/null && conda create -y -q -p "$root/.venv-python" "python=$version" >&2; then
      echo "$root/.venv-python/bin/python" && return
    fi
  done
  return 1
}

old="3.10 3.11" new="3.12 3.13 3.11 3.14"
if ! $modern && [[ -n $k2 && $k2 != none && $k2 != 1.23.4 ]]; then old="3.12 3.11 3.13 3.10"; fi
# The stack is chosen once: what is there, or what was asked for, decides; then the interpreters of this machine.
if $modern || [[ $k2 == none ]]; then
  k2=none
elif [[ -z $k2 ]]; then
  decides=${python:-${PYTHON:-}}
  if [[ -x $env/bin/python ]]; then decides=$env/bin/python; fi
  version=$(works "$decides") || version=
  if [[ -n $version && " $old " == *" $version "* ]]; then
    k2=1.23.4
  elif [[ -n $version && $decides != "${PYTHON:-}" ]]; then
    k2=none  # $PYTHON may be set for other reasons
  elif find_python "$old" >/dev/null; then
    k2=1.23.4
  else
    k2=none
  fi
fi
if [[ $k2 == none ]]; then
  requirements=("-e" ".[dev,triton]" "torch${torch:+==$torch}")
  modules=(torch lhotse kaldialign kaldingram kaldilm numba pydantic pipeline)
  wanted=$new
else
  torch=${torch:-1.13.1}
  requirements=("-e" ".[dev,k2]" "torch==$torch" "k2==$k2")
  modules=(torch k2 lhotse kaldialign kaldingram kaldilm numba pydantic pipeline)
  wanted=$old
fi
if [[ $torch == 1.* ]]; then requirements+=("numpy<2"); fi

# The set of requirements as one line; the environment is complete when its marker holds the same.
key="$(cat "$root/setup.py" "$root/pyproject.toml" | cksum | tr ' ' -) ${requirements[*]} $find_links"
marker=$env/.complete
building=$env/.building

complete() { [[ -f $marker && ! -f $building && "$(<"$marker")" == "$key" && -x $env/bin/python ]]; }
finish() {
  if $print_env; then echo "$env"; fi
  exit 0
}
if complete; then finish; fi

choose_python() {
  local given=${python:-${PYTHON:-}} found
  if [[ -n $given ]]; then
    found=$(works "$given") || die "$given does not run, or lacks the modules venv and ensurepip"
    if [[ " $wanted " == *" $found "* ]]; then echo "$given" && return; fi
    # $PYTHON may be set for other reasons; only an explicit --python is an error.
    [[ -z $python ]] || die "$given is Python $found; needed is ${wanted// / or }"
  fi
  find_python "$wanted" || fetch_python "$wanted" || die "found no Python ${wanted// / or } that runs. Ways to get one:
  pyenv install 3.12        (then nothing else: it is found under ~/.pyenv/versions)
  uv python install 3.12
  conda create -n py312 python=3.12
  apt-get install python3 python3-venv
Then run this again, or name it: utils/install.sh --python PATH"
}

# pip with two more tries when its output speaks of the network.
pip_install() {
  local log=$env/install.log try
  for try in 1 2 3; do
    if "$env/bin/python" -m pip --disable-pip-version-check install "$@" >>"$log" 2>&1; then return; fi
    if ((try == 3)) || ! tail -n 60 "$log" | grep -qiE \
      'timed out|timeout|connection|temporary failure|network|incomplete ?read|protocolerror|ssl|http error 5'; then
      tail -n 15 "$log" >&2
      die "pip failed; all of its output is in ${log#"$root"/}"
    fi
    say "the network failed; trying again in $((try * 10)) s"
    sleep $((try * 10))
  done
}

exec 9>"$env.lock"
if command -v flock >/dev/null; then
  flock -n 9 || { say "waiting for another install.sh" && flock 9; }
fi
if complete; then finish; fi

if [[ -f $building ]] || { [[ -d $env ]] && ! works "$env/bin/python" >/dev/null; }; then
  [[ -f $building || -f $env/pyvenv.cfg || -z "$(ls -A "$env")" ]] ||
    die "$env exists and is no Python environment; move it away"
  say "removing the unfinished ${env##*/}"
  rm -rf "$env"
fi
if [[ -d $env ]]; then
  # An environment made by hand, or for another set of requirements: pip adds only what is missing.
  found=$(works "$env/bin/python")
  [[ " $wanted " == *" $found "* ]] || die "$env has Python $found, needed is ${wanted// / or }; move it away"
  rm -f "$marker"
else
  interpreter=$(choose_python)
  say "making ${env##*/} with $("$interpreter" -c 'import sys; print(sys.executable)'); this takes some minutes"
  mkdir -p "$env"
  touch "$building"
  "$interpreter" -m venv "$env" || die "$interpreter could not make an environment"
fi

cd "$root"
links=()
if [[ -n $find_links ]]; then links=(--find-links "$find_links"); fi
pip_install "setuptools>=64,<81" wheel
if [[ $k2 == 1.23.4 && -z $find_links ]]; then
  # The index has one wheel per Python, py3.7 to py3.11, whose tags read as "any Python 3": pip takes whichever is
  # listed first. Only the digests (Linux, macOS) pick those built for this one.
  case $(works "$env/bin/python") in
    3.10) digests="1404589732fdb7f6f5bf62297a20dd73318b7b4f2e10dd52dc3d5b6669688a4c
      89d38aab1df9e5d10f59379a93f0c8b033ea10a7515083e05740afa3edf15e84" ;;
    *) digests=5b5f709b12b9cd092b583984d0b7d940c9f898101259c998d68d1f4adefa48d4 ;;
  esac
  { printf '%s' "k2==$k2" && printf ' --hash=sha256:%s' $digests; } >"$env/k2.txt"
  pip_install --no-deps -r "$env/k2.txt"
fi
pip_install --no-build-isolation "${links[@]}" "${requirements[@]}"
for module in "${modules[@]}"; do
  "$env/bin/python" -c "import $module" 2>"$env/import.log" || {
    tail -n 5 "$env/import.log" >&2
    die "module $module was installed, but its import fails; do Python, torch and k2 belong together?"
  }
done
printf '%s\n' "$torch" "$k2" "$find_links" >"$env/.versions"
echo "$key" >"$marker"
rm -f "$building"
say "${env##*/} is complete"
finish
