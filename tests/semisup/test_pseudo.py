"""Labels that are kept and labels from files: room for all of them, and which of them can be learned."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.artifacts.ali import AliSet, AliWriter
from pipeline.artifacts.ali_source import Alignment
from pipeline.artifacts.corpus import iter_cuts, save_data_dir
from pipeline.artifacts.hyp import Hypothesis, save_hypotheses
from pipeline.artifacts.model_dir import load_hmm
from pipeline.artifacts.tokens import BLANK_ID, UNK_ID, Tokens
from pipeline.base.errors import DataError
from pipeline.e2e.model import load_end_to_end, save_end_to_end
from pipeline.e2e.training import train_end_to_end
from pipeline.feats.augment import perturb_speed
from pipeline.feats.compute import compute_feats
from pipeline.feats.joined import joined
from pipeline.feats.options import FeatureOptions
from pipeline.nn.step import normalised
from pipeline.semisup.collapse import Watch
from pipeline.semisup.criterion import SemiSupervised, Targets
from pipeline.semisup.end_to_end import EndToEndSide
from pipeline.semisup.hybrid import HybridSide
from pipeline.semisup.options import Sources
from pipeline.semisup.training import first_labels, make_pair, train_semisup
from tests.e2e.test_training import ali, options_with, tokens  # noqa: F401
from tests.nn.conftest import tones  # noqa: F401
from tests.semisup.test_training import OPTIONS, Split, split  # noqa: F401


@pytest.fixture(scope="module")
def talker(split, tokens, tmp_path_factory) -> Path:
    """A transducer without CTC that says A as often as it may."""
    out = tmp_path_factory.mktemp("talker")
    train_end_to_end(split.labelled, tokens, out / "first", options_with(model="transducer", ctc=False, epochs=1))
    model, meta = load_end_to_end(out / "first")
    with torch.no_grad():
        model.transducer.output.bias[[BLANK_ID, 4]] = torch.tensor([-50.0, 50.0])
    save_end_to_end(out / "m", model, meta.tokens_id, meta.features, meta.feat_options, meta.epochs)
    return out / "m"


def side_of(split: Split, model: Path, sources: Sources, **changes) -> EndToEndSide:
    options = dataclasses.replace(OPTIONS, **{"teacher": "fixed", **changes})
    return EndToEndSide(split.labelled, split.unlabelled, model, options, sources)


@pytest.mark.parametrize("method", ["transducer_greedy", "transducer_beam", "transducer_one"])
def test_several_tokens_a_frame_are_all_kept(method, split, talker, tokens):
    """Labels of one utterance do not reach into those of the next."""
    side = side_of(split, talker, Sources(tokens=tokens), method=method, beam=2, length_bonus=90.0)
    data = joined(side.labelled, side.unlabelled)
    watch = Watch(side.known, side.num_labels, side.name_of, side.options)
    criterion = SemiSupervised(side, data, Targets(side.known, 1), side.options, 0.9, watch)
    pair = make_pair(side, side.options, first_labels(side, side.options, None)[1])
    indices = np.arange(len(side.labelled), len(data))
    with torch.no_grad():
        given = criterion._labels(pair, data.batch(indices)).rows
    most = 1 if method == "transducer_one" else side.search.max_symbols
    assert [len(row) for row in given] == (side.frames * most).tolist()
    assert all((pair.labels[i][0] == row).all() for i, row in enumerate(given))


def test_there_is_no_room_beyond_the_end_of_kept_labels(split, talker, tokens, tmp_path):
    side = side_of(split, talker, Sources(tokens=tokens))
    kept = first_labels(side, side.options, None)[1]
    with pytest.raises(AssertionError):
        kept.put(0, np.zeros(side.room[0] + 1, dtype=np.int64), 1.0)
    facts = train_semisup(
        split.labelled, split.unlabelled, talker, tmp_path / "m", side.options, Sources(tokens=tokens)
    )
    assert np.isfinite(facts["loss"])


def test_long_transcripts_are_for_models_without_ctc(split, talker, tokens, tmp_path, caplog):
    """A transducer may write more tokens than there are frames, even more than its search would find; CTC cannot."""
    ids = [cut["id"] for _, cut in iter_cuts(split.unlabelled)]
    words = {cut_id: ("AB", "CA") * (60 if n else 1) for n, cut_id in enumerate(ids)}
    save_hypotheses(tmp_path / "recogs.jsonl.gz", [Hypothesis(c, "s", (), w) for c, w in words.items()])
    sources = Sources(tokens=tokens, pseudo=tmp_path)
    side = side_of(split, talker, sources)
    _, kept = first_labels(side, side.options, sources.pseudo)
    for i in range(len(side.unlabelled)):
        expected = Tokens.load(tokens).encode(" ".join(words[side.unlabelled.id(i)]))
        assert kept[i][0].tolist() == expected and (len(expected) > side.room[i]) == (len(expected) > 50)
    with_ctc = side_of(split, split.e2e, sources)
    assert sum(label is not None for label in with_ctc.given(tmp_path)) == 1
    assert "15 utterances have more tokens than CTC has frames for, the first: " in caplog.text


def test_long_speech_is_left_out_aloud(split, tokens, caplog):
    whole = side_of(split, split.e2e, Sources(tokens=tokens)).unlabelled
    longest = float(np.sort(whole.lens)[-2]) * 0.01
    side = side_of(split, split.e2e, Sources(tokens=tokens), max_seconds=longest, max_skipped=1.0)
    (first,) = {*whole.ids} - {*side.unlabelled.ids}
    assert (
        f"utterances longer than {longest:g} s (--max-seconds): 1 of 16, the first: '{first}'; left out" in caplog.text
    )


@pytest.mark.parametrize("word", ["AZ", "<unk>"])
def test_words_without_tokens_teach_no_unknown_token(word, split, tokens, tmp_path, caplog):
    ids = [cut["id"] for _, cut in iter_cuts(split.unlabelled)]
    rows = [Hypothesis(c, "s", (), ("AB", word) if n in (3, 7) else ("AB",)) for n, c in enumerate(ids)]
    save_hypotheses(tmp_path / "recogs.jsonl.gz", rows)
    sources = Sources(tokens=tokens, pseudo=tmp_path)
    side = side_of(split, split.e2e, sources)
    data, kept = first_labels(side, side.options, tmp_path)
    assert sorted(data.ids) == sorted({*ids} - {ids[3], ids[7]}) and UNK_ID not in kept.labels
    assert f"2 utterances have words that the tokens cannot spell, the first: '{ids[3]}'" in caplog.text
    save_hypotheses(tmp_path / "recogs.jsonl.gz", [dataclasses.replace(row, hyp=(word,)) for row in rows])
    with pytest.raises(DataError, match="has labels that can be learned for none of the 16 unlabelled utterances"):
        train_semisup(split.labelled, split.unlabelled, split.e2e, tmp_path / "m", side.options, sources)


@pytest.fixture(scope="module")
def few(split, tones, ali, tmp_path_factory) -> tuple[Path, Path]:
    """A decoding directory with the true words of 4 of 16 unlabelled utterances, and an alignment of these."""
    out = tmp_path_factory.mktemp("few")
    texts = {cut["id"]: cut["supervisions"][0]["text"].split() for _, cut in iter_cuts(tones.data)}
    ids = [cut["id"] for _, cut in iter_cuts(split.unlabelled)][2:6]
    (out / "heard").mkdir()
    save_hypotheses(out / "heard" / "recogs.jsonl.gz", [Hypothesis(c, "s", (), tuple(texts[c])) for c in ids])
    return out / "heard", write_ali(out / "ali", ali, [AliSet.load(ali)[c] for c in ids])


def write_ali(out: Path, like: Path, alignments: list[Alignment]) -> Path:
    """An alignment directory with the tree of another one."""
    old, hmm = AliSet.load(like), load_hmm(like)
    with AliWriter(out, old.header, hmm.tree, hmm.topo, hmm.transitions, old.word_symbols) as to:
        for alignment in alignments:
            to.write(alignment)
    return out


@pytest.mark.parametrize("kind", ["e2e", "hybrid"])
@pytest.mark.parametrize("teacher", ["fixed", "cache", "rounds"])
def test_utterances_without_labels_are_no_collapse(
    teacher, kind, few, split, tones, tokens, ali, tmp_path, monkeypatch, caplog
):
    """A fixed teacher has none for them, so that they are left out; the others label them."""
    asked: list[int] = []
    side = HybridSide if kind == "hybrid" else EndToEndSide
    plain = side.label
    monkeypatch.setattr(side, "label", lambda self, n, x, lens: asked.append(len(lens)) or plain(self, n, x, lens))
    options = dataclasses.replace(OPTIONS, teacher=teacher, max_empty=0.5, renew=0.0, epochs=1)
    own = dict(lang=tones.lang, ali=ali, pseudo=few[1]) if kind == "hybrid" else dict(tokens=tokens, pseudo=few[0])
    model, sources = getattr(split, kind), Sources(**own)
    facts = train_semisup(split.labelled, split.unlabelled, model, tmp_path / "m", options, sources)
    assert (facts["unlabelled"], sum(asked)) == ((4, 0) if teacher == "fixed" else (16, 12))
    assert "no labels for 12 of 16 utterances, the first: " in caplog.text


def noisy(cut: dict) -> dict:
    """What steps/add_noise.py calls such a copy, without the noise."""
    name = f"{cut['id']}_noise1"
    return {**cut, "id": name, "supervisions": [{**cut["supervisions"][0], "id": name}]}


def test_copies_have_the_labels_and_the_confidence_of_their_originals(few, split, tones, ali, tmp_path):
    """Utterances at another speed and with noise, without an alignment of their own."""
    local = tmp_path / "local"
    ids = [cut["id"] for _, cut in iter_cuts(split.unlabelled)][2:6]
    (tmp_path / "sp").mkdir()
    perturb_speed(split.unlabelled, tmp_path / "sp", (0.9, 1.0))
    cuts = [cut for _, cut in iter_cuts(tmp_path / "sp")]
    save_data_dir(local, [*cuts, *map(noisy, cuts)])
    (tmp_path / "data").mkdir()
    compute_feats(local, tmp_path / "data", tmp_path / "data", FeatureOptions(type="fbank", dim=16))
    old = AliSet.load(ali)
    rows = [
        dataclasses.replace(old[c], confidence=np.full(len(old[c].transition_ids), 0.2 * (n + 1), dtype=np.float16))
        for n, c in enumerate(ids)
    ]
    pseudo = write_ali(tmp_path / "ali", ali, rows)
    sources = Sources(lang=tones.lang, ali=ali, pseudo=pseudo)
    options = dataclasses.replace(OPTIONS, teacher="fixed", min_confidence=0.5, epochs=1)
    side = HybridSide(split.labelled, tmp_path / "data", split.hybrid, options, sources)
    data, kept = first_labels(side, options, pseudo)
    suffixes = ("", "_noise1", "_sp0.9", "_sp0.9_noise1")
    assert sorted(data.ids) == sorted(f"{c}{suffix}" for c in ids for suffix in suffixes)
    for i, cut_id in enumerate(data.ids):
        row, confidence = kept[i]
        origin = cut_id.split("_")[0]
        assert len(row) == side.room[side.unlabelled.ids.index(cut_id)]
        assert confidence == pytest.approx(0.2 * (ids.index(origin) + 1), abs=1e-3)
        if "_sp" not in cut_id:
            rate = side.network.options.label_factor
            assert row.tolist() == old.pdf_ids(origin, rate, False).tolist()
    facts = train_semisup(split.labelled, tmp_path / "data", split.hybrid, tmp_path / "m", options, sources)
    assert facts["unlabelled"] == 16 and np.isfinite(facts["loss"])
    # Without a least confidence none is read.
    plain = HybridSide(split.labelled, tmp_path / "data", split.hybrid, OPTIONS, sources)
    assert [label[1] for label in plain.given(few[1]) if label is not None] == [1.0] * 16


def test_confidence_of_a_search(split, tokens):
    """As the help of --min-confidence says: of the sum over all alignments, but for those that left the beam."""
    side = side_of(split, split.e2e, Sources(tokens=tokens), method="ctc_prefix", beam=50)
    batch = normalised(side.network, side.unlabelled.batch(np.arange(3)))
    with torch.no_grad():
        given = side.label(side.network.eval(), batch.feats, batch.lens)
    for n, (row, confidence) in enumerate(zip(given.rows, given.confidence)):
        frames = given.log_probs[n, : given.lens[n], None]  # (T, 1, V)
        lens = given.lens[[n]], torch.tensor([len(row)])
        exact = np.exp(-float(F.ctc_loss(frames, torch.from_numpy(row)[None], *lens, reduction="sum")) / (len(row) + 1))
        assert len(row) and 0.95 * exact < confidence < 1.0001 * exact
