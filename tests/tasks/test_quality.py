"""Quality of alignments: figures by hand, and what stands out."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.ali import AliHeader, AliSet
from pipeline.artifacts.ali_source import Alignment
from pipeline.artifacts.lang import make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.model_dir import HmmDir
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree
from pipeline.base.errors import MismatchError
from pipeline.base.spool import JsonSpool
from pipeline.tasks.quality import (
    FEWEST,
    FLAGGED,
    Quality,
    _Judge,
    _snr,
    flagged,
    measure,
    suspicion,
    write_quality,
    write_words,
)

NAN = float("nan")


def quality(name: str, **figures: float) -> Quality:
    usual = dict(gop=-1.0, worst_word=-3.0, silence=-0.5, duration=0.4, log_like=-90.0, confidence=0.98)
    rest = dict(least_confidence=0.6, speech=0.7, words_per_second=3.0, snr=20.0)
    return Quality(name, **{**usual, **rest, **figures})


def corpus(num: int) -> list[Quality]:
    rng = np.random.default_rng(1)
    return [
        quality(f"u{i}", gop=-1 + 0.2 * rng.standard_normal(), worst_word=-3 + rng.standard_normal(),
                duration=0.4 + 0.05 * rng.standard_normal())
        for i in range(num)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "figures", [{"gop": -4.0}, {"worst_word": -14.0}, {"silence": -6.0}, {"duration": 1.4}, {"gop": NAN}]
)
def test_one_bad_figure_is_enough(figures, tmp_path):
    found = [*corpus(100), quality("bad", **figures)]
    score = suspicion(found)
    assert score[-1] >= FLAGGED and (score[:-1] > FLAGGED).mean() < 0.05
    assert write_quality(tmp_path / "q.csv", found) >= int("gop" not in figures or figures["gop"] == figures["gop"])
    rows = list(csv.DictReader((tmp_path / "q.csv").open()))
    assert rows[0]["utterance"] == "bad" and len(rows) == 101
    assert rows[0]["gop"] == ("" if "gop" in figures and np.isnan(figures["gop"]) else f"{found[-1].gop:.4f}")


def test_good_figures_never_add_up():
    found = [*corpus(100), quality("best", gop=0.0, worst_word=0.0, silence=0.0, duration=0.0)]
    assert suspicion(found)[-1] == 0


def test_few_utterances_have_nothing_to_stand_out_from():
    assert not suspicion([*corpus(FEWEST - 2), quality("bad", gop=-50.0)]).any()


def aligned(names: tuple[str, str] = ("a", "b"), spans: tuple[int, ...] = (10, 4, 6), **times: float):
    """A scorer and an alignment of an utterance: silence and two words of one phone each, of so many frames."""
    lang = make_lang(Lexicon([Pronunciation(x, (p,)) for x, p in zip("AB", names)]), speech_states=1)
    tree = monophone_tree(lang.phones, lang.topo)
    transitions = TransitionModel(tree, lang.topo)
    state = {lang.phones.name(int(p)): i for i, p in enumerate(transitions.phone)}
    tids = np.repeat([2 * state[p] for p in ("SIL", *names)], spans).astype(np.int32)
    tids[np.cumsum(spans) - 1] += 1
    words = np.array([[lang.words.id("A"), spans[0]], [lang.words.id("B"), sum(spans[:2])]], dtype=np.int32)
    header = AliHeader(
        lang.topo.id, tree.id, lang.id, producer="test", **{"frame_shift": 0.01, "frame_offset": 0.0} | times
    )
    ali = AliSet(header, transitions, lang.words, [Alignment("u", tids, -40.0, words)], "exp/ali")

    class Scorer:
        hmm = HmmDir(Path("exp/mono"), lang.phones, lang.topo, tree, transitions)
        frame_shift, frame_offset = 0.01, 0.0

    return Scorer(), ali


@pytest.mark.parametrize(
    "other, message",
    [
        ({"frame_shift": 0.0025}, "exp/ali and exp/mono .* frame every 2.5 ms, a model with one every 10 ms"),
        ({"frame_offset": 0.03}, "first frame begins at 30 ms, the model's at 0 ms"),
        ({"names": ("a", "c")}, "their phones.txt differ"),
    ],
)
def test_a_model_of_other_frames_or_phones_is_refused(other, message, monkeypatch):
    monkeypatch.setattr("pipeline.tasks.quality.check_data", lambda model, data_dir: None)
    with pytest.raises(MismatchError, match=message):
        measure(aligned()[0], aligned(**other)[1], "data")


def test_figures_of_an_utterance(tmp_path):
    """Scores that put every frame on the aligned phone give 0; a frame on another one counts with its distance."""
    scorer, ali = aligned()
    transitions, tids = ali.transitions, ali["u"].transition_ids
    scores = np.full((20, transitions.num_pdfs), -10.0)
    pdf = transitions.tid_pdf()[tids]
    scores[np.arange(20), pdf] = 0.0
    told, words = _Judge(scorer, ali).of("u", [scores])
    assert told.gop == told.worst_word == told.silence == 0 and told.log_like == -2 and told.speech == 0.5
    assert told.words_per_second == pytest.approx(20) and np.isnan(told.confidence)
    scores[15, pdf[15]], scores[3, pdf[3]] = -13.0, -15.0
    told, words = _Judge(scorer, ali).of("u", [scores])
    assert told.gop == pytest.approx(-3 / 10) and told.worst_word == pytest.approx(-3 / 6)
    assert told.silence == pytest.approx(-5 / 10)
    assert [(w.symbol, w.start, w.end) for w in words] == [
        ("A", pytest.approx(0.1), pytest.approx(0.14)), ("B", pytest.approx(0.14), pytest.approx(0.2)),
    ]  # fmt: skip
    mean = np.log(np.exp(scores).mean(1))
    own = scores[np.arange(20), pdf]
    assert words[1].evidence == pytest.approx((own - mean)[14:].mean())
    scores[14:, pdf[14]] -= 5.0  # below all other labels: the word was not said
    scores[14:, :2] = -10.0
    told, words = _Judge(scorer, ali).of("u", [scores])
    spool = JsonSpool()
    spool["u"] = words
    assert write_words(tmp_path / "words.csv", [told], spool) == (1, 2)
    rows = list(csv.DictReader((tmp_path / "words.csv").open()))
    assert [(r["utterance"], r["word"], r["flagged"]) for r in rows] == [("u", "A", "0"), ("u", "B", "1")]


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("wrong", [0, 20])
def test_the_limit_follows_how_widely_right_texts_scatter(scale, wrong):
    """Right texts whose scores fall off exponentially: 4 % of them at most, and wrong ones far off are found."""
    rng = np.random.default_rng(3)
    score = np.append(rng.exponential(scale * 1.5, 2000), np.full(100 * wrong // 10, 15.0 * scale + 7))
    found = flagged(score)
    assert found[2000:].all() and found[:2000].mean() < 0.05
    assert flagged(np.array([6.0, 8.0])).tolist() == [False, True] and not len(flagged(np.zeros(0)))


@pytest.mark.parametrize("frames, looked_at", [(5, True), (4, False)])
def test_silences_of_50_ms_are_looked_at(frames, looked_at):
    scorer, ali = aligned(spans=(frames, 4, 6))
    tids = ali["u"].transition_ids
    scores = np.full((len(tids), ali.transitions.num_pdfs), -10.0)
    scores[np.arange(len(tids)), ali.transitions.tid_pdf()[tids]] = 0.0
    scores[:frames] = [0.0 if pdf == scores[-1].argmax() else -2.0 for pdf in range(scores.shape[1])]
    assert _Judge(scorer, ali).of("u", [scores])[0].silence == (-2.0 if looked_at else 0.0)


def test_the_signal_to_noise_ratio_is_of_speech_over_silence():
    """100 ms of silence at amplitude 10, 100 ms of speech at 1000: 40 dB."""
    _, ali = aligned()
    samples = np.repeat([10, -1000], 1600).astype(np.int16)
    assert _snr(samples, 16000, ali, "u") == pytest.approx(40.0)
    assert np.isnan(_snr(np.repeat([0, 1000], 1600).astype(np.int16), 16000, ali, "u"))
