"""RESULTS.md and results.json from experiment directories."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.base import stamp
from pipeline.base.errors import DataError
from pipeline.base.files import read_json, write_json, write_jsonl
from pipeline.experiments import report
from pipeline.experiments.results_page import write_report
from pipeline.experiments.system_names import system_name

ROOT = Path(__file__).resolve().parents[2]

WER = {"id": "mono", "part": "test", "metric": "wer", "value": 12.159, "low": 9.5, "high": 14.9}
WER["counts"] = {"errors": 94, "words": 773, "ins": 12, "dels": 20, "subs": 62}
TSE = {"id": "nhmm_fixed", "part": "dev", "metric": "tse_ms", "value": 31.25, "counts": {"skipped": 2}}


def add(recipe: Path, name: str, rows: list, model: str = "model", commit: str = "abc") -> Path:
    """A scoring step's output directory RECIPE/exp/NAME, made at a commit whatever this checkout is at."""
    source = recipe / "exp" / model
    if not source.exists():
        source.mkdir(parents=True)
        (source / "weights").write_text("1")
    out = recipe / "exp" / name
    work = stamp.Work("score", {"weight": 10}, {"model": stamp.artifact_id(source)})
    record = {"command_line": f"steps/score.py exp/{model} exp/{name}"}
    stamp.run(out, work, lambda tmp: write_json(tmp / "results.json", rows), {"model": source}, record=record)
    made = read_json(out / "stamp.json")
    write_json(out / "stamp.json", {**made, "code": {**made["code"], "revision": commit}})
    return out


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    add(tmp_path, "nhmm/score_dev", [TSE, {**TSE, "metric": "within_20ms", "value": 88.04}])
    add(tmp_path, "mono/decode_test", [WER])
    add(tmp_path, "mono/decode_dev", [{**WER, "part": "dev", "value": 10.0}])
    return tmp_path


def test_rows_are_complete_and_ordered(recipe):
    rows = report.collect(recipe)
    assert [(r["id"], r["part"], r["metric"]) for r in rows] == [
        ("mono", "dev", "wer"),
        ("mono", "test", "wer"),
        ("nhmm_fixed", "dev", "tse_ms"),
        ("nhmm_fixed", "dev", "within_20ms"),
    ]
    row = rows[1]
    assert row["command"] == "steps/score.py exp/model exp/mono/decode_test"
    assert row["config"] == {"weight": 10} and row["dir"] == "exp/mono/decode_test"
    assert "core" in row["device"] and {k: row[k] for k in WER} == WER


def test_files(recipe):
    (recipe / "conf").mkdir()
    (recipe / "conf" / "references.yaml").write_text(
        "- {id: mono, part: test, metric: wer, value: 12.16, source: Their programs}\n"
        "- {id: mono, part: test, metric: wer, value: 13.07, label: fixed, source: Their programs at weight 10}\n"
        "- {id: tri1, part: test, metric: wer, value: 9.31, source: Their programs}\n"
    )
    write_jsonl(
        recipe / "exp" / "stage_times.jsonl",
        [
            {"stage": 3, "title": "GMM", "seconds": 90.0, "made": 4, "ok": False},
            {"stage": 3, "title": "GMM", "seconds": 187.2, "made": 8, "ok": True},
            {"stage": 3, "title": "GMM", "seconds": 0.9, "made": 0, "ok": True},
            {"stage": 0, "title": "data", "seconds": 4.0, "made": 1, "ok": True},
        ],
    )
    write_report(recipe, "corpus")
    text = (recipe / "RESULTS.md").read_text()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    head = "| system | dev (%) | test (%) | errors on test: inserted + deleted + substituted | others [a], test | fixed [b], test |"
    assert head in lines
    line = "| GMM, monophones | 10.00 [9.50, 14.90] | 12.16 [9.50, 14.90] | 94 = 12 + 20 + 62 | 12.16 | 13.07 |"
    assert line in lines
    assert "| GMM, triphones | | | | 9.31 | |" in lines
    assert "| system | TSE (ms) | within 20 ms (%) |" in lines and "Part: dev." in lines
    assert "| nhmm_fixed | 31.2 | 88.0 |" in lines
    assert "| 3 | GMM | 3 min 07 s |" in lines
    assert "Not ours: [a] Their programs; [b] Their programs at weight 10." in text
    assert "test: 773 words." in text
    results = read_json(recipe / "results.json")
    assert [r["id"] for r in results if r["metric"] == "seconds"] == ["stage_0", "stage_3"]
    assert all(set(r) <= set(report.ROW_KEYS) for r in results)


def test_results_are_written_again_where_the_experiments_are_gone(recipe, caplog):
    """The same page from results.json alone; what is here replaces what was stored, edited code's rows go."""
    write_jsonl(recipe / "exp/stage_times.jsonl", [{"stage": 3, "title": "GMM", "seconds": 9.0, "made": 4, "ok": True}])
    write_report(recipe)
    page = (recipe / "RESULTS.md").read_text()
    shutil.rmtree(recipe / "exp")
    with pytest.raises(DataError, match=r"no results\.json"):
        write_report(recipe)
    write_report(recipe, keep=True)
    assert (recipe / "RESULTS.md").read_text() == page
    add(recipe, "mono/decode_test", [{**WER, "value": 11.5}])
    rows = write_report(recipe, keep=True)
    assert {r["part"]: r["value"] for r in rows if r["metric"] == "wer"} == {"dev": 10.0, "test": 11.5}
    shutil.rmtree(recipe / "exp")
    stored = read_json(recipe / "results.json")
    write_json(recipe / "results.json", [{**r, "commit": "abc+"} if r["id"] == "mono" else r for r in stored])
    assert {r["id"] for r in write_report(recipe, keep=True)} == {"nhmm_fixed"}
    assert "2 rows were made by code with uncommitted changes" in caplog.text


@pytest.mark.parametrize(
    "name, words",
    [
        ("mono", "GMM, monophones"),
        ("tri3_chenone_first_pass", "GMM, speaker-adaptive, graphemes, first pass"),
        ("nhmm_speech_silence", "neural HMM"),
        ("nhmm_refined_own", "neural HMM, boundaries refined, the corpus's own speakers"),
        ("hybrid_nhmm", "network on neural HMM alignments"),
        ("mmi_sat", "network on GMM alignments, then MMI, adapted features"),
        ("hybrid_nhmm_sat", "network on neural HMM alignments, adapted features"),
        ("e2e_ctc_none", "CTC alone"),
        ("e2e_ctc_nhmm_ctc_1gram", "CTC supervised by neural HMM alignments, lexicon and 1-gram"),
        ("e2e_ctc_gmm_3gram", "CTC supervised by GMM alignments, with the 3-gram"),
        ("phones_tri1", "phone recogniser, GMM, triphones"),
        ("semi_ctc_ema", "CTC, pseudo-labels by a moving average"),
        ("semi_hybrid_decoded_again", "network, pseudo-labels by decoding twice"),
        ("semi_ctc_by_hybrid", "CTC, pseudo-labels of the hybrid"),
        ("semi_hybrid_all", "network, transcripts of all speakers"),
        ("hybrid", "hybrid"),
        ("hybrid_x", "hybrid_x"),
        ("mono_x", "mono_x"),
        ("mine", "mine"),
    ],
)
def test_names_of_systems(name, words):
    assert system_name(name) == words


def test_equal_input_equal_bytes(recipe):
    write_report(recipe)
    first = (recipe / "RESULTS.md").read_bytes(), (recipe / "results.json").read_bytes()
    write_report(recipe)
    assert ((recipe / "RESULTS.md").read_bytes(), (recipe / "results.json").read_bytes()) == first
    assert str(recipe).encode() not in b"".join(first)


def test_rows_of_a_remade_model_are_left_out(recipe, caplog):
    (recipe / "exp" / "other").mkdir()
    (recipe / "exp" / "other" / "weights").write_text("2")
    add(recipe, "tri1/decode_test", [{**WER, "id": "tri1"}], model="other")
    assert "tri1" in {row["id"] for row in report.collect(recipe)}
    (recipe / "exp" / "other" / "weights").write_text("3")
    assert "tri1" not in {row["id"] for row in report.collect(recipe)}
    assert "tri1/decode_test: left out" in caplog.text


def test_rows_of_edited_code_are_refused(recipe, caplog, run_script):
    add(recipe, "tri1/decode_test", [{**WER, "id": "tri1"}])
    add(recipe, "tri2/decode_test", [{**WER, "id": "tri2"}], commit="abc+")
    rows = write_report(recipe)
    assert "tri1" in {row["id"] for row in rows} and "tri2" not in {row["id"] for row in rows}
    assert "1 rows were made by code with uncommitted changes and are left out" in caplog.text
    assert "tri2" in {row["id"] for row in write_report(recipe, edited=True)}
    assert "A commit with + had uncommitted changes" in (recipe / "RESULTS.md").read_text()
    for directory in (recipe / "exp").iterdir():
        if directory.name != "tri2" and directory.is_dir():
            shutil.rmtree(directory)
    result = run_script(ROOT / "utils" / "results.py", str(recipe))
    assert result.returncode == 2 and "utils/results.py --edited" in result.stderr
    assert run_script(ROOT / "utils" / "results.py", str(recipe), "--edited").returncode == 0


def test_unfinished_directories_do_not_count(recipe):
    (recipe / "exp" / "mono.tmp").mkdir()
    write_json(recipe / "exp" / "mono.tmp" / "results.json", [{**WER, "id": "half"}])
    assert "half" not in {row["id"] for row in report.collect(recipe)}


@pytest.mark.parametrize(
    "row, message",
    [
        ([], "not an object"),
        ({k: v for k, v in WER.items() if k != "metric"}, "no metric"),
        ({**WER, "vaule": 1}, "unknown vaule"),
        ({**WER, "value": None}, "value is None"),
        ({**WER, "value": "12"}, "value is '12'"),
        ({**WER, "value": True}, "value is True"),
        ({**WER, "low": 15.0}, "low 15.0 is above high 14.9"),
        ({**WER, "part": ""}, "part is ''"),
        ({**WER, "id": 7}, "id is 7"),
    ],
)
def test_broken_rows(tmp_path, row, message):
    write_json(tmp_path / "exp" / "a" / "results.json", [WER, row])
    with pytest.raises(DataError, match=f"results.json: row 2: .*{message}"):
        report.collect(tmp_path)


def test_nan_row(tmp_path):
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "results.json").write_text(json.dumps([{**WER, "value": float("nan")}]))
    with pytest.raises(DataError, match="0.value: NaN is no finite number"):
        report.collect(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["a: 1\n", "- {id: mono, part: test, metric: wer, value: 1}\n", "- {id: mono, part: test, value: 1, source: x}\n"],
)
def test_broken_references(recipe, text):
    (recipe / "conf").mkdir()
    (recipe / "conf" / "references.yaml").write_text(text)
    with pytest.raises(DataError, match=r"references\.yaml"):
        write_report(recipe)
    assert not (recipe / "RESULTS.md").exists()


def test_broken_times(recipe):
    write_jsonl(recipe / "exp" / "stage_times.jsonl", [{"stage": 1}])
    with pytest.raises(DataError, match=r"stage_times\.jsonl:1"):
        write_report(recipe)


def test_command(recipe, run_script):
    result = run_script(ROOT / "utils" / "results.py", ".", "--title", "A corpus")
    assert result.returncode == 0, result.stderr
    assert (recipe / "RESULTS.md").read_text().startswith("# Results: A corpus\n")


def test_command_without_results(tmp_path, run_script):
    (tmp_path / "empty" / "exp").mkdir(parents=True)
    result = run_script(ROOT / "utils" / "results.py", "empty")
    assert result.returncode == 2 and "no results.json below empty/exp" in result.stderr
    assert "Traceback" not in result.stderr
