"""Every recipe twice in one place, the second time with other hashes of strings: the same bytes.

egs/tiny runs in small, as for utils/faults.py, with the trainings of other recipes; the others on their clones. What the
recipes of an4, samromur and speechocean762 run beside these needs their corpora.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.clones import swbd, test_commonvoice, test_malromur, test_timit
from tests.clones.commonvoice import make_language
from tests.clones.librispeech import make_librispeech, make_resources
from tests.clones.malromur import make_malromur
from tests.clones.speech import ROOT, recipe_copy, run, speech, voice, write_audio
from tests.clones.test_librispeech import size_copy
from tests.clones.timit import make_timit
from utils.fault_injection.recipe import snapshot, stamps

pytestmark = [
    pytest.mark.clone,
    pytest.mark.skipif(
        shutil.which("gcc") is None or sys.platform != "linux", reason="utils/faults.py needs gcc, Linux"
    ),
]
TIMES = ("report/index.html", "report/stamp.json")  # how long each step took stands there, and an id of that
RECIPES = ("commonvoice", "librispeech", "malromur", "swbd", "timit", "yesno")


def make_yesno(root: Path) -> Path:
    """60 recordings of eight words by one speaker, at 8 kHz."""
    says = voice(1)
    for number in range(60):
        digits = f"{number * 4:08b}"
        words = [speech("yes" if digit == "1" else "no", says, 8000, 8 * number + i) for i, digit in enumerate(digits)]
        write_audio(root / f"{'_'.join(digits)}.wav", np.concatenate(words), 8000)
    return root


def ready(name: str, where: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Sequence[Any]]:
    """A recipe's copy with its clone, and the command that runs it."""
    work, corpus = where / "work", where / "corpus"
    if name == "timit":
        made = make_timit(corpus)
        return recipe_copy(name, work, test_timit.SMALL), ["--corpus-root", made, "--systems", "own"]
    if name == "malromur":
        monkeypatch.syspath_prepend(str(ROOT / "egs" / name / "local"))
        import prepare_malromur

        made = make_malromur(corpus, prepare_malromur.part_of)
        # Several replicas that do not wait for one another have no order of updates.
        small = {**test_malromur.SMALL, "dnn_mmi": {**test_malromur.SMALL["dnn_mmi"], "replicas": 1}}
        return recipe_copy(name, work, small, also=("samromur",)), ["--corpus-root", made]
    if name == "commonvoice":
        made = make_language(corpus, "ro").parent
        recipe = recipe_copy(name, work, test_commonvoice.SMALL, also=("samromur",))
        return recipe, ["--corpus-root", made, "--ali", "both", "--e2e", "ctc"]
    if name == "librispeech":
        made, resources = make_librispeech(corpus), make_resources(where / "lm")
        recipe = size_copy(work, "960h").parent
        chosen = ["--models", "tri1 tri3", "--ali", "gmm", "--e2e", "ctc transducer"]
        return recipe, ["--size", "960", "--corpus-root", made, "--lm-root", resources, *chosen]
    if name == "swbd":
        return recipe_copy(name, work, {"data": {"dev_utterances": 30}}), ["--corpus-root", swbd.make(corpus)]
    return recipe_copy("yesno", work, {}), ["--corpus-root", make_yesno(corpus)]


def made_by_steps(recipe: Path) -> dict[str, str]:
    """Digests of what lies in directories with a stamp."""
    within = tuple(f"{directory}/" for directory in stamps(recipe))
    return {k: v for k, v in snapshot(recipe).items() if k.startswith(within) and not k.endswith(TIMES)}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_on_its_clone(name, tmp_path, monkeypatch):
    recipe, options = ready(name, tmp_path, monkeypatch)
    found = []
    for seed in ("1", "7"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        run(recipe, "./run.sh", *options)
        found.append(made_by_steps(recipe))
        for directory in sorted(stamps(recipe)):
            shutil.rmtree(recipe / directory, ignore_errors=True)  # some lie in others
    first, second = found
    assert len(first) > 50 and first.keys() == second.keys()
    assert not (different := sorted(name for name in first if first[name] != second[name])), different


def test_tiny_in_small_and_the_trainings_of_other_recipes(tmp_path, monkeypatch):
    campaign = [sys.executable, ROOT / "utils" / "faults.py", tmp_path / "campaign"]
    tiny = ROOT / "egs" / "tiny"
    run(tiny, *campaign, "--count", "0")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    run(tiny, *campaign, "--again", "another seed of hashes")
    (row,) = map(json.loads, (tmp_path / "campaign" / "again.jsonl").read_text().splitlines())
    assert row["files"] > 500 and all(name.endswith(TIMES) for name in row["different"]), row
