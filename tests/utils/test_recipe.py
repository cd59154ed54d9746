"""utils/recipe.sh: what the options of all recipes mean, and that a wrong value ends the recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

UTILS = Path(__file__).resolve().parents[2] / "utils"

SCRIPT = f"""#!/usr/bin/env bash
# Usage: ./script [--ali ALI] [--e2e LIST] [--ways LIST] [--overwrite] [--jobs N] [--backend B]
set -euo pipefail
jobs=1
backend=local
ali=both
e2e=attention
ways="fixed decoded"
overwrite=false
. {UTILS}/parse_options.sh
more_teachers="hybrid chenone"
. {UTILS}/recipe.sh
printf '%s|' "$sources" "$teachers" "$e2e" "${{force[@]}}"
"""


@pytest.fixture
def script(write_script):
    """Runs the recipe with the arguments given."""
    return write_script(SCRIPT)


@pytest.mark.parametrize(
    "args, printed",
    [
        ([], "gmm nhmm|gmm nhmm|attention|"),
        (["--ali", "nhmm"], "nhmm|nhmm|attention|"),
        (["--ali", "hybrid"], "gmm|hybrid|attention|"),
        (["--ali", "none", "--overwrite"], "||attention|--overwrite|"),
        (["--e2e", "ctc transducer"], "gmm nhmm|gmm nhmm|ctc transducer|"),
        (["--e2e", "none"], "gmm nhmm|gmm nhmm||"),
        (["--ways", "ema decoded decoded_again by_hybrid"], "gmm nhmm|gmm nhmm|attention|"),
    ],
)
def test_values(script, args, printed):
    result = script(*args)
    assert (result.returncode, result.stdout) == (0, printed), result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["--ali", "hmm"],
        ["--ali", ""],
        ["--ali", "hybrid chenone"],
        ["--e2e", ""],
        ["--e2e", "ctc rnnt"],
        ["--e2e", "ctc none"],
        ["--ways", "ema teacher"],
        ["--ways", "ema decoded_again decoded"],
        ["--ways", "by_hybrid"],
        ["--jobs", "0"],
        ["--jobs", "two"],
        ["--backend", "pbs"],
    ],
)
def test_wrong_values(script, args):
    result = script(*args)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"{args[0]} is" in result.stderr and f"'{args[1]}'" in result.stderr


@pytest.mark.parametrize("args", [["-stage", "3"], ["--jobs", "2", "stage=3"], ["--overwrite", "false", "3"]])
def test_what_is_no_option_ends_the_recipe(script, args):
    """It would run all stages otherwise."""
    result = script(*args)
    assert (result.returncode, result.stdout) == (2, "") and "is no option; see --help" in result.stderr


def test_a_recipe_that_goes_elsewhere(write_script, tmp_path):
    """has the cluster that is described there, if there is one."""
    for folder in (".", "100h"):
        (tmp_path / folder / "conf").mkdir(parents=True)
        (tmp_path / folder / "conf" / "cluster.yaml").write_text("minutes: 10\n")
    (tmp_path / "960h").mkdir()
    for folder, taken in (("100h", "100h/"), ("960h", "")):
        result = write_script(f"{SCRIPT}\ncd {folder}\nclustered\nprintenv FULLSUM_CLUSTER\n")()
        assert result.stdout.split("|")[-1].strip() == f"{tmp_path.resolve()}/{taken}conf/cluster.yaml", result.stderr


@pytest.mark.parametrize("file", [False, True])
def test_steps_read_where_parts_run(write_script, tmp_path, file):
    """The command line of a step wins over what the recipe says."""
    step = UTILS.parent / "steps" / "compute_feats.py"
    script = SCRIPT.replace(
        "printf", f"env | grep ^FULLSUM_[JBC] | sort; python {step} --help | grep FULLSUM_JOBS; printf"
    )
    if file:
        (tmp_path / "conf").mkdir()
        (tmp_path / "conf" / "cluster.yaml").write_text("minutes: 10\n")
    result = write_script(script)("--jobs", "3", "--backend", "dask")
    shown = [
        "FULLSUM_BACKEND=dask",
        *([f"FULLSUM_CLUSTER={tmp_path.resolve()}/conf/cluster.yaml"] if file else []),
        "FULLSUM_JOBS=3",
    ]
    assert result.stdout.splitlines()[: len(shown)] == shown, result.stderr


def test_only_a_recipe_that_has_more_teachers_knows_them(write_script):
    result = write_script(SCRIPT.replace('more_teachers="hybrid chenone"\n', ""))("--ali", "hybrid")
    assert result.returncode == 2 and "--ali is gmm, nhmm, both, or none, not 'hybrid'" in result.stderr


@pytest.mark.parametrize("place, code", [("log.jsonl", 0), ("-", 0), ("none/log.jsonl", 2)])
def test_what_is_said_holds_for_the_steps(write_script, place, code):
    text = SCRIPT.replace("jobs=1\n", "jobs=1\nquiet=false\nlog_json=\n")
    done = write_script(text + "printenv FULLSUM_QUIET FULLSUM_LOG_JSON\n")("--quiet", "--log-json", place)
    assert done.returncode == code, done.stderr
    if code:
        assert "cannot be written" in done.stderr
    else:
        *_, quiet, where = done.stdout.splitlines()
        assert quiet.endswith("true") and (where == place or where.endswith(f"/{place}"))


def test_the_process_that_tells_what_is_up_to_date_may_end_at_once(write_script, tmp_path):
    """Steps run then. On a busy machine it took a recipe down, before the shell had so much as asked."""
    (tmp_path / "programs").mkdir()
    python = tmp_path / "programs" / "python"
    python.write_text('#!/bin/sh\ncase $1 in *current.py) exit 1;; esac\necho ran "$@"\n')
    python.chmod(0o755)
    busy = "set -o functrace\ntrap 'sleep 0.1; :' DEBUG\n"  # between any two commands of the shell
    calls = 'python "$steps/align.py" 1\npython "$steps/align.py" 2\n'
    done = write_script(f"{SCRIPT}\necho\nPATH={tmp_path}/programs:$PATH\n{busy}{calls}")()
    assert done.returncode == 0, done.stderr
    assert [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("ran")] == ["1", "2"]


@pytest.mark.parametrize(
    "ends, code, said",
    [
        ("kill -SEGV $$", 139, "was ended by SIGSEGV, most likely for want of memory"),
        ("kill -ABRT $$", 134, "was ended by SIGABRT, most likely for want of memory"),
        ("kill -KILL $$", 137, "was ended by SIGKILL, most likely for want of memory"),
        ("exit 127", 127, "was ended by exit code 127"),
        ("exit 2", 2, ""),
        ("exit 130", 130, ""),
    ],
)
def test_a_step_that_could_not_tell_what_ended_it(write_script, tmp_path, ends, code, said):
    (tmp_path / "programs").mkdir()
    python = tmp_path / "programs" / "python"
    python.write_text(f"#!/bin/sh\nulimit -c 0\n{ends}\n")
    python.chmod(0o755)
    done = write_script(SCRIPT + f"PATH={tmp_path}/programs:$PATH\npython steps/toy.py\necho lives on\n")()
    assert done.returncode == code and "lives on" not in done.stdout
    assert f"toy.py {said}" in done.stderr if said else "ended by" not in done.stderr, done.stderr
