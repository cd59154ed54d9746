"""Training on tones: models of all kinds, what is exported, resuming, several processes, and input that cannot be
learned from.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.features import FeatureFacts
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import load_hmm, save_hmm
from pipeline.artifacts.tokens import UNK_ID, Tokens
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree
from pipeline.base.errors import ConfigError, DataError, MismatchError
from pipeline.e2e.labels import make_aux_targets, state_sequence, tokens_in_time
from pipeline.e2e.model import load_end_to_end
from pipeline.e2e.options import TrainEndToEndOptions
from pipeline.e2e.training import _with_policy, learnable, train_end_to_end
from pipeline.feats.dataset import Dataset
from pipeline.nn.hybrid import train_viterbi
from pipeline.nn.options import ViterbiOptions
from tests.nn.conftest import tones  # noqa: F401
from tests.torchrun import torchrun

ROOT = Path(__file__).resolve().parents[2]
SHAPE = dict(encoder="tdnn", layers=3, dim=12, strides=(2,), dilations=(1,), dropout=0.0)
LOOP = dict(batch_frames=800, time_masks=0, feature_masks=0, device="cpu", learning_rate=5e-3)
OPTIONS = TrainEndToEndOptions(
    epochs=2,
    model="ctc",
    embedding_dim=8,
    decoder_dim=8,
    attention_heads=2,
    attention_dim=8,
    joint_dim=8,
    **SHAPE,
    **LOOP,
)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tokens")
    Tokens("char", ["▁", "A", "B", "C"]).save(out)
    return out


@pytest.fixture(scope="module")
def ali(tones, tmp_path_factory) -> Path:
    """The known times as an alignment with three states per phone."""
    from pipeline.artifacts.ali import Alignment, AliHeader, AliWriter

    lang = Lang.load(tones.lang)
    tree = monophone_tree(lang.phones, lang.topo)
    transitions = TransitionModel(tree, lang.topo)
    data = Dataset.open(tones.data, OPTIONS.feat_options())
    out = tmp_path_factory.mktemp("ali")
    save_hmm(out, lang.topo, tree, transitions)
    texts = {e["id"]: e["supervisions"][0]["text"].split() for _, e in _entries(tones.data)}
    with AliWriter(
        out, AliHeader(lang.topo.id, tree.id, lang.id, 0.01, 0.0, "gold"), tree, lang.topo, transitions, lang.words
    ) as w:
        for cut_id, length in zip(data.ids, data.lens.tolist()):
            spans = _spans(tones.times[cut_id], length)
            tids = np.concatenate([_states(transitions, lang.phones.id(phone), count) for phone, _, count in spans])
            starts = [first for phone, first, _ in spans if phone != "SIL"][::2]
            words = np.array(
                [[lang.words.id(word), first] for word, first in zip(texts[cut_id], starts)], dtype=np.int32
            )
            w.write(Alignment(cut_id, tids.astype(np.int32), 0.0, words))
    return out


def _entries(data: Path):
    from pipeline.artifacts.corpus import iter_cuts

    return list(iter_cuts(data))


def _spans(times: list, num_frames: int) -> list[tuple[str, int, int]]:
    """(phone, first frame, frames), silence between and around."""
    out, now = [], 0
    for phone, start, end in times:
        first, last = round(start * 100), round(end * 100)
        if first > now:
            out.append(("SIL", now, first - now))
        out.append((phone, first, last - first))
        now = last
    return [*out, ("SIL", now, num_frames - now)]


def _states(transitions: TransitionModel, phone: int, count: int) -> np.ndarray:
    """Transition-ids of a phone whose states share `count` frames."""
    own = np.flatnonzero(transitions.phone == phone)
    share = np.arange(count) * len(own) // count
    last = np.append(np.diff(share) > 0, True)
    return 2 * own[share] + last


def options_with(**changes) -> TrainEndToEndOptions:
    return dataclasses.replace(OPTIONS, **changes)


def test_ctc_learns_the_tones(tones, tokens, ali, tmp_path):
    options = options_with(epochs=25, aux_layers=(2,), aux_smoothing=0.0, learning_rate=0.02, batch_frames=300)
    facts = train_end_to_end(tones.data, tokens, tmp_path / "m", options, tones.data, ali)
    assert facts["dev_loss"] < 0.35 and facts["auxiliary_parameters"] > 0 and facts["peak_memory_mib"] > 100
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["log", "model.json", "model.safetensors"]
    model, meta = load_end_to_end(tmp_path / "m")
    assert not any("auxiliary" in name for name in model.state_dict()) and meta.frame_shift == 0.02


@pytest.mark.parametrize(
    "changes",
    [
        dict(model="attention", aux_ctc_layers=(2,), aux_token_weight=0.5, aux_layers=(1,), aux_alternate=True),
        dict(model="transducer", aux_transducer_layers=(1, 3), aux_kl_weight=0.3, ctc=False),
        dict(model="transducer", rnnt="pruned", predictor="stateless", prune_range=3, spec_augment="ld"),
        dict(
            model="attention",
            aux_layers=(3,),
            aux_labels="phone",
            aux_majority=True,
            ali_shift_ms=20.0,
            aux_hidden=8,
            accumulate=2,
        ),
    ],
    ids=str,
)
def test_all_kinds_train(changes, tones, tokens, ali, tmp_path):
    facts = train_end_to_end(tones.data, tokens, tmp_path / "m", options_with(**changes), tones.data, ali)
    first, last = (load_end_to_end(tmp_path / "m")[1].epochs[i]["loss"] for i in (0, -1))
    assert np.isfinite(facts["dev_loss"]) and last < first


@pytest.mark.parametrize("dim, size", [(80, 27), (40, 14), (16, 5)])
def test_the_policy_is_that_of_the_paper(dim, size):
    """LD of Park et al. 2019, table 1: F = 27 (of 80), mF = 2, T = 100 (frames of 10 ms), p = 1, mT = 2."""
    options = options_with(spec_augment="ld", time_masks=7, feature_masks=7, time_mask_share=0.1)
    found = _with_policy(options, dim)
    assert (found.feature_masks, found.feature_mask_size) == (2, size)
    assert (found.time_masks, found.time_mask_seconds, found.time_mask_share) == (2, 1.0, 1.0)
    custom = dataclasses.replace(options, spec_augment="custom")
    assert _with_policy(custom, dim) == custom


class Stop(Exception):
    """Stands for kill -9."""


def test_resumed_is_bit_equal(tones, tokens, ali, tmp_path, monkeypatch):
    """With everything that is random: masks, dropout, alternation."""
    from pipeline.e2e.criterion import EndToEndLoss

    options = options_with(
        model="attention",
        epochs=3,
        aux_layers=(1,),
        aux_token_weight=0.5,
        aux_alternate=True,
        dropout=0.2,
        time_masks=2,
        feature_masks=2,
        accumulate=2,
    )
    train_end_to_end(tones.data, tokens, tmp_path / "whole", options, tones.data, ali)
    monkeypatch.setattr("pipeline.nn.train.SAVE_SECONDS", 0.0)
    plain, calls = EndToEndLoss.__call__, iter(range(9))

    def stopping(*args):
        if next(calls, None) is None:
            raise Stop
        return plain(*args)

    monkeypatch.setattr(EndToEndLoss, "__call__", stopping)
    with pytest.raises(Stop):
        train_end_to_end(tones.data, tokens, tmp_path / "broken", options, tones.data, ali)
    monkeypatch.setattr(EndToEndLoss, "__call__", plain)
    train_end_to_end(tones.data, tokens, tmp_path / "broken", options, tones.data, ali)
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (
        tmp_path / "broken" / "model.safetensors"
    ).read_bytes()


def test_encoders_of_other_models_are_taken_over(tones, tokens, ali, tmp_path):
    """From a hybrid model with strides, then from that end-to-end model; a shape that differs is named."""
    hybrid = ViterbiOptions(epochs=1, **SHAPE, **LOOP)
    train_viterbi(tones.data, tones.lang, ali, tmp_path / "hybrid", hybrid)
    frozen = options_with(epochs=1, learning_rate=1e-12)
    train_end_to_end(tones.data, tokens, tmp_path / "a", frozen, init_dir=tmp_path / "hybrid")
    train_end_to_end(tones.data, tokens, tmp_path / "b", frozen, init_dir=tmp_path / "a")
    from pipeline.artifacts.checkpoint import load_tensors

    tensors = [load_tensors(tmp_path / name / "model.safetensors") for name in ("hybrid", "a", "b")]
    for name in (n for n in tensors[0] if n.startswith("encoder.")):
        assert torch.allclose(tensors[0][name], tensors[1][name], atol=1e-6) and torch.allclose(
            tensors[1][name], tensors[2][name], atol=1e-6
        )
    for other, text in (
        (dict(dim=8), "hybrid.*strides and features"),
        (dict(dilations=(3,)), "dilations is"),
        (dict(strides=(), subsampling=2), "subsampling is 1 there and 2 here"),
    ):
        with pytest.raises(MismatchError, match=f"encoder of .*{text}"):
            train_end_to_end(tones.data, tokens, tmp_path / "c", options_with(**other), init_dir=tmp_path / "hybrid")


def test_processes_do_what_one_does_with_accumulation(tones, tokens, tmp_path, run_script):
    step = [ROOT / "steps" / "train_e2e.py", tones.data, tokens]
    shape = [
        "--model",
        "ctc",
        "--encoder",
        "tdnn",
        "--layers",
        "2",
        "--dim",
        "8",
        "--strides",
        "2",
        "--dropout",
        "0",
        "--epochs",
        "1",
        "--batch-frames",
        "800",
        "--time-masks",
        "0",
        "--feature-masks",
        "0",
        "--device",
        "cpu",
        "--dev",
        tones.data,
    ]
    one = run_script(sys.executable, *step, tmp_path / "one", *shape, "--accumulate", "2", OMP_NUM_THREADS="1")
    assert one.returncode == 0, one.stderr
    two = run_script(*torchrun(2), *step, tmp_path / "two", *shape, OMP_NUM_THREADS="1")
    assert two.returncode == 0, two.stderr
    models = [load_end_to_end(tmp_path / name)[0].state_dict() for name in ("one", "two")]
    for name, tensor in models[0].items():
        assert torch.allclose(tensor, models[1][name], atol=1e-4), name
    again = run_script(*torchrun(2), *step, tmp_path / "two", *shape, OMP_NUM_THREADS="1")
    assert again.returncode == 0 and "up to date" in again.stderr, again.stderr


def test_bad_input_ends_the_step_with_2(tones, tokens, ali, tmp_path, run_script):
    done = run_script(
        sys.executable,
        ROOT / "steps" / "train_e2e.py",
        tones.data,
        tokens,
        tmp_path / "out",
        "--layers",
        "3",
        "--ali",
        ali,
        "--aux-layers",
        "2,9",
    )
    assert done.returncode == 2 and "there is no layer 9" in done.stderr and not (tmp_path / "out").exists()


def test_auxiliary_targets_are_those_of_the_alignment(tones, tokens, ali):
    facts, table = FeatureFacts.load(tones.data), Tokens.load(tokens)
    data = Dataset.open(tones.data, OPTIONS.feat_options())
    options = options_with(aux_layers=(1, 2), aux_labels="phone", aux_token_weight=1.0, aux_ctc_layers=(1,))
    aux = make_aux_targets(ali, tones.data, data, facts, table, options)
    phones = Lang.load(tones.lang).phones
    assert aux.num_labels == len(phones)
    for i, cut_id in enumerate(data.ids):
        spans = _spans(tones.times[cut_id], int(data.lens[i]))
        expected = np.repeat([phones.id(p) for p, _, _ in spans], [n for _, _, n in spans])
        assert np.array_equal(aux.frame[1][i], expected) and np.array_equal(aux.frame[2][i], expected[::2])
        middles = [
            load_hmm(ali).transitions.pdf[np.flatnonzero(load_hmm(ali).transitions.phone == phones.id(p))]
            for p, _, _ in spans
        ]
        assert all(state - 1 in pdfs for state, pdfs in zip(aux.states[i], middles)) and len(aux.states[i]) == len(
            spans
        )
    first = data.id(0)
    text = {e["id"]: e["supervisions"][0]["text"] for _, e in _entries(tones.data)}[first]
    centres = (np.arange(int(data.lens[0])) + 0.5) * 0.01
    spoken = tokens_in_time(AliSet.load(ali), first, text.split(), table, centres)
    runs = spoken[np.concatenate([[True], np.diff(spoken) != 0])]
    assert [t for t in runs.tolist() if t] == table.encode(text)
    with pytest.raises(MismatchError, match="words, its transcript has 0"):
        tokens_in_time(AliSet.load(ali), first, [], table, centres)


def test_tokens_stand_where_the_middle_of_a_joined_frame_lies(tones, tokens, ali):
    """Four feature frames per output frame: its span of 40 ms begins 15 ms before the first frame's centre does."""
    facts, table = FeatureFacts.load(tones.data), Tokens.load(tokens)
    data = Dataset.open(tones.data, OPTIONS.feat_options())
    aux = make_aux_targets(ali, tones.data, data, facts, table, options_with(strides=(2, 2), aux_token_weight=1.0))
    frames = np.arange(-(-int(data.lens[0]) // 4))
    middles = facts.frame_offset + facts.frame_shift * (4 * frames + 1.5)
    expected = tokens_in_time(AliSet.load(ali), data.id(0), data.text(0).split(), table, middles)
    assert np.array_equal(aux.token[0], expected)


def test_the_state_of_a_phone_is_its_middle_one(ali):
    labels = AliSet.load(ali)
    for cut_id in list(labels)[:3]:
        pdfs = labels.pdf_ids(cut_id)
        thirds = [pdfs[first + count // 2] + 1 for _, first, count in labels.phone_segments(cut_id)]
        assert state_sequence(labels, cut_id).tolist() == thirds
        firsts = [pdfs[first] + 1 for _, first, _ in labels.phone_segments(cut_id)]
        assert thirds != firsts


def test_utterances_that_windows_cannot_cover_are_left_out(tones, tokens, monkeypatch, caplog):
    """Of 24 one has more tokens than twice its frames; without CTC the full lattice and wider windows have room."""
    data, text = Dataset.open(tones.data, OPTIONS.feat_options()), Dataset.text
    first, frames = data.id(5), -(-int(data.lens[5]) // OPTIONS.label_factor)
    long = " ".join(["ABC"] * (frames * 3 // 4))  # four tokens in each word and the blank behind it
    monkeypatch.setattr(Dataset, "text", lambda self, i: long if self.id(i) == first else text(self, i))

    def left(**changes) -> int:
        options = options_with(**{**dict(model="transducer", ctc=False, rnnt="pruned"), **changes})
        return len(learnable(tones.data, Tokens.load(tokens), tokens, FeatureFacts.load(tones.data), options)[0])

    assert [left(rnnt="full"), left(prune_range=3), left(prune_range=4)] == [24, 23, 24]
    assert f"--prune-range 3 lets their frames reach: 1 of 24, the first: {first!r}; left out" in caplog.text
    with pytest.raises(DataError, match="a larger one would admit them"):
        left(prune_range=3, max_skipped=0.0)


@pytest.mark.parametrize("word", ["<unk>", "<other>"])
def test_the_word_for_what_nobody_understood_is_a_token(word, tones, tokens, monkeypatch):
    """Transcripts with <unk> are trained on; other characters without a token are refused as ever."""
    text = Dataset.text
    monkeypatch.setattr(Dataset, "text", lambda self, i: f"{text(self, i)} {word}")
    arguments = tones.data, Tokens.load(tokens), tokens, FeatureFacts.load(tones.data), OPTIONS
    if word == "<unk>":
        data, rows = learnable(*arguments)
        assert len(data) == 24 and all(row[-1] == UNK_ID for row in rows)
    else:
        with pytest.raises(DataError, match="24 of 24 utterances have characters without a token"):
            learnable(*arguments)


def test_input_that_does_not_fit_is_named_before_training(tones, tokens, ali, tmp_path):
    def refused(error, text, data=tones.data, toks=tokens, alignment=ali, **changes):
        with pytest.raises(error, match=text):
            train_end_to_end(data, toks, tmp_path / "m", options_with(**changes), ali_dir=alignment)
        assert not (tmp_path / "m").exists()

    refused(ConfigError, "no layer 4", aux_layers=(4,))
    refused(ConfigError, "--ali", alignment=None, aux_layers=(1,))
    refused(DataError, "longer than 0.3 s: 24 of 24", max_seconds=0.3)
    refused(DataError, "shorter than their tokens at 32 feature frames", strides=(8, 4))
    Tokens("char", ["▁", "X", "Y"]).save(tmp_path / "other")
    refused(DataError, "without a token in .*other", toks=tmp_path / "other")
    for name, change in (
        ("rate", ('"frame_shift": 0.01', '"frame_shift": 0.03')),
        ("tree", ('"tree_id": "', '"tree_id": "0')),
    ):
        shutil.copytree(ali, tmp_path / name)
        header = tmp_path / name / "ali.json"
        assert change[0] in header.read_text()
        header.write_text(header.read_text().replace(*change))
    refused(MismatchError, "every 30 ms; labels every 10 ms", alignment=tmp_path / "rate", aux_layers=(1,))
    refused(MismatchError, "do not agree", alignment=tmp_path / "tree", aux_layers=(1,))
    whole = AliSet.load(ali)
    from pipeline.artifacts.ali import AliWriter

    hmm, lang = load_hmm(ali), Lang.load(tones.lang)
    with AliWriter(tmp_path / "part", whole.header, hmm.tree, hmm.topo, hmm.transitions, lang.words) as w:
        for cut_id in list(whole)[:12]:
            w.write(whole[cut_id])
    refused(DataError, "no alignment for 12 of the 24", alignment=tmp_path / "part", aux_layers=(1,))
