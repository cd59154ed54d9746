"""Steps as commands: what they make, that they are skipped when up to date, killed and restarted, or told nonsense."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.steps.small_recipe import ROOT, STEPS, command, environment, results, run, run_step

SLOW = {"align", "decode", "nhmm"}  # steps whose interruption takes about ten seconds to test or more


def test_everything_is_up_to_date_the_second_time(recipe):
    for name in STEPS:
        done = run_step(name, recipe)
        assert done.returncode == 0 and "up to date" in done.stderr, (name, done.stderr)


def test_another_option_is_refused_and_named(recipe):
    done = run_step("mono", recipe, "--power", "0.5")
    assert done.returncode == 2 and "power" in done.stderr and "--overwrite" in done.stderr


def test_the_alignment_covers_the_gold_phones(recipe):
    """Even this little training finds most of the words' places: the median word starts within 100 ms of the truth."""
    from pipeline.artifacts.ali import AliSet
    from pipeline.artifacts.corpus import iter_cuts

    ali = AliSet.load(recipe / "exp/mono_ali")
    gold = {c["id"]: c["supervisions"][0]["alignment"]["word"] for _, c in iter_cuts(recipe / "data/mfcc")}
    assert set(ali) <= set(gold) and len(ali) >= 23
    errors = []
    for cut_id in ali:
        words = ali.words(cut_id)
        assert [w.symbol for w in words] == [g[0] for g in gold[cut_id]]
        errors += [abs(w.start - g[1]) for w, g in zip(words, gold[cut_id])]
        assert ali[cut_id].confidence.min() >= 0 and ali[cut_id].confidence.max() <= 1.001
    assert sorted(errors)[len(errors) // 2] < 0.1


def start_and_kill(name: str, directory: Path, delay: float) -> bool:
    """Starts a step and kills it, with all it has started, that many seconds after it began to write.

    Returns:
        whether it was interrupted: it had begun and its output was not there yet.
    """
    output = directory / STEPS[name][0]
    unfinished = output.with_name(output.name + ".tmp")
    process = subprocess.Popen(
        command(name, directory),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not unfinished.exists() and process.poll() is None:
        time.sleep(0.001)
    time.sleep(delay)
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL and unfinished.exists() and not output.exists()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in STEPS]
)
def test_killed_and_rerun_gives_the_same(recipe, tmp_path, name):
    """kill -9 at a moment at which the step writes, then the same command again: equal to the undisturbed run."""
    output = STEPS[name][0]
    for other in ("data", "exp"):
        shutil.copytree(recipe / other, tmp_path / other)
    delay = random.Random(name).random() * json.loads((recipe / output / "stamp.json").read_text())["seconds"]
    interrupted = False
    for _ in range(6):  # the machine may be faster now: then earlier
        shutil.rmtree(tmp_path / output, ignore_errors=True)
        interrupted = start_and_kill(name, tmp_path, delay)
        if interrupted:
            break
        delay /= 2
    assert interrupted, f"was complete {delay * 2:.3f} s after it began to write"
    done = run_step(name, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    got, expected = (results(d / output, [tmp_path, recipe]) for d in (tmp_path, recipe))
    assert got.keys() == expected.keys()
    assert [k for k in got if got[k] != expected[k]] == []


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, (path, old)
    path.write_text(text.replace(old, new, 1))


@pytest.fixture
def broken(recipe, tmp_path) -> Path:
    """A copy of the recipe to break."""
    for part in ("data", "exp"):
        shutil.copytree(recipe / part, tmp_path / part)
    return tmp_path


def run_afresh(name: str, directory: Path) -> subprocess.CompletedProcess:
    """Runs a step whose output was removed before, so that it has to look at its broken inputs."""
    shutil.rmtree(directory / STEPS[name][0])
    return run_step(name, directory)


def expect_refusal(done: subprocess.CompletedProcess, *needles: str) -> None:
    assert done.returncode == 2, (done.returncode, done.stderr[-2000:])
    for needle in needles:
        assert needle in done.stderr, (needle, done.stderr[-2000:])


def test_lexicon_word_without_phones(broken):
    with open(broken / "data/local/lexicon.txt", "a") as f:
        f.write("MUTE\n")
    expect_refusal(run_step("lang", broken, "--overwrite"), "lexicon.txt:", "'MUTE' has no phones")


def test_tampered_lang(broken):
    replace_in(broken / "data/lang/lang.json", '"silence_prob": 0.5', '"silence_prob": 0.25')
    expect_refusal(run_afresh("mono", broken), "files were changed after the lang was made")


def test_word_outside_the_lexicon(broken):
    lexicon = broken / "data/local/lexicon.txt"
    lines = lexicon.read_text().splitlines()
    first = (broken / "data/local/lm_text.txt").read_text().split()[0]
    lexicon.write_text("\n".join(line for line in lines if line.split()[0] != first) + "\n")
    assert run_step("lang", broken, "--overwrite").returncode == 0
    expect_refusal(run_afresh("mono", broken), "cuts.jsonl.gz", f"word {first!r} is not in the lexicon")


def test_lang_of_another_model(broken):
    done = run([*command("lang", broken)[:3], str(broken / "data/lang_grapheme"), "--unit", "grapheme"])
    assert done.returncode == 0, done.stderr
    args = command("align", broken, "--overwrite")
    args[3] = str(broken / "data/lang_grapheme")
    expect_refusal(run(args), "exp/mono", "data/lang_grapheme", "do not belong together")


def test_truncated_audio(broken):
    part = broken / "data/local/train"
    cuts = gzip.decompress((part / "cuts.jsonl.gz").read_bytes()).decode()
    audio = Path(json.loads(cuts.splitlines()[3])["recording"]["sources"][0]["source"])
    copy = broken / "truncated.flac"
    copy.write_bytes(audio.read_bytes()[:-1500])
    (part / "cuts.jsonl.gz").write_bytes(gzip.compress(cuts.replace(str(audio), str(copy)).encode()))
    done = run([sys.executable, str(ROOT / "utils/validate_data.py"), str(part)])
    expect_refusal(done, "cuts.jsonl.gz:4", "truncated.flac")


def test_damaged_model(broken):
    path = broken / "exp/mono/model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    expect_refusal(run_afresh("align", broken), "model.safetensors", "damaged")


def test_missing_alignment(broken):
    """Alignments of other cuts than the data's: refused before any training."""
    args = command("viterbi", broken, "--overwrite")
    args[2] = str(broken / "data/mfcc_test")
    expect_refusal(run(args), "exp/mono_ali has no alignment for 4 of the 4")
