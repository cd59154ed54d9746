"""Benchmarks: their help is quick and their JSON lines hold what they promise."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest

from pipeline.artifacts.corpus import audio_recording, iter_cuts, save_data_dir, utterance
from tests.artifacts.test_corpus import write_audio

ROOT = Path(__file__).resolve().parent.parent
KEYS = {"shape", "backend", "forward_s", "backward_s", "peak_mib", "ratio_to_k2", "ratio_to_torch_ctc"}


@pytest.mark.parametrize(
    "name",
    [
        "full_sum.py",
        "corpus_epoch.py",
        "rnnt_loss.py",
        "auxiliary_heads.py",
        "encoder_options.py",
        "denominators.py",
        "parts.py",
        "cluster.py",
        "scaling.py",
        "streaming.py",
        "quality.py",
        "long_recordings.py",
        "adaptation.py",
        "report.py",
        "bias.py",
    ],
)
def test_help_is_quick(run_script, name):
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        assert run_script(sys.executable, ROOT / "benchmarks" / name, "--help").returncode == 0
        times.append(time.perf_counter() - begin)
    assert min(times) < 1, times


def test_json_lines(run_script):
    options = ["--json", "--repeats", "1", "--no-memory", "--shape", "1x50x10x50"]
    backends = ["--backend", "torch", "--backend", "torch ctc_loss"]
    done = run_script(sys.executable, ROOT / "benchmarks" / "full_sum.py", *options, *backends)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(r["shape"], r["backend"]) for r in rows] == [
        ("hmm 1x50x10x50", "torch"), ("ctc 1x50x10x50", "torch"), ("ctc 1x50x10x50", "torch ctc_loss")
    ]  # fmt: skip
    assert all(set(r) >= KEYS for r in rows) and rows[1]["score"] == pytest.approx(rows[2]["score"], rel=1e-4)
    assert rows[2]["ratio_to_torch_ctc"] == 1 and rows[0]["ratio_to_k2"] is None


def test_long_recordings(run_script):
    """Both ways give the same score; pieces need a fraction of the memory of the whole table."""
    options = ["--json", "--size", "20000x4000", "--job", "viterbi", "--threads", "1"]
    done = run_script(sys.executable, ROOT / "benchmarks" / "long_recordings.py", *options)
    assert done.returncode == 0, done.stderr
    whole, pieces = (json.loads(line) for line in done.stdout.splitlines())
    assert whole["score"] == pieces["score"] and whole["ratio_to_whole"] == 1
    assert pieces["peak_mib"] < 0.5 * whole["peak_mib"]


@pytest.mark.slow
def test_rnnt_losses(run_script):
    """All on one problem: ours is k2's, where that is installed; a pruned one, with a second loss added, is larger. Whole
    losses hold the logits of all (frame, label) pairs at least, a pruned one only some of them.
    """
    done = run_script(
        sys.executable, ROOT / "benchmarks" / "rnnt_loss.py", "--json", "--repeats", "1", "--shape", "8x200x40x200"
    )
    assert done.returncode == 0, done.stderr
    rows = {row["backend"]: row for row in map(json.loads, done.stdout.splitlines())}
    ours, theirs, pruned = rows["numba"], rows.get("k2"), rows["pruned"]
    assert (theirs is None) == (importlib.util.find_spec("k2") is None)
    logits_mib = 8 * 200 * (40 + 1) * 200 * 4 / 2**20
    assert pruned["loss"] > ours["loss"] and all(row["seconds"] > 0 for row in rows.values())
    assert ours["peak_mib"] > logits_mib and 0 < pruned["peak_mib"] < 0.6 * ours["peak_mib"]
    if theirs is not None:
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert theirs["ratio_to_k2"] == 1 and theirs["peak_mib"] > logits_mib


def test_delays_of_a_stream(monkeypatch):
    """Blocks leave the words as they are; what is settled is settled after it was said, and later with larger blocks."""
    from pipeline.graph.beam_search import Beams, BeamSearch
    from tests.graph.test_beam_search import real_case

    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import streaming

    graph, scores = real_case(400)
    search, means = BeamSearch(graph, Beams(0.5, 6.0, None, 5, 60)), []
    whole, _, _ = streaming.stream(search, scores, 400)
    for block in (1, 20, 100):
        path, settled, largest = streaming.stream(search, scores, block)
        assert path.label.tolist() == whole.label.tolist() and largest > 0
        late = list(streaming.delays(path, settled, 400))
        assert len(late) == len(path.spell(path.label.tolist())) > 30 and min(late) >= 0
        assert settled == sorted(settled) and all(frame % block == 0 for frame in settled)
        means.append(sum(late) / len(late))
    assert 0 < means[0] < means[1] < means[2] < 100


def test_auxiliary_heads(run_script):
    """Each network gets a row with the times of all steps."""
    options = ["--repeats", "1", "--num", "2", "--seconds", "1", "--labels", "20", "--vocab", "20"]
    done = run_script(sys.executable, ROOT / "benchmarks" / "auxiliary_heads.py", *options)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 7 and all(float(value) > 0 for row in rows for value in (row[1], row[2], row[4], row[6]))
    assert [float(row[8]) > 0 for row in rows[:4]] == [True] * 4 and {row[8] for row in rows[4:]} == {"-"}


def test_scaling(run_script, tmp_path):
    """Steps run on data repeated under new ids; each gives a line, and a second run takes its costs from the first."""
    cuts = [
        utterance(name, audio_recording(name, write_audio(tmp_path / f"{name}.wav")), "A B", name[0])
        for name in ("a1", "a2", "b1")
    ]
    recipe = tmp_path / "recipe"
    save_data_dir(recipe / "data/local/train", cuts)
    (recipe / "conf").mkdir()
    for kind in ("mfcc", "fbank"):
        (recipe / f"conf/{kind}.yaml").write_text(f"type: {kind}\n")
        arguments = [recipe / "data/local/train", recipe / f"data/{kind}/train", "--type", kind]
        assert run_script(sys.executable, ROOT / "steps/compute_feats.py", *arguments).returncode == 0
    command = [sys.executable, ROOT / "benchmarks/scaling.py", recipe, "--sizes", "1,3", "--work", tmp_path / "work"]
    command += ["--step", "validate_data", "--step", "compute_feats", "--out", tmp_path / "table.md"]
    done = run_script(*command, "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["step"], row["size"]) for row in rows] == [
        (step, size) for size in (1, 3) for step in ("validate_data", "compute_feats")
    ]
    assert all(row["seconds"] > 0 and row["peak_mib"] > 20 for row in rows)  # numpy alone takes as much
    assert [row["utterances"] for row in rows] == [3, 3, 9, 9]
    made = [cut["id"] for _, cut in iter_cuts(tmp_path / "work/3x/exp/feats")]
    assert len(set(made)) == 9 and made[0] == "a1-r0000"
    table = (tmp_path / "table.md").read_text()
    assert "| validate_data | " in table and "| compute_feats | " in table
    assert run_script(*command, "--json").stdout == done.stdout


def test_simulated_clusters():
    """Times by hand; the measured ones come back; scaling.md holds what the program prints."""
    from click.testing import CliRunner

    spec = importlib.util.spec_from_file_location("cluster", ROOT / "benchmarks" / "cluster.py")
    cluster = sys.modules["cluster"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cluster)
    row = {"name": "x", "hours": 2.0, "one": 21.0, "two": 14.0, "part": 1.5}
    stage = cluster.Stage.of(row, 1.0)  # 20 s are divided, 14 - 1 - 1.5 - 10 = 1.5 s are the step's alone
    assert (stage.work, stage.alone) == (10.0, 0.75)
    assert stage.seconds(2.0, 1) == 21.0 and stage.seconds(2.0, 2) == 14.0
    assert stage.seconds(200.0, 50) == pytest.approx(1.0 + 1.5 + 200 * (10 / 50 + 0.75))
    assert stage.saturates == pytest.approx(10 / 0.75)
    assert stage.seconds(stage.hours_in(1000.0, 8), 8) == pytest.approx(1000.0)
    assert cluster.Stage.of({**row, "most": 4}, 1.0).seconds(2.0, 8) == pytest.approx(2.5 + 20 / 4 + 1.5)
    cost = cluster.gpu(1e6, 1.0, 1.0, 2)
    assert cost["compute"] == pytest.approx(6e6 * 90_000 / 1e12 / 2) and cost["read"] == pytest.approx(0.1152)
    for found, given in zip(cluster.stages(), json.loads(cluster.MEASURED.read_text())["stages"]):
        assert found.seconds(given["hours"], 1) == pytest.approx(given["one"])
        assert found.seconds(given["hours"], 2) == pytest.approx(given["two"], abs=0.5)
    text = (ROOT / "benchmarks" / "scaling.md").read_text(encoding="utf-8")
    printed = CliRunner().invoke(cluster.main, []).output
    assert printed.strip() in text
