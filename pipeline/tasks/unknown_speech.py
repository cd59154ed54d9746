"""Speech that a text lacks: any model gets a phone that stands for all speech, and a lang the word <unk> of that phone.

The phone, SPN, has one label. Its likelihood is the mean of those of all the model's labels, less COST: what a frame is
worth to a model that does not know what is said (a background model). A frame of the right label scores up to log P
better, one of a wrong label far worse, so an alignment chooses between a word of the text and the phone by the audio.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.artifacts.lang import SPOKEN_NOISE, Lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.model_dir import HmmDir
from pipeline.artifacts.symbols import SymbolTable
from pipeline.artifacts.topo import PhoneTopo, Topo
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import Leaf, Root, Tree
from pipeline.tasks.model import Model

if TYPE_CHECKING:
    import torch

    from pipeline.gmm.diag import DiagGmms
    from pipeline.gmm.model import GmmScorer
    from pipeline.hmm.on_demand import FrameScores

UNKNOWN = "<unk>"
# Twenty states of one label: at least 0.2 s, and four seconds on the mean, so it is costly to begin and cheap to go on.
TOPO = PhoneTopo((0,) * 20, 0.05)
COST = 1.0  # nats per frame


def with_unknown_word(lang: Lang) -> Lang:
    """A lang without words that has the word for unknown speech; itself if it has an out-of-vocabulary word."""
    if lang.oov_word is not None:
        return lang
    return dataclasses.replace(
        lang,
        phones=SymbolTable([*list(lang.phones)[1:], SPOKEN_NOISE]),
        topo=Topo({**lang.topo.phones, SPOKEN_NOISE: TOPO}),
        words=SymbolTable([UNKNOWN]),
        lexicon=Lexicon([Pronunciation(UNKNOWN, (SPOKEN_NOISE,))]),
        oov_word=UNKNOWN,
    )


def with_unknown_speech(model: Model) -> Model:
    """A model with one label more, for the phone of unknown speech; itself if it has that phone."""
    if SPOKEN_NOISE in model.hmm.phones:
        return model
    from pipeline.gmm.model import GmmScorer

    return _mixtures(model) if isinstance(model, GmmScorer) else _Extended(model)


def _hmm(old: HmmDir) -> HmmDir:
    phones = SymbolTable([*list(old.phones)[1:], SPOKEN_NOISE])
    root = Root(frozenset({len(phones) - 1}), frozenset({0}), Leaf(old.tree.num_pdfs))
    tree = Tree([*old.tree.roots, root], phones, old.tree.left, old.tree.right)
    topo = Topo({**old.topo.phones, SPOKEN_NOISE: TOPO})
    transitions = TransitionModel(tree, topo)
    known = len(old.transitions.phone)  # the new phone is the last one, so old transition-states keep their numbers
    assert (transitions.phone[:known] == old.transitions.phone).all(), old.directory
    transitions.forward_prob[:known] = old.transitions.forward_prob
    return HmmDir(old.directory, phones, topo, tree, transitions)


def _mixtures(scorer: GmmScorer) -> GmmScorer:
    """Mixtures with one of all their Gaussians beside them."""
    from pipeline.gmm.model import GmmScorer

    model = scorer.model
    independent = None if model.independent is None else _with_all(model.independent)
    wider = dataclasses.replace(model, gmms=_with_all(model.gmms), independent=independent)
    device = str(scorer.evaluator.gmms.device)
    return GmmScorer(wider, _hmm(scorer.hmm), scorer.transforms, device, scorer.where)


def _with_all(gmms: DiagGmms) -> DiagGmms:
    import torch

    from pipeline.gmm.diag import DiagGmms

    weights = torch.cat([gmms.weights, gmms.weights * (math.exp(-COST) / gmms.num_pdfs)])
    end = torch.tensor([2 * gmms.num_gauss])
    means, variances = (torch.cat([x, x]) for x in (gmms.means, gmms.vars))
    return DiagGmms(weights, means, variances, torch.cat([gmms.offsets, end]))


class _Extended:
    """A network whose scores get the column of the new label."""

    def __init__(self, model: Model) -> None:
        self._model, self.hmm = model, _hmm(model.hmm)
        self.facts, self.feat_options = model.facts, model.feat_options
        self.frame_shift, self.frame_offset = model.frame_shift, model.frame_offset
        self.num_pdfs = model.num_pdfs + 1
        self.acoustic_scale, self.transition_scale = model.acoustic_scale, model.transition_scale

    def log_likes(
        self, feats: torch.Tensor, lens: torch.Tensor, speakers: Sequence[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``Model``."""
        scores, lengths = self._model.log_likes(feats, lens, speakers)  # (N, T', P)
        return _with_mean(scores), lengths

    def transition_scores(self, feats: torch.Tensor, lens: torch.Tensor) -> torch.Tensor | None:
        """See ``Model``."""
        scores = self._model.transition_scores(feats, lens)  # (N, T', n_tid)
        return None if scores is None else self._with_transitions(scores)

    def frame_scores(self, feats: torch.Tensor, speaker: str) -> FrameScores:
        """See ``Model``."""
        from pipeline.hmm.on_demand import FrameScores

        own = self._model.frame_scores(feats, speaker)

        def transitions(begin: int, end: int) -> torch.Tensor | None:
            found = own.transitions(begin, end)
            return None if found is None else self._with_transitions(found)

        return FrameScores(own.num_frames, lambda begin, end: _with_mean(own.scores(begin, end)), transitions)

    def _with_transitions(self, scores: torch.Tensor) -> torch.Tensor:
        """(.., n_tid) with those of the new label, which do not depend on the input."""
        import torch

        new = torch.from_numpy(self.hmm.transitions.log_probs()[scores.shape[-1] :]).to(scores)
        return torch.cat([scores, new.expand(*scores.shape[:-1], -1)], dim=-1)


def _with_mean(scores: torch.Tensor) -> torch.Tensor:
    """(.., P) with the score of the new label."""
    import torch

    mean = torch.logsumexp(scores, dim=-1, keepdim=True) - math.log(scores.shape[-1]) - COST
    return torch.cat([scores, mean], dim=-1)


def with_found(words: Sequence[int], positions: np.ndarray, unknown: int) -> tuple[list[int], np.ndarray]:
    """The words of a path with those of unknown speech among them.

    Args:
        words: ids of the transcript.
        positions: (T,) position of each frame's word in it, -1 in silence, -2 in speech that it lacks.
        unknown: id of the word for that.
    Returns:
        ids of all words in order, and (T,) positions among them, -1 in silence.
    """
    found = positions == -2
    begins = np.flatnonzero(found & ~np.append(False, found[:-1]))
    if not len(begins):
        return list(words), positions
    number = np.cumsum(np.isin(np.arange(len(positions)), begins))  # stretches of unknown speech begun so far
    out = positions.copy()
    spoken = positions >= 0
    out[spoken] += number[spoken]
    # A stretch stands behind the words that begin before it.
    before = np.maximum.accumulate(np.where(spoken, positions, -1)) + 1
    out[found] = before[found] + number[found] - 1
    places = before[begins]
    return np.insert(np.asarray(words, dtype=np.int64), places, unknown).tolist(), out
