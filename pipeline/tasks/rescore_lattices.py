"""Another language model on stored lattices: expansion, tuning of weights, hypotheses and their error rates."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.hyp import TRIED, load_hypotheses, save_tried
from pipeline.artifacts.lattice import Lattice
from pipeline.artifacts.lattice_set import LATTICES, LatticeSet, LatticeWriter
from pipeline.artifacts.model_meta import META, model_kind
from pipeline.artifacts.symbols import SymbolTable
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.log import progress_of
from pipeline.graph.options import RescoreLatticesOptions
from pipeline.tasks.decoded import Hypotheses, Spool, write_rows
from pipeline.tasks.lattice_words import Judge, LatticeWords
from pipeline.tasks.weights import Weights, choose_and_write, read_weights

if TYPE_CHECKING:
    from pipeline.graph.lattice_expansion import WordLm

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sources:
    """What is read.

    Attributes:
        decoded: decoding directory with lattices. lm: directory or ARPA file.
        tokens: directory of the tokens that a model is over; None for n-grams over words.
        weights_from: directory whose weights are used; None: all are tried.
    """

    decoded: Path
    lm: Path
    tokens: Path | None = None
    weights_from: Path | None = None


def load_word_lm(lm: Path, tokens: Path | None, words: SymbolTable, options: RescoreLatticesOptions) -> WordLm:
    """A neural or n-gram model as lattices take it.

    Args:
        lm: directory of steps/train_nn_lm.py or steps/train_lm.py, or an ARPA file.
        tokens: what the model is over; None: words.
    Raises:
        ConfigError: a model over tokens without tokens, or one over words with some.
    """
    neural = (lm / META).is_file() and model_kind(lm) == "nn_lm"
    if tokens is None:
        if neural:
            raise ConfigError(f"{lm} is a model over tokens: --tokens has to name them")
        from pipeline.artifacts.arpa import Arpa
        from pipeline.graph.lm_lattice import NgramWordLm

        return NgramWordLm(Arpa.load(lm / "lm.arpa" if lm.is_dir() else lm), words)
    from pipeline.artifacts.tokens import Tokens
    from pipeline.e2e.search.fusion import NgramLm, TokenLm
    from pipeline.e2e.word_lm import TokenWordLm
    from pipeline.nn.train import pick_device
    from pipeline.tasks.decode_e2e import load_lm

    table, device = Tokens.load(tokens), pick_device(options.device)
    over_tokens: TokenLm = load_lm(lm, table, tokens)
    if not neural and not isinstance(over_tokens, NgramLm):
        raise ConfigError(f"{lm} is an n-gram over words, which --tokens {tokens} does not go with")
    if neural:
        over_tokens = over_tokens.to(device)  # type: ignore[attr-defined]
    return TokenWordLm(over_tokens, table, words, options.order, device)


def expander(lattices: LatticeSet, lm: WordLm, options: RescoreLatticesOptions) -> Callable[[Lattice], Lattice]:
    """What turns a lattice of the search into one of words with the scores of another model; pruned at the scale of the
    search.
    """
    from pipeline.graph.determinise import word_lattice
    from pipeline.graph.lattice_expansion import Expansion, expand

    weight = 1 / lattices.header.acoustic_scale
    how = Expansion(weight, 0.0, options.old_lm, options.histories, options.beam)

    def expanded(lattice: Lattice) -> Lattice:
        return expand(word_lattice(lattice, weight, max_states=options.max_states), lm, how)

    return expanded


def rescore_directory(
    sources: Sources, out_dir: Path, options: RescoreLatticesOptions, row_id: str | None, part: str
) -> dict[str, Any]:
    """Expands lattices, chooses weights and writes a decoding directory.

    Args:
        row_id: id of the row in results.json; None: none is written. part: part that the row names.
    Returns:
        Facts for the stamp.
    """
    hyps = load_hypotheses(sources.decoded)
    lattices = LatticeSet(sources.decoded / LATTICES)
    lm = load_word_lm(sources.lm, sources.tokens, lattices.words, options)
    weights = [(w, p) for w in options.lm_weights for p in options.word_penalties]
    if sources.weights_from is not None:
        weights = [read_weights(sources.weights_from)]
    refs = {h.cut_id: (h.speaker, h.ref) for h in hyps}
    texts = _expand_all(lattices, sorted(refs), expander(lattices, lm, options), weights, out_dir / LATTICES)
    names = list(lattices.words)
    found = {w: Hypotheses(refs, _words_of(texts, w, names)) for w in weights}
    if options.tried:
        save_tried(out_dir / TRIED, found)
    new = LatticeSet(out_dir / LATTICES)
    judge: Judge = "mbr" if options.mbr else "best" if options.confidences else "none"
    words = LatticeWords(new.__getitem__, new.header, new.words, judge)
    hyps, facts = choose_and_write(found, out_dir, words)
    facts["oracle_wer"] = words.oracle_wer
    if judge != "none":
        words.write_ctm(out_dir)
    if not options.lattices:
        shutil.rmtree(out_dir / LATTICES)
    if row_id is not None:
        write_rows(out_dir, row_id, part, hyps, options, facts, [words.oracle_row(row_id, part)])
    return facts


def _words_of(
    texts: Spool[Weights, list[int]], weights: Weights, names: Sequence[str]
) -> Callable[[str], tuple[str, ...]]:
    found = texts.of(weights)
    return lambda cut_id: tuple(names[w] for w in found[cut_id])


def _expand_all(
    lattices: LatticeSet,
    cut_ids: Sequence[str],
    expanded: Callable[[Lattice], Lattice],
    weights: Sequence[Weights],
    out_dir: Path,
) -> Spool[Weights, list[int]]:
    """Writes the new lattices; best words with all weights by utterance."""
    from pipeline.graph.lattices import Lattices

    texts: Spool[Weights, list[int]] = Spool(weights)
    failed = 0
    header = replace(lattices.header, sequences=())
    with LatticeWriter(out_dir, header, lattices.words) as writer, progress_of(len(cut_ids), "rescore") as done:
        for cut_id in cut_ids:
            new = expanded(lattices[cut_id])
            writer.write(cut_id, new)
            texts.put(cut_id, [found[0] for found in Lattices([new]).best_words_of(weights)])
            failed += not new.complete
            done(1)
    if failed == len(cut_ids):
        raise DataError(f"{lattices.directory}: none of the {failed} lattices has a path to the end")
    if failed:
        logger.warning("%d of %d lattices have no path to the end; their words stay empty", failed, len(cut_ids))
    return texts
