"""Back-off n-gram language models in the ARPA format: reading with checks, training, probabilities, perplexity."""

from __future__ import annotations

import contextlib
import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.artifacts.characters import WHOLE_NUMBER, split_fields
from pipeline.artifacts.corpus import iter_cuts
from pipeline.artifacts.shar import is_shar
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write, read_jsonl, read_lines

BOS, EOS, UNK = "<s>", "</s>", "<unk>"
LOG10 = math.log(10.0)
ZERO = -99.0  # log10 probability that ARPA files write for zero
Ngram = tuple[str, ...]


@dataclass
class Arpa:
    """A back-off model.

    Attributes:
        order: length of the longest n-grams.
        probs: n-gram -> natural-log probability of its last word after the others.
        backoffs: history -> natural-log back-off weight; 0.0 for histories that are not listed.
        by_order: number of n-grams of length 1, 2, ...
    """

    order: int
    probs: dict[Ngram, float]
    backoffs: dict[Ngram, float] = field(default_factory=dict)

    @property
    def by_order(self) -> list[int]:
        counts = Counter(len(n) for n in self.probs)
        return [counts[n] for n in range(1, self.order + 1)]

    def words(self) -> list[str]:
        """Predictable words in file order, without the sentence markers."""
        return [n[0] for n in self.probs if len(n) == 1 and n[0] not in (BOS, EOS)]

    def log_prob(self, history: Sequence[str], word: str) -> float:
        """Natural-log probability of a word after a history of any length; -inf for a word that the model lacks."""
        context = tuple(history)[-(self.order - 1) :] if self.order > 1 else ()
        score = 0.0
        while True:
            found = self.probs.get((*context, word))
            if found is not None:
                return score + found
            if not context:
                return -math.inf
            score += self.backoffs.get(context, 0.0)
            context = context[1:]

    def sentence_log_prob(self, words: Sequence[str]) -> float:
        """Natural-log probability of a sentence with its end."""
        history: list[str] = [BOS]
        total = 0.0
        for word in [*words, EOS]:
            total += self.log_prob(history, word)
            history.append(word)
        return total

    def perplexity(self, sentences: Iterable[Sequence[str]]) -> dict[str, float | int | None]:
        """Perplexity as SRILM counts it: sentence ends are events, unknown words are left out and counted.

        Returns:
            sentences, words, oov (words without probability), perplexity (None when nothing was predicted).
        """
        log_sum, events, num_sentences, num_words, oov = 0.0, 0, 0, 0, 0
        for words in sentences:
            history: list[str] = [BOS]
            num_sentences, num_words = num_sentences + 1, num_words + len(words)
            for word in [*words, EOS]:
                score = self.log_prob(history, word)
                history.append(word)
                if score < ZERO * LOG10 / 2:
                    oov += word != EOS
                else:
                    log_sum, events = log_sum + score, events + 1
        return {
            "sentences": num_sentences,
            "words": num_words,
            "oov": oov,
            "perplexity": math.exp(-log_sum / events) if events else None,
        }

    def save(self, path: str | Path) -> None:
        """Writes the model; base-10 logarithms with 7 digits, as other tools do."""
        with atomic_write(path) as f:
            f.write("\\data\\\n")
            f.writelines(f"ngram {n}={count}\n" for n, count in enumerate(self.by_order, 1))
            for n in range(1, self.order + 1):
                f.write(f"\n\\{n}-grams:\n")
                for ngram, prob in self.probs.items():
                    if len(ngram) == n:
                        backoff = self.backoffs.get(ngram)
                        tail = "" if backoff is None else f"\t{backoff / LOG10:.7f}"
                        f.write(f"{max(prob / LOG10, ZERO):.7f}\t{' '.join(ngram)}{tail}\n")
            f.write("\n\\end\\\n")

    @classmethod
    def load(cls, path: str | Path) -> Arpa:
        """Reads and checks a model; every fault is a DataError with file and line."""
        return _Reader(path).read()


class _Reader:
    """State of reading one file: which section, how many n-grams were announced and how many have come."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.line_no, self.section = path, 0, "start"
        self.announced: list[int] = []
        self.seen: list[int] = []
        self.probs: dict[Ngram, float] = {}
        self.backoffs: dict[Ngram, float] = {}

    def fail(self, text: str) -> DataError:
        return DataError(f"{self.path}:{self.line_no}: {text}")

    def read(self) -> Arpa:
        for self.line_no, line in read_lines(self.path):
            if self.section == "end":
                break
            if self.section == "start" and line != "\\data\\":
                continue  # free text, which may itself explain sections (the CMU toolkit's does)
            if line.startswith("\\"):
                self._header(line)
            elif line and self.section == "data":
                self._count(line)
            elif line:
                self._ngram(line)
        if self.section == "start":
            raise DataError(f"{self.path}: not an ARPA file (no line \\data\\)")
        if self.section != "end":
            raise self.fail("the file ends before \\end\\ (truncated?)")
        for word in (BOS, EOS):
            if (word,) not in self.probs:
                raise DataError(f"{self.path}: the unigram {word} is missing")
        return Arpa(len(self.announced), self.probs, self.backoffs)

    def _header(self, line: str) -> None:
        last = len(self.seen)
        if last and self.seen[-1] != self.announced[last - 1]:
            raise self.fail(f"{self.seen[-1]} {last}-grams where \\data\\ announced {self.announced[last - 1]}")
        if line == "\\data\\" and self.section == "start":
            self.section = "data"
        elif line == f"\\{last + 1}-grams:" and self.section != "start" and last < len(self.announced):
            self.section = line
            self.seen.append(0)
        elif line == "\\end\\" and self.announced and last == len(self.announced):
            self.section = "end"
        else:
            raise self.fail(f"unexpected section {line!r}")

    def _count(self, line: str) -> None:
        left, _, right = line.partition("=")
        if left.split() != ["ngram", str(len(self.announced) + 1)] or not WHOLE_NUMBER.fullmatch(right.strip(" \t")):
            raise self.fail(f"expected 'ngram {len(self.announced) + 1}=COUNT', found {line!r}")
        self.announced.append(int(right))

    def _ngram(self, line: str) -> None:
        n = len(self.seen)
        fields = split_fields(line, f"{self.path}:{self.line_no}")
        if len(fields) not in (n + 1, n + 2):
            raise self.fail(f"expected a probability, {n} words and perhaps a back-off weight, found {line!r}")
        ngram = tuple(fields[1 : n + 1])
        if ngram in self.probs:
            raise self.fail(f"the n-gram {' '.join(ngram)!r} stands twice")
        if n > 1 and (ngram[:-1] not in self.probs or (ngram[-1],) not in self.probs):
            raise self.fail(
                f"the n-gram {' '.join(ngram)!r} has no {n - 1}-gram for its history or no unigram for its word"
            )
        prob = self._number(fields[0])
        if prob > 1e-4:
            raise self.fail(f"log10 probability {fields[0]} is above 0")
        self.seen[-1] += 1
        self.probs[ngram] = prob * LOG10
        if len(fields) == n + 2:
            self.backoffs[ngram] = self._number(fields[-1]) * LOG10

    def _number(self, text: str) -> float:
        try:
            value = ZERO if text.lower() == "-inf" else float(text)
        except ValueError:
            raise self.fail(f"{text!r} is not a number") from None
        if not math.isfinite(value):
            raise self.fail(f"{text!r} is not a finite number")
        return value


def read_sentences(path: str | Path) -> Iterator[list[str]]:
    """Sentences of a text file (one a line; empty lines do not count) or of a data directory, of shards too."""
    p = Path(path)
    empty = True
    lines: Iterator[tuple[int, str]]
    if is_shar(p):
        lines = ((line, cut["supervisions"][0]["text"]) for line, cut in iter_cuts(p))
    elif p.is_dir():
        p = p / "supervisions.jsonl.gz"
        lines = ((i, str(s.get("text") or "")) for i, s in enumerate(read_jsonl(p), 1))
    else:
        lines = read_lines(p)
    for line_no, line in lines:
        words = split_fields(line, f"{p}:{line_no}")
        if words:
            if BOS in words or EOS in words:
                raise DataError(f"{p}:{line_no}: holds a sentence marker, {BOS} or {EOS}")
            empty = False
            yield words
    if empty:
        raise DataError(f"{path}: holds no text")


def train_unigram(sentences: Iterable[Sequence[str]], vocabulary: Iterable[str] = (), add: float = 0.0) -> Arpa:
    """Relative frequencies of words and sentence ends.

    Args:
        vocabulary: words that get at least the added count.
        add: count added to every word of the vocabulary (0: maximum likelihood, unseen words cannot be recognised).
    """
    counts = dict[str, float](Counter(word for words in sentences for word in (*words, EOS)))
    if add > 0:
        for word in vocabulary:
            counts[word] = counts.get(word, 0.0) + add
    total = sum(counts.values())
    probs: dict[tuple[str, ...], float] = {(BOS,): ZERO * LOG10}
    probs.update({(w,): math.log(c / total) for w, c in sorted(counts.items())})
    return Arpa(1, probs)


def train_kneser_ney(
    sentences: Iterable[Sequence[str]], order: int, min_counts: Sequence[int] = (), prune: float = 0.0
) -> Arpa:
    """Unmodified back-off Kneser-Ney by kaldingram (as SRILM's ngram-count -ukndiscount -kn-modify-counts-at-end).

    Args:
        order: at least 2; kaldingram counts only sentence beginnings at order 1.
        min_counts: n-grams seen less often are dropped, by order from 1; missing entries are 0.
        prune: relative-entropy threshold of Stolcke pruning; 0: none.
    """
    from kaldingram.prune import ArpaParser
    from kaldingram.prune import prune as prune_model
    from kaldingram.train import NgramCounts

    assert order >= 2, order
    # kaldingram reads bytes as Latin-1, where some UTF-8 bytes are blanks: numbers stand for the words.
    number: dict[str, str] = {}
    counts = NgramCounts(order)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
        for words in sentences:
            counts.add_raw_counts_from_line(" ".join(number.setdefault(w, str(len(number))) for w in words))
        if any(min_counts):
            counts.apply_count_cutoffs([*min_counts, *[0] * order][:order])
        counts.cal_discounting_constants()
        counts.cal_f()
        counts.cal_bow()
        text = io.StringIO()
        counts.print_as_arpa(text)
        model = ArpaParser().loads(text.getvalue())[0] if prune > 0 else None
        if model is not None:
            prune_model(model, prune, 2)
            text = io.StringIO()
            model.write(text)
    return _renamed(text.getvalue(), {v: k for k, v in number.items()})


def _renamed(text: str, names: dict[str, str]) -> Arpa:
    """Parses an ARPA text whose words are numbers; the writer is trusted."""
    probs: dict[Ngram, float] = {}
    backoffs: dict[Ngram, float] = {}
    order = 0
    for line in text.splitlines():
        if line.endswith("-grams:"):
            order = int(line[1 : line.index("-")])
        elif order and line and not line.startswith("\\"):
            fields = line.split()
            ngram = tuple(names.get(w, w) for w in fields[1 : order + 1])
            probs[ngram] = float(fields[0]) * LOG10
            if len(fields) == order + 2:
                backoffs[ngram] = float(fields[-1]) * LOG10
    return Arpa(order, probs, backoffs)
