"""Word error rates by the rules of NIST's sclite, against references in .stm: alternatives, words that may be missing,
fragments, stretches that do not count, and a global map of spellings.

Alignments minimise 4 substitutions + 3 insertions + 3 deletions + 2 for each word that may be missing and is, which
counts as right; a fragment of the reference is right where the word recognised begins (or ends) with it. That is
`hubscr.pl` of SCTK, which calls ``sclite -F -D`` on what ``csrfilt.sh -dh`` has made of reference and hypothesis; SCTK
is not needed.
What is recognised here are the stretches of the reference, so no words have to be divided among them by their times.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.glm import Glm
from pipeline.artifacts.hyp import Hypothesis
from pipeline.artifacts.stm import StmLine, Text, parse_text, read_stm
from pipeline.base.errors import MismatchError
from pipeline.tasks.score import (
    GAP,
    Errors,
    ratio_interval,
    result_row,
    sums_by_speaker,
    total_errors,
)

SUBSTITUTION, INSERTION, DELETION, OPTIONAL = 4, 3, 3, 2  # costs; the last of a word that may be missing, and is


@dataclass(frozen=True)
class Arc:
    """From one node to a later one: a word, or None for no word."""

    target: int
    word: str | None = None
    optional: bool = False


@dataclass
class Network:
    """Everything that a text allows: arcs by the node that they leave, each to a later one; the first node is 0, the
    last the end.
    """

    arcs: list[list[Arc]] = field(default_factory=lambda: [[]])

    @classmethod
    def of(cls, text: Text) -> Network:
        """The network of a parsed text."""
        network = cls()
        network._append(text, 0)
        return network

    def _node(self) -> int:
        self.arcs.append([])
        return len(self.arcs) - 1

    def _append(self, text: Text, node: int) -> int:
        """Adds a text behind a node; returns where it ends."""
        for item in text:
            if isinstance(item, list):
                ends = []
                for alternative in item:
                    first = self._node()
                    self.arcs[node].append(Arc(first))
                    ends.append(self._append(alternative, first))
                node = self._node()
                for end in ends:
                    self.arcs[end].append(Arc(node))
            else:
                optional = item.startswith("(") and item.endswith(")")
                word = (item[1:-1] if optional else item).lower()
                after = self._node()
                self.arcs[node].append(Arc(after, word, optional))
                node = after
        return node


Step = tuple[str, str]  # word of the reference and of what was recognised, GAP for none


def same(ref: str, hyp: str, optional: bool = False) -> bool:
    """Whether a word is right. Fragments are by what there is of them, but for the ends of words that may be missing,
    which sclite compares whole.
    """
    if ref == hyp:
        return True
    if len(ref) > 1 and ref.endswith("-"):
        return hyp.startswith(ref[:-1])
    return len(ref) > 1 and ref.startswith("-") and not optional and hyp.endswith(ref[1:])


Node = tuple[int, int]  # of the network of the reference, of that of what was recognised


@dataclass(frozen=True)
class _Reached:
    """The cheapest way to a pair of nodes: its cost and errors, the pair before, and what came in between."""

    cost: int = 0
    wrong: int = 0
    before: Node | None = None
    step: Step | None = None
    error: bool = False


def align(ref: Network, hyp: Network) -> tuple[Errors, list[Step]]:
    """Errors on the cheapest pair of paths, and the pair; of pairs that cost the same the one with fewest errors.

    Returns:
        errors, where words that may be missing and are count as right; (reference, recognised) words in order.
    """
    best: dict[Node, _Reached] = {(0, 0): _Reached()}
    for i in range(len(ref.arcs)):
        for j in range(len(hyp.arcs)):
            here = best.get((i, j))
            if here is None:
                continue
            for target, more, step, error in _moves(ref.arcs[i], hyp.arcs[j], i, j):
                cost, wrong = here.cost + more, here.wrong + error
                known = best.get(target)
                if known is None or (cost, wrong) < (known.cost, known.wrong):
                    best[target] = _Reached(cost, wrong, (i, j), step, error)
    return _traced(best, (len(ref.arcs) - 1, len(hyp.arcs) - 1))


def _moves(
    ref_arcs: Sequence[Arc], hyp_arcs: Sequence[Arc], i: int, j: int
) -> Iterator[tuple[Node, int, Step | None, bool]]:
    """(next pair, cost, words, whether they are an error) from a pair of nodes."""
    for a in ref_arcs:
        if a.word is None:
            yield (a.target, j), 0, None, False
            continue
        yield (a.target, j), OPTIONAL if a.optional else DELETION, (a.word, GAP), not a.optional
        for b in hyp_arcs:
            if b.word is not None:
                right = same(a.word, b.word, a.optional)
                yield (a.target, b.target), 0 if right else SUBSTITUTION, (a.word, b.word), not right
    for b in hyp_arcs:
        if b.word is None:
            yield (i, b.target), 0, None, False
        else:
            yield (i, b.target), INSERTION, (GAP, b.word), True


def _traced(best: Mapping[Node, _Reached], node: Node | None) -> tuple[Errors, list[Step]]:
    steps: list[Step] = []
    words = ins = dels = subs = 0
    while node is not None:
        reached = best[node]
        if reached.step is not None:
            steps.append(reached.step)
            words += reached.step[0] != GAP
            ins += reached.step[0] == GAP
            dels += reached.error and reached.step[1] == GAP
            subs += reached.error and GAP not in reached.step
        node = reached.before
    return Errors(words, ins, dels, subs), steps[::-1]


@dataclass(frozen=True)
class Scored:
    """A stretch with its errors and alignment."""

    line: StmLine
    errors: Errors
    steps: tuple[Step, ...]


def score_stm(
    hyps: Sequence[Hypothesis], stm: Path, glm: Glm, dropped: Collection[str] = (), source: str = "what was decoded"
) -> list[Scored]:
    """Errors of each stretch of an .stm that counts.

    Args:
        hyps: of the utterances whose ids those of the stretches are.
        dropped: words that count as nothing where they are recognised, such as <unk>; in lower case.
        source: of the hypotheses, for messages.
    Raises:
        DataError: an .stm that cannot be read.
        MismatchError: a stretch that was not recognised, or an utterance that is none of them.
    """
    found = {h.cut_id: h for h in hyps}
    out = []
    for line in read_stm(stm):
        if line.ignored:
            continue
        hyp = found.pop(line.utt_id, None)
        if hyp is None:
            raise MismatchError(f"{line.where}: utterance {line.utt_id!r} is not in {source}, or stands twice")
        ref = Network.of(parse_text(glm(line.text), line.where))
        # The map goes over words that were recognised one by one, as csrfilt.sh does with .ctm.
        words = " ".join(glm(word) for word in hyp.hyp if word.lower() not in dropped)
        told = f"{source}: {line.utt_id}, mapped for {stm}"
        errors, steps = align(ref, Network.of(parse_text(words, told)))
        out.append(Scored(line, errors, tuple(steps)))
    if found:
        raise MismatchError(
            f"{stm}: has no stretch for {len(found)} utterances of {source}, such as {next(iter(found))!r}"
        )
    return out


def subsets(scored: Iterable[Scored], parts: Mapping[str, str]) -> dict[str, list[Scored]]:
    """The stretches of recordings whose names begin with a string, by the name of the subset; empty ones are out."""
    scored = list(scored)
    chosen = {name: [s for s in scored if s.line.recording.startswith(prefix)] for name, prefix in parts.items()}
    return {name: some for name, some in chosen.items() if some}


def stm_row(row_id: str, part: str, scored: Sequence[Scored]) -> dict[str, Any]:
    """Row of results: word error rate, its counts and a bootstrap interval, over speakers where there are enough."""
    total = total_errors([s.errors for s in scored])
    numerator, denominator = (np.array([getattr(s.errors, name) for s in scored]) for name in ("total", "words"))
    speakers = [s.line.speaker for s in scored]
    low, high = ratio_interval(numerator, denominator, speakers)
    counts = {
        "errors": total.total, "utterances": len(scored), "words": total.words, "ins": total.ins, "dels": total.dels,
        "subs": total.subs, "speakers": len(set(speakers)),
    }  # fmt: skip
    groups = sums_by_speaker(numerator, denominator, speakers, 100.0)
    return result_row(row_id, part, "wer", total.wer, low, high, counts, groups=groups)


def report(scored: Iterable[Scored]) -> Iterable[str]:
    """A line for each stretch: its errors, and its words as in errs.txt."""
    for s in scored:
        words = " ".join(r if same(r, h) else f"({r}->{h})" for r, h in s.steps)
        yield f"{s.line.utt_id}:\t{s.errors.total}/{s.errors.words}\t{words}"
