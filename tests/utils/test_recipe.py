"""utils/recipe.sh: what the options of all recipes mean, and that a wrong value ends the recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

UTILS = Path(__file__).resolve().parents[2] / "utils"

SCRIPT = f"""#!/usr/bin/env bash
# Usage: ./script [--ali ALI] [--e2e LIST] [--overwrite]
set -euo pipefail
ali=both
e2e=attention
overwrite=false
. {UTILS}/parse_options.sh
. {UTILS}/recipe.sh
printf '%s|' "$sources" "$e2e" "${{force[@]}}"
"""


@pytest.fixture
def script(write_script):
    """Runs the recipe with the arguments given."""
    return write_script(SCRIPT)


@pytest.mark.parametrize(
    "args, printed",
    [
        ([], "gmm nhmm|attention|"),
        (["--ali", "nhmm"], "nhmm|attention|"),
        (["--ali", "none", "--overwrite"], "|attention|--overwrite|"),
        (["--e2e", "ctc transducer"], "gmm nhmm|ctc transducer|"),
        (["--e2e", "none"], "gmm nhmm||"),
    ],
)
def test_values(script, args, printed):
    result = script(*args)
    assert (result.returncode, result.stdout) == (0, printed), result.stderr


@pytest.mark.parametrize(
    "args", [["--ali", "hmm"], ["--ali", ""], ["--e2e", ""], ["--e2e", "ctc rnnt"], ["--e2e", "ctc none"]]
)
def test_wrong_values(script, args):
    result = script(*args)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"{args[0]} is" in result.stderr and f"'{args[1]}'" in result.stderr
