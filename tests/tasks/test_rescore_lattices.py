"""Another language model on stored lattices, against decoding with that model and against lists of all sequences."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from pipeline.artifacts.arpa import Arpa
from pipeline.artifacts.hyp import RECOGS, load_hypotheses, load_nbest, load_tried, save_hypotheses
from pipeline.artifacts.lattice_set import LatticeSet
from pipeline.artifacts.tokens import TokenOptions, train_tokens
from pipeline.base.errors import ConfigError, DataError, MismatchError
from pipeline.e2e.lm import load_nn_lm, train_nn_lm
from pipeline.e2e.search.options import NnLmOptions
from pipeline.graph.options import RescoreLatticesOptions
from pipeline.tasks.ali_formats import read_ctm
from pipeline.tasks.rescore_lattices import Sources, rescore_directory
from pipeline.tasks.score import count_errors, total_errors
from pipeline.tasks.weights import read_weights
from tests.graph.cases import SENTENCES, language_model
from tests.tasks.test_decode import FRAMES, data, directory, rows_of  # noqa: F401

WIDE = RescoreLatticesOptions(
    lm_weights=(0.5, 2.0), word_penalties=(0.0, 1.0), histories=1000, beam=1e6, max_states=10**6, order=0, tried=True
)


@pytest.fixture
def decoded(directory, tmp_path: Path) -> Path:
    out = directory("decoded", lattices=True, nbest=10**4, retries=0)
    (tmp_path / "lm").mkdir()
    language_model(3).save(tmp_path / "lm" / "lm.arpa")
    return out


def rescored(sources: Sources, name: str, **options) -> tuple[Path, dict]:
    out = sources.decoded.parent / name
    out.mkdir()
    return out, rescore_directory(sources, out, dataclasses.replace(WIDE, **options), "row", "dev")


def test_an_n_gram_finds_what_decoding_with_it_finds(decoded: Path, directory, tmp_path: Path) -> None:
    """At the scale of the search, where the word lattices were made, the same words."""
    other = directory("other", rescore_lm=tmp_path / "lm", tried=True, word_penalties=(0.0, 1.0))
    out, facts = rescored(Sources(decoded, tmp_path / "lm"), "out")
    assert load_tried(out)[2.0, 0.0] == load_tried(other)[2.0, 0.0] != load_tried(decoded_tried(directory))[2.0, 0.0]
    assert not (out / "lattices").exists() and not (out / "words.ctm").exists()
    assert facts["oracle_wer"] == rows_of(out)["oracle_wer"]["value"] == rows_of(decoded)["oracle_wer"]["value"]
    assert rows_of(out)["wer"]["value"] == total_errors(count_errors(load_hypotheses(out))).wer == facts["wer"]
    assert read_weights(out) == (facts["lm_weight"], facts["word_penalty"])


def decoded_tried(directory) -> Path:
    return directory("tried", tried=True, word_penalties=(0.0, 1.0))


def test_a_neural_model_ranks_all_sequences(decoded: Path, tmp_path: Path) -> None:
    """The best of all word sequences with acoustic / weight + graph - old + new language model, at the search's scale; a
    share of the old one stays where asked for.
    """
    tokens = train_tokens(SENTENCES, TokenOptions(unit="char"))
    tokens.save(tmp_path / "tokens")
    (tmp_path / "nn").mkdir()
    train_nn_lm(SENTENCES, tokens, NnLmOptions(dim=8, layers=1, epochs=2, learning_rate=0.05), tmp_path / "nn")
    model, different = load_nn_lm(tmp_path / "nn", tokens, "tokens"), 0

    def log_prob(words: tuple[str, ...]) -> float:
        ids = [*tokens.encode(" ".join(words)), 1]
        with torch.no_grad():
            found, _ = model(torch.tensor([[1, *ids[:-1]]]), model.start(1))
        return float(found[0].gather(1, torch.tensor(ids)[:, None]).sum())

    for share in (0.0, 0.3):
        sources = Sources(decoded, tmp_path / "nn", tmp_path / "tokens")
        out, _ = rescored(sources, f"out{share}", old_lm=share)
        found = {h.cut_id: h.hyp for h in load_tried(out)[2.0, 1.0]}
        for x in load_nbest(decoded):
            if not x.alternatives:
                continue
            totals = {
                a.words: a.acoustic / 2.0 + a.graph + (1 - share) * (log_prob(a.words) - a.lm) - len(a.words)
                for a in x.alternatives
            }
            assert len(totals) > 2 and totals[found[x.cut_id]] == pytest.approx(max(totals.values()), abs=2e-3)
            different += (
                max(x.alternatives, key=lambda a: a.acoustic / 2.0 + a.graph - len(a.words)).words != found[x.cut_id]
            )
    assert different


def test_lattices_and_confidences(decoded: Path, tmp_path: Path) -> None:
    """The new lattices have the new scores, so that doing it again changes nothing."""
    options = dict(lattices=True, mbr=True, old_lm=0.0)
    out, _ = rescored(Sources(decoded, tmp_path / "lm"), "out", **options)
    again, _ = rescored(Sources(out, tmp_path / "lm"), "again", **options)
    assert load_hypotheses(out) == load_hypotheses(again) and load_tried(out) == load_tried(again)
    ctm = read_ctm(out / "words.ctm")
    assert {h.cut_id for h in load_hypotheses(out) if h.hyp} == set(ctm)
    arpa, new = Arpa.load(tmp_path / "lm" / "lm.arpa"), LatticeSet(out / "lattices")
    assert sorted(new) == sorted([*FRAMES, "short"]) and not new["short"].complete
    for cut_id in FRAMES:
        lattice = new[cut_id]
        words, lm, state = [], 0.0, 0
        while state != lattice.num_states - 1:  # the first path
            a = int((lattice.src == state).argmax())
            words += [lattice.label[a]] if lattice.label[a] else []
            lm, state = lm + float(lattice.lm[a]), int(lattice.dst[a])
        assert lm == pytest.approx(arpa.sentence_log_prob([new.words.name(w) for w in words]), abs=1e-3)


def test_weights_of_another_directory(decoded: Path, tmp_path: Path) -> None:
    dev, _ = rescored(Sources(decoded, tmp_path / "lm"), "dev")
    test, facts = rescored(Sources(decoded, tmp_path / "lm", weights_from=dev), "test")
    assert (facts["lm_weight"], facts["word_penalty"]) == read_weights(dev) == read_weights(test)
    assert load_hypotheses(dev) == load_hypotheses(test) and len(load_tried(test)) == 1


def test_what_does_not_fit_is_refused(decoded: Path, directory, tmp_path: Path) -> None:
    tokens = train_tokens(SENTENCES, TokenOptions(unit="char"))
    tokens.save(tmp_path / "tokens")
    (tmp_path / "nn").mkdir()
    train_nn_lm(SENTENCES, tokens, NnLmOptions(dim=4, layers=1, epochs=1), tmp_path / "nn")
    with pytest.raises(ConfigError, match="--tokens has to name them"):
        rescored(Sources(decoded, tmp_path / "nn"), "a")
    with pytest.raises(ConfigError, match="over words, which --tokens .* does not go with"):
        rescored(Sources(decoded, tmp_path / "lm", tmp_path / "tokens"), "b")
    train_tokens([["XYZ"]], TokenOptions(unit="char")).save(tmp_path / "others")
    with pytest.raises(MismatchError, match="do not belong together: tokens"):
        rescored(Sources(decoded, tmp_path / "nn", tmp_path / "others"), "c")
    with pytest.raises(DataError, match="holds no lattices"):
        rescored(Sources(directory("bare"), tmp_path / "lm"), "d")
    hyps = load_hypotheses(decoded)
    save_hypotheses(decoded / RECOGS, [*hyps, dataclasses.replace(hyps[0], cut_id="other")])
    with pytest.raises(DataError, match="no lattice of utterance 'other'"):
        rescored(Sources(decoded, tmp_path / "lm"), "e")
    save_hypotheses(decoded / RECOGS, [h for h in hyps if h.cut_id == "short"])
    with pytest.raises(DataError, match="none of the 1 lattices has a path"):
        rescored(Sources(decoded, tmp_path / "lm"), "f")
