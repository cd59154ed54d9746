"""From a hybrid network to sequence-trained ones by the step's function: what rises, what is written, what is
refused.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.ali import AliSet, AliWriter
from pipeline.artifacts.arpa import Arpa, train_unigram
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import load_hmm
from pipeline.base.errors import ConfigError, DataError, MismatchError
from pipeline.base.files import read_json, write_json
from pipeline.graph.decoding import build_decoding_graph, expand_phone_graph
from pipeline.graph.phone_lm import phone_ngram
from pipeline.nn.hybrid import train_viterbi
from pipeline.nn.model import load_acoustic_model, load_scorer
from pipeline.nn.nhmm import train_nhmm
from pipeline.nn.options import NhmmOptions, ViterbiOptions
from pipeline.nn.sequence_options import SequenceOptions
from pipeline.nn.sequence_training import Sources, lm_scores, same_phone, select_parameters, train_sequence
from pipeline.tasks.align import AlignOptions, align
from tests.nn.conftest import WORDS

SHAPE = dict(
    encoder="tdnn", layers=1, dim=16, dilations=(1,), batch_frames=400, time_masks=0, feature_masks=0, device="cpu"
)
OPTIONS = SequenceOptions(
    epochs=2,
    batch_frames=400,
    learning_rate=1e-3,
    acoustic_scale=0.5,
    transition_scale=0.3,
    lattice_beam=20.0,
    device="cpu",
)


@pytest.fixture(scope="module")
def root(tones, tmp_path_factory) -> Path:
    """A neural HMM, its alignment, a hybrid network on it that is not finished, and graphs of words and phones."""
    out = tmp_path_factory.mktemp("sequence")
    lang = Lang.load(tones.lang)
    train_nhmm(
        tones.data, tones.lang, out / "nhmm", NhmmOptions(epochs=6, learning_rate=5e-3, prior_scale=0.1, **SHAPE)
    )
    align(load_scorer(out / "nhmm"), lang, tones.data, out / "ali", AlignOptions(), "nhmm")
    train_viterbi(
        tones.data, tones.lang, out / "ali", out / "hybrid", ViterbiOptions(epochs=3, learning_rate=5e-3, **SHAPE)
    )
    hmm = load_hmm(out / "hybrid")
    train_unigram([list(WORDS)] * 3).save(out / "lm.arpa")
    build_decoding_graph(lang, Arpa.load(out / "lm.arpa"), hmm).save(out / "graph")
    words = [[lang.words.id(w) for w in WORDS]] * 2 + [[lang.words.id(w) for w in reversed(list(WORDS))]]
    expand_phone_graph(phone_ngram(lang, words, 2), lang, hmm).save(out / "den")
    return out


def sources(tones, root: Path, graph: str | None = "graph", model: str = "hybrid") -> Sources:
    return Sources(
        tones.lang,
        root / model,
        None if graph is None else root / graph,
        root / "lm.arpa" if graph == "graph" else None,
    )


def run(
    tones,
    root: Path,
    out: Path,
    graph: str | None = "graph",
    model: str = "hybrid",
    dev: bool = False,
    ali: Path | None = None,
    **changed,
) -> dict:
    options = dataclasses.replace(OPTIONS, **changed)
    return train_sequence(
        tones.data, sources(tones, root, graph, model), out, options, ali, tones.data if dev else None
    )


@pytest.mark.parametrize(
    "criterion, graph", [("mmi", "graph"), ("lfmmi", "den"), ("bmmi", "graph"), ("smbr", "graph"), ("realign", None)]
)
def test_each_criterion_improves_its_objective(tones, root, tmp_path, criterion: str, graph: str | None) -> None:
    facts = run(tones, root, tmp_path / "out", graph, dev=True, criterion=criterion, epochs=3)
    _, _, meta = load_acoustic_model(tmp_path / "out")
    losses = [e["dev_loss"] for e in meta.epochs]
    assert losses[-1] < losses[0] and meta.criterion == criterion
    assert facts["utterances"] == 24 and facts["cost_over_ce"] > 0 and facts["empty"] == facts["zero_numerator"] == 0
    assert 0 < facts["frame_error"] < 1 and 0 < facts["frame_error_before"] < 1
    assert 0 <= facts["cancelled"] <= 1 and 0 <= facts["rejected"] < 0.5
    assert not (tmp_path / "out" / "epochs").exists() and (tmp_path / "out" / "failed.txt").exists()
    assert load_scorer(tmp_path / "out").num_pdfs == load_scorer(root / "hybrid").num_pdfs


def test_a_neural_hmm_keeps_its_transitions(tones, root, tmp_path) -> None:
    run(tones, root, tmp_path / "out", model="nhmm", epochs=1)
    before, after = (load_acoustic_model(d)[0].transitions.state_dict() for d in (root / "nhmm", tmp_path / "out"))
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert read_json(tmp_path / "out" / "transitions.json") == read_json(root / "nhmm" / "transitions.json")


def test_equal_seeds_give_equal_bits_also_when_interrupted(tones, root, tmp_path, monkeypatch) -> None:
    from pipeline.nn import train as loop

    run(tones, root, tmp_path / "a")
    keep = loop._Run._keep_epoch
    monkeypatch.setattr(loop._Run, "_keep_epoch", lambda self: keep(self) if self.state.epoch < 2 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tones, root, tmp_path / "b")
    monkeypatch.undo()
    run(tones, root, tmp_path / "b")
    states = [load_acoustic_model(tmp_path / d)[0].state_dict() for d in "ab"]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


@pytest.mark.parametrize("place", ["batch", "end"])
def test_failures_outlive_an_interruption(tones, root, tmp_path, monkeypatch, place) -> None:
    """In the last epoch, or between it and the model's directory."""
    from pipeline.nn import sequence_training
    from pipeline.nn import train as loop

    narrow = dict(graph_beam=1.2, graph_max_active=12, retries=0, max_missing=1.0, max_failed=1.0, batch_frames=200)
    whole = run(tones, root, tmp_path / "a", **narrow)
    assert 2 < whole["narrow"] < 24
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    save = loop._Run._save

    def stopping(self):
        save(self)
        if self.state.epoch == OPTIONS.epochs - 1 and self.state.step >= 4:
            raise ZeroDivisionError

    if place == "batch":
        monkeypatch.setattr(loop._Run, "_save", stopping)
    else:
        monkeypatch.setattr(sequence_training, "save_acoustic_model", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tones, root, tmp_path / "b", **narrow)
    monkeypatch.undo()
    resumed = run(tones, root, tmp_path / "b", **narrow)
    names = ("zero_numerator", "empty", "missing", "narrow")
    assert [resumed[name] for name in names] == [whole[name] for name in names]
    assert (tmp_path / "a" / "failed.txt").read_bytes() == (tmp_path / "b" / "failed.txt").read_bytes()


def test_only_the_last_layer(tones, root, tmp_path) -> None:
    run(tones, root, tmp_path / "out", update="last", epochs=1)
    before, after = (load_acoustic_model(d)[0].state_dict() for d in (root / "hybrid", tmp_path / "out"))
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed == {"output.weight", "output.bias"}
    model = load_acoustic_model(root / "hybrid")[0]
    select_parameters(model, "all")
    assert all(p.requires_grad for p in model.parameters())


def test_without_silence_and_with_an_alignment(tones, root, tmp_path) -> None:
    plain = run(tones, root, tmp_path / "a", epochs=1)
    speech = run(tones, root, tmp_path / "b", epochs=1, update_silence=False, ali=root / "ali", ali_tolerance=2)
    assert plain["loss"] != speech["loss"]


def test_states_of_a_phone_are_the_same_phone(root) -> None:
    hmm = load_hmm(root / "hybrid")
    same = same_phone(hmm)
    assert torch.equal(same, same.T) and bool(same.diagonal().all())
    a, b = (torch.from_numpy(hmm.transitions.pdf[hmm.transitions.phone == hmm.phones.id(p)]).long() for p in "ab")
    assert bool(same[a[0], a[-1]]) and not bool(same[a[0], b[0]])


def test_what_does_not_fit_is_refused(tones, root, tmp_path) -> None:
    with pytest.raises(ConfigError, match="--graph"):
        run(tones, root, tmp_path / "out", None)
    with pytest.raises(ValueError, match="max_active 100 must be above min_active 200"):
        SequenceOptions(min_active=200, max_active=100)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("graph.safetensors", "words.txt"):
        (other / name).write_bytes((root / "graph" / name).read_bytes())
    (other / "graph.json").write_text(
        (root / "graph" / "graph.json").read_text().replace(load_hmm(root / "hybrid").tree.id, "another")
    )
    with pytest.raises(MismatchError, match="tree"):
        train_sequence(tones.data, Sources(tones.lang, root / "hybrid", other), tmp_path / "out", OPTIONS)


@pytest.mark.parametrize("criterion, graph", [("lfmmi", "den"), ("lfmmi", "graph"), ("mmi", "den")])
def test_a_graph_of_phones_has_no_language_model_of_words(tones, root, tmp_path, criterion, graph) -> None:
    found = dataclasses.replace(sources(tones, root, graph), lm=root / "lm.arpa")
    with pytest.raises(ConfigError, match="--lm .*graph of phones"):
        train_sequence(tones.data, found, tmp_path / "out", dataclasses.replace(OPTIONS, criterion=criterion))


def test_a_language_model_without_a_word_of_the_transcripts(tones, root, tmp_path) -> None:
    train_unigram([["AB", "CA"]]).save(tmp_path / "lm.arpa")
    with pytest.raises(DataError, match="gives no probability to the transcript .*BC"):
        train_sequence(
            tones.data,
            Sources(tones.lang, root / "hybrid", root / "graph", tmp_path / "lm.arpa"),
            tmp_path / "out",
            OPTIONS,
        )
    with pytest.raises(DataError, match="gives no probability"):  # in held-out data such utterances are only left out
        lm_scores(tmp_path / "lm.arpa", Lang.load(tones.lang), [[1, 2, 3]])
    assert (
        np.isfinite(lm_scores(tmp_path / "lm.arpa", Lang.load(tones.lang), [[1, 2, 3], [1], [3]], strict=False))
        .tolist()
        .count(True)
        == 2
    )


@pytest.mark.parametrize(
    "narrow",
    [
        dict(denominator="lattice", beam=0.1, lattice_beam=0.01, min_active=0, max_active=2),
        dict(denominator="graph", graph_beam=0.1, graph_max_active=2),
    ],
)
def test_too_narrow_a_beam_stops_the_training_with_advice(tones, root, tmp_path, narrow: dict) -> None:
    with pytest.raises(DataError, match="--(lattice-|graph-)?beam"):
        run(tones, root, tmp_path / "out", retries=0, max_missing=0.05, **narrow)


def changed_alignment(tones, root, out: Path, change) -> Path:
    """The alignment with what `change` makes of each of its items, which may be none."""
    ali, hmm = AliSet.load(root / "ali"), load_hmm(root / "ali")
    with AliWriter(out, ali.header, hmm.tree, hmm.topo, hmm.transitions, Lang.load(tones.lang).words) as writer:
        for cut_id in ali:
            item = change(ali[cut_id])
            if item is not None:
                writer.write(item)
    return out


def test_alignments_that_do_not_fit_are_named(tones, root, tmp_path, caplog) -> None:
    """One that is missing is left out, more than 5 % are an error; so is one of another length."""
    for number, missing in enumerate((("utt00",), ("utt00", "utt01"))):
        ali = changed_alignment(
            tones, root, tmp_path / f"ali{number}", lambda item: None if item.cut_id in missing else item
        )
        if number:
            with pytest.raises(DataError, match="no alignment for 2 of the 24 utterances of .*, the first: 'utt00'"):
                run(tones, root, tmp_path / "out", ali=ali)
        else:
            facts = run(tones, root, tmp_path / "one", epochs=1, ali=ali, ali_tolerance=2)
            assert facts["utterances"] == 23 and "no alignment for 1 of the 24 utterances" in caplog.text

    def shorter(item):
        if item.cut_id != "utt03":
            return item
        return dataclasses.replace(item, transition_ids=item.transition_ids[:-9], confidence=None)

    ali = changed_alignment(tones, root, tmp_path / "short", shorter)
    with pytest.raises(MismatchError, match="do not belong together: utterance 'utt03' has .* labels and .* label fr"):
        run(tones, root, tmp_path / "out", ali=ali)
    header = read_json(ali / "ali.json")
    header["header"]["frame_shift"] = 0.02
    write_json(ali / "ali.json", header)
    with pytest.raises(MismatchError, match="every 20 ms.*an alignment by .*/hybrid itself fits") as caught:
        run(tones, root, tmp_path / "out", ali=ali)
    assert "--subsampling" not in str(caught.value)  # which the step lacks


def test_benchmark_of_denominators(tones, root, run_script) -> None:
    """A wide beam over the graph is exact; a narrow one, or lattices, can only lose."""
    benchmark = Path(__file__).resolve().parents[2] / "benchmarks" / "denominators.py"
    options = ["--json", "--repeats", "1", "--batches", "2", "--batch-frames", "400"]
    done = run_script(sys.executable, benchmark, root / "hybrid", root / "graph", tones.data, *options)
    assert done.returncode == 0, done.stderr
    rows = {row["way"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert (
        rows["graph 18"]["mean_gap"] == pytest.approx(0.0, abs=1e-3)
        and rows["our lattice 10/8"]["faster_than_lattice"] == 1
    )
    assert all(row["mean_gap"] > -1e-3 and row["failed"] == 0 and row["ms_per_second"] > 0 for row in rows.values())
    assert rows["graph 10"]["occupancy_error"] >= rows["graph 18"]["occupancy_error"] >= 0
