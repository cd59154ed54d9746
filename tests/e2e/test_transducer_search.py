"""Transducer searches against sums over all paths on toy models."""

from __future__ import annotations

import pytest
import torch

from pipeline.artifacts.tokens import BLANK_ID, EOS_ID
from pipeline.e2e.search.results import Weights
from pipeline.e2e.search.transducer import TransducerSearch, greedy

from .toys import ToyLm, ToyTransducer, sequences, transducer_log_prob

VOCABULARY = 5


def frames(lens: list[int]) -> torch.Tensor:
    """(N, T, 1); every frame of every utterance is another one."""
    out = torch.arange(1, 1 + len(lens) * max(lens)).view(len(lens), max(lens), 1)
    return out.double() / 1000.0


def lm_log_prob(lm: ToyLm, labels: tuple[int, ...]) -> float:
    path = [EOS_ID, *labels]
    return sum(float(lm.row(0, tuple(path[: i + 1]))[label]) for i, label in enumerate([*labels, EOS_ID]))


@pytest.mark.parametrize("one, most", [(False, 1), (False, 2), (True, 1)])
@pytest.mark.parametrize("weights", [Weights(), Weights(lm=0.6, length=0.5), Weights(length=-0.3)])
def test_wide_beams_sum_all_paths(one, most, weights):
    lens, model, lm = [3, 2], ToyTransducer(VOCABULARY), ToyLm(VOCABULARY, 8) if weights.lm else None
    encoded = frames(lens)
    search = TransducerSearch(model, weights, beam=200, max_symbols=most, one_symbol=one, lm=lm)
    found = search.search(encoded, torch.tensor(lens), 4)
    for n, length in enumerate(lens):
        expected = []
        for labels in sequences(VOCABULARY, length * most):
            score = transducer_log_prob(model, encoded[n, :length, 0], labels, most, one)
            score += weights.length * len(labels) + (weights.lm * lm_log_prob(lm, labels) if lm else 0.0)
            expected.append((score, labels))
        expected = sorted(expected, reverse=True)[:4]
        assert [f.tokens for f in found[n]] == [labels for _, labels in expected]
        assert [f.total for f in found[n]] == pytest.approx([score for score, _ in expected], abs=1e-5)


def test_a_batch_is_its_utterances():
    lens, model = [5, 3, 4], ToyTransducer(7)
    encoded, weights = frames(lens), Weights(lm=0.3)
    together = TransducerSearch(model, weights, 3, lm=ToyLm(7)).search(encoded, torch.tensor(lens), 2)
    together_greedy = greedy(model, encoded, torch.tensor(lens))
    for n, length in enumerate(lens):
        one = encoded[n : n + 1, :length], torch.tensor([length])
        alone = TransducerSearch(model, weights, 3, lm=ToyLm(7)).search(*one, 2)[0]
        assert [f.tokens for f in alone] == [f.tokens for f in together[n]]
        assert [f.total for f in alone] == pytest.approx([f.total for f in together[n]], abs=1e-5)
        assert greedy(model, *one)[0][0].tokens == together_greedy[n][0].tokens


def test_greedy_follows_the_best_label():
    model, encoded = ToyTransducer(9, seed=3, blank=2.0), frames([12])
    found = greedy(model, encoded, torch.tensor([12]), max_symbols=3)[0][0]
    history, total = (), 0.0
    for t in range(12):
        for _ in range(3):
            row = model.row(float(encoded[0, t, 0]), history)
            label = int(row.argmax())
            total += float(row.max())
            if label == BLANK_ID:
                break
            history += (label,)
    assert len(history) > 2
    assert found.tokens == history and found.total == pytest.approx(total, abs=1e-4)


def test_internal_lm_is_subtracted():
    """With weight 1 and a joint that does not read the encoder, every token costs what its blank does not."""
    model = ToyTransducer(VOCABULARY)
    encoded = torch.zeros(1, 3, 1, dtype=torch.float64)  # the frame that stands for no encoder
    found = TransducerSearch(model, Weights(ilm=0.7), beam=100, max_symbols=2).search(encoded, torch.tensor([3]), 50)[0]
    best = found[0]
    ilm, history = 0.0, ()
    for token in best.tokens:
        row = model.row(0.0, history)
        row[BLANK_ID] = -1e30
        ilm += float(row.log_softmax(0)[token])
        history += (token,)
    assert best.tokens
    assert best.model == pytest.approx(transducer_log_prob(model, encoded[0, :, 0], best.tokens, 2), abs=1e-5)
    assert best.total == pytest.approx(best.model - 0.7 * ilm, abs=1e-4)


class Surprising(ToyTransducer):
    """Two improbable tokens, then one that the audio is sure of and the predictor alone is not."""

    def row(self, frame: float, history: tuple[int, ...]) -> torch.Tensor:
        heard = {(): [0.5, 0.3, 0.2], (3, 4): [0.001, 0.998, 0.001]}.get(history, [0.9, 0.05, 0.05])
        alone = [0.9, 1e-5, 0.1] if history == (3, 4) else [0.8, 0.1, 0.1]
        blank, first, second = heard if frame else alone
        return torch.tensor([blank, 1e-30, 1e-30, first, second]).log()


@pytest.mark.parametrize("beam", [2, 100])
def test_what_the_internal_lm_hides_survives_the_beam_of_a_frame(beam):
    """A further token can gain more than its bonus there, so that no hypothesis is left behind within a frame."""
    search = TransducerSearch(Surprising(VOCABULARY), Weights(ilm=1.0), beam=beam, max_symbols=3)
    found = search.search(torch.ones(1, 1, 1, dtype=torch.float64), torch.tensor([1]))[0][0]
    assert found.tokens == (3, 4, 3)
    expected = torch.tensor([0.3 / 0.5, 0.05 / 0.5, 0.998 * 0.10001 / 1e-5, 0.9]).log().sum()
    assert found.total == pytest.approx(float(expected), abs=1e-4)
