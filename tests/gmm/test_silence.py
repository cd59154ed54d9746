"""Frames of silence: they count for no transform, and data that has nothing else is refused."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from pipeline.artifacts.ali import Alignment, AliHeader, AliWriter
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree
from pipeline.base.errors import DataError
from pipeline.gmm import fmllr, triphone
from pipeline.gmm.model import GmmModel
from pipeline.gmm.mono import train_mono
from pipeline.gmm.new_speakers import estimate_fmllr
from pipeline.gmm.options import EstimateFmllrOptions, LdaMlltOptions, MonoOptions, SatOptions
from pipeline.gmm.sat import train_sat
from pipeline.gmm.triphone import train_lda_mllt
from tests.gmm.world import STATES, Utterance, World, draw, make_world_lang, random_speakers, write_corpus

LANG = make_world_lang()
TREE = monophone_tree(LANG.phones, LANG.topo)
TRANSITIONS = TransitionModel(TREE, LANG.topo)
RAW = dict(cmvn="none", deltas=0)
FEW = dict(num_gauss=20, num_iters=2, grow_iters=2, min_count=0.0, split_count=1.0)
TRI = dict(**FEW, realign_iters=(), num_leaves=10, leaf_min_count=20.0)


class Made(NamedTuple):
    """A corpus, its true alignment, monophones, and the number of its frames of speech and in all."""

    data: Path
    ali: Path
    mono: Path
    texts: dict[str, str]
    speech: int
    frames: int


def write_ali(directory: Path, utterances: list[Utterance], silent: bool = False) -> Path:
    """The true alignment, or one that takes all for silence."""
    first = {int(p): i for i, p in enumerate(TRANSITIONS.phone) if TRANSITIONS.state[i] == 0}
    header = AliHeader(LANG.topo.id, TREE.id, LANG.id, 0.01, 0.0, "truth")
    with AliWriter(directory, header, TREE, LANG.topo, TRANSITIONS, LANG.words) as writer:
        for u in utterances:
            tids = []
            for phone, begin, end in [("SIL", 0, len(u.feats))] if silent else u.spans:
                state = np.arange(end - begin) * (1 if phone == "SIL" else STATES) // (end - begin)
                leaves = np.append(state[1:] != state[:-1], True)
                tids += (2 * (first[LANG.phones.id(phone)] + state) + leaves).tolist()
            writer.write(Alignment(u.name, np.array(tids, dtype=np.int32), 0.0, np.zeros((0, 2), dtype=np.int32)))
    return directory


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    d = tmp_path_factory.mktemp("silence")
    utterances = draw(World.make(1), 40, 4, random_speakers(2, 3, 0.1))
    data, ali = write_corpus(d / "data", utterances), write_ali(d / "ali", utterances)
    train_mono(data, LANG, MonoOptions(**(FEW | {"num_iters": 6}), realign_iters=(1, 2, 3, 4), **RAW), d / "mono")
    speech = sum(end - begin for u in utterances for phone, begin, end in u.spans if phone != "SIL")
    frames = sum(len(u.feats) for u in utterances)
    assert speech < 0.9 * frames
    return Made(data, ali, d / "mono", {u.name: " ".join(u.words) for u in utterances}, speech, frames)


def watched(monkeypatch, module, name: str) -> list:
    """The first arguments of calls of a function."""
    seen, real = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **more: seen.append(args) or real(*args, **more))
    return seen


def test_lda_and_mllt_are_of_speech(made, tmp_path, monkeypatch):
    ldas, mllts = watched(monkeypatch, triphone, "lda"), watched(monkeypatch, triphone, "mllt")
    options = LdaMlltOptions(**TRI, **RAW, splice_left=0, splice_right=0, dim=4, mllt_iters=(2,))
    (tmp_path / "tri2").mkdir()
    train_lda_mllt(made.data, LANG, made.ali, options, tmp_path / "tri2")
    (((occ, _, _), _),) = ldas
    silence = TRANSITIONS.pdf[TRANSITIONS.phone == LANG.silence_id]
    assert (occ[silence] == 0).all() and occ.sum() == made.speech
    ((_, count),) = mllts
    assert count == pytest.approx(made.speech, rel=1e-4)


def test_speaker_transforms_are_of_speech(made, tmp_path, monkeypatch):
    """Those that training starts with, those in the middle of it, and those of new speakers."""
    found = watched(monkeypatch, fmllr, "estimate")
    options = SatOptions(**TRI, fmllr_iters=(2,), fmllr_min_count=50.0)
    (tmp_path / "tri3").mkdir()
    train_sat(made.data, LANG, made.ali, made.mono, options, tmp_path / "tri3")
    assert [stats.beta.sum() for stats, *_ in found] == [pytest.approx(made.speech, rel=1e-4)] * 2
    found.clear()
    few = EstimateFmllrOptions(fmllr_min_count=50.0, bias_min_count=20.0, passes=1)
    estimate_fmllr(made.data, LANG, made.mono, made.texts, few, tmp_path / "fmllr")
    assert [stats.beta.sum() for stats, *_ in found] == [pytest.approx(made.speech, rel=0.02)]


def test_an_alignment_without_speech_is_refused(made, tmp_path):
    ali = write_ali(tmp_path / "ali", draw(World.make(1), 40, 4), silent=True)
    with pytest.raises(DataError, match="ali: no frame of any utterance is speech"):
        train_lda_mllt(made.data, LANG, ali, LdaMlltOptions(**TRI, **RAW, dim=4), tmp_path)


def test_the_last_iteration_of_growth_reaches_the_number_of_gaussians(made, tmp_path):
    train_mono(made.data, LANG, MonoOptions(**FEW, realign_iters=(1,), **RAW), tmp_path / "mono")
    assert GmmModel.load(tmp_path / "mono").gmms.num_gauss == 20
