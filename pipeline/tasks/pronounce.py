"""Pronunciations of the words of a corpus: by a lexicon, by a model learned from it, or by letters."""

from __future__ import annotations

import json
import logging
import unicodedata
from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.index import load_index
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.lexicon_formats import read_lexicon
from pipeline.artifacts.text_norm import graphemes
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.files import atomic_write
from pipeline.g2p import espeak
from pipeline.tasks.train_options import PronounceOptions

if TYPE_CHECKING:
    from pipeline.g2p.joint_units import G2p

logger = logging.getLogger(__name__)

MOST_UNKNOWN = 0.5  # share of the running words above which a lexicon is another language's, or misread
G2P_FEWEST = 50  # entries from which letters can be learned at all
G2P_MOST = 20_000  # entries that are learned from: more cost minutes and gain little
LANG = "silence_states: 3\nposition: word_end\n"
SHOWN = 5  # words in a message


@dataclass(frozen=True)
class Pronounced:
    """Words with pronunciations.

    Attributes:
        unit: "phone" or "grapheme".
        lexicon: the words, as they are spelt in the text.
        further: entries of the given lexicon over the same phones; empty for letters.
        predicted: words that were pronounced from their letters by a model.
        g2p: that model.
    """

    unit: str
    lexicon: Lexicon
    further: Lexicon = field(default_factory=lambda: Lexicon([]))
    predicted: tuple[str, ...] = ()
    g2p: G2p | None = None

    def all_entries(self) -> Lexicon:
        """The words, then those of the lexicon that are not among them."""
        more = (e for e in self.further.entries if e.word not in self.lexicon)
        return Lexicon([*self.lexicon.entries, *more])


def pronounce_words(
    words: Mapping[str, int], path: Path | None, options: PronounceOptions, learn: bool = False
) -> Pronounced:
    """Pronounces the words of a corpus.

    Args:
        words: word -> how often it stands in the corpus.
        path: lexicon in any known format; None: words are said by espeak, or spelt with their letters.
        options: how the lexicon is read, and espeak's language.
        learn: whether a model of pronunciations is learned from a lexicon that lacks no word, too.
    Raises:
        DataError: words that cannot be pronounced, or a lexicon that has hardly any of them.
        ConfigError: a lexicon and espeak, or a language that espeak does not know.
    """
    if options.espeak is not None:
        if path is not None:
            raise ConfigError("--lexicon and --espeak both say how words are pronounced; give one of them")
        return _said_by_espeak(words, options.espeak, learn)
    if path is None:
        return Pronounced("grapheme", _spelt(words))
    given = read_lexicon(path, options.lexicon_format, options.stress)
    spellings = {word: spelling_in(given.by_word, word) for word in sorted(words)}
    found = [replace(e, word=w) for w, s in spellings.items() if s is not None for e in given.by_word[s]]
    unknown = [word for word, spelling in spellings.items() if spelling is None]
    _report(words, unknown, path)
    phones = {p for e in found for p in e.phones}
    further = Lexicon(e for e in given.entries if phones.issuperset(e.phones))
    g2p = _learn(further, unknown, path) if unknown or learn else None
    predicted = [] if g2p is None else predict(g2p, unknown, further.by_word)
    entries = sorted([*found, *predicted], key=lambda e: e.word)
    return Pronounced("phone", Lexicon(entries), further, tuple(unknown), g2p)


def _said_by_espeak(words: Iterable[str], language: str, learn: bool) -> Pronounced:
    said = espeak.pronounce(sorted(words), language)
    silent = [word for word, phones in said.items() if not phones]
    if silent:
        raise DataError(
            f"espeak-ng does not say {len(silent)} words ({', '.join(silent[:SHOWN])}); take them out of the text"
        )
    lexicon = Lexicon(Pronunciation(word, phones) for word, phones in said.items())
    logger.info(
        "espeak-ng pronounces %s words with %d phones", f"{len(said):,}", len({p for s in said.values() for p in s})
    )
    return Pronounced("phone", lexicon, g2p=_learn(lexicon, [], Path(f"espeak-{language}")) if learn else None)


def write_pronounced(data: Path, out: Path, path: Path | None, options: PronounceOptions) -> dict[str, Any]:
    """Writes lexicon.txt, predicted.txt and lang.yaml for the words of a data directory; returns facts."""
    words = words_of(data)
    said = pronounce_words(words, path, options)
    said.lexicon.save(out / "lexicon.txt", probs=False)
    with atomic_write(out / "predicted.txt") as file:
        file.writelines(f"{e.word} {' '.join(e.phones)}\n" for w in said.predicted for e in said.lexicon.by_word[w])
    with atomic_write(out / "lang.yaml") as file:
        file.write(f"# Silence and ends of words as in egs/an4.\nunit: {said.unit}\n{LANG}")
        if said.unit == "grapheme":
            left_out = sorted({c for w in words for c in w} - {c for w in words for c in w if letters(c)})
            file.write(f"drop: {json.dumps(''.join(left_out), ensure_ascii=False)}\n")
    return {"unit": said.unit, "words": len(words), "predicted": len(said.predicted)}


def words_of(data: Path) -> Counter[str]:
    """Word -> how often it stands in the transcripts of a data directory."""
    index = load_index(data)
    return Counter(word for i in range(len(index)) for word in index.text(i).split())


def _report(words: Mapping[str, int], unknown: Collection[str], path: Path) -> None:
    """Tells which words a lexicon lacks; DataError where it has hardly any."""
    total = sum(words.values())
    running = sum(words[word] for word in unknown)
    if not unknown:
        logger.info("%s: has all %s different words", path, f"{len(words):,}")
        return
    first = ", ".join(f"{w} {n:,}" for w, n in Counter({w: words[w] for w in unknown}).most_common(SHOWN))
    told = (
        f"{path}: lacks {running:,} of {total:,} words ({running / total:.1%}), {len(unknown):,} of {len(words):,} "
        f"different ones: {first}{' ..' if len(unknown) > SHOWN else ''}"
    )
    if running > MOST_UNKNOWN * total:
        raise DataError(
            f"{told}. Is it a lexicon of this language, in this script, with words in the first column? Without a "
            "lexicon words are spelt with their letters"
        )
    logger.warning("%s; they are pronounced from their letters, as the other words are", told)


def _learn(lexicon: Lexicon, unknown: Collection[str], path: Path) -> G2p | None:
    """A grapheme-to-phoneme model of a lexicon, None where that is too small and no word is missing."""
    from pipeline.g2p.joint_units import G2p

    entries = [(e.word, e.phones) for e in lexicon.entries]
    if len(entries) < G2P_FEWEST:
        if unknown:
            raise DataError(
                f"{path}: lacks {', '.join(list(unknown)[:SHOWN])}{' ..' if len(unknown) > SHOWN else ''}, and its "
                f"{len(entries)} entries over the same phones are too few to learn how words are pronounced; add the "
                "words to it"
            )
        return None
    step = -(-len(entries) // G2P_MOST)
    try:
        return G2p.train(entries[::step])
    except DataError:
        if unknown:
            raise
        logger.info("%s: nothing can be learned from its spellings, so words outside it will have to be given", path)
        return None


def predict(model: G2p, words: Iterable[str], known: Collection[str], all_words: bool = True) -> list[Pronunciation]:
    """Pronounces words from their letters.

    Args:
        known: words that the model was learned from, or like them: mostly in capitals or mostly not.
        all_words: a word that cannot be pronounced is an error; else it is left out.
    Raises:
        DataError: names words that cannot be pronounced.
    """
    upper = sum(w.isupper() for w in known) * 2 > len(known)
    found = []
    for word in words:
        letters = plain(word)
        phones = model.pronounce(letters.upper() if upper else letters.lower()) if letters else ()
        found.append(Pronunciation(word, phones))
    silent = [p.word for p in found if not p.phones]
    if silent and all_words:
        raise DataError(
            f"{len(silent)} words cannot be pronounced from their letters ({', '.join(silent[:SHOWN])}); give their "
            "pronunciations in a lexicon"
        )
    return [p for p in found if p.phones]


def _spelt(words: Iterable[str]) -> Lexicon:
    """Words by their letters."""
    entries = [Pronunciation(word, letters(word)) for word in sorted(words)]
    silent = [e.word for e in entries if not e.phones]
    if silent:
        raise DataError(f"{len(silent)} words have no letters ({', '.join(silent[:SHOWN])}); take them out of the text")
    return Lexicon(entries)


def letters(word: str, others: Container[str] = ()) -> tuple[str, ...]:
    """Small letters, digits and marks of a word; of punctuation and symbols only what is among the others."""
    return tuple(c for c in graphemes(word) if unicodedata.category(c)[0] in "LMN" or c in others)


def plain(word: str) -> str:
    """A word without what surrounds its letters and digits, in composed form."""
    composed = unicodedata.normalize("NFC", word).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    kept = [i for i, c in enumerate(composed) if c.isalnum()]
    return composed[kept[0] : kept[-1] + 1] if kept else ""


def spelling_in(lexicon: Container[str], word: str) -> str | None:
    """How a lexicon writes a word, None if it lacks it: case and surrounding punctuation do not matter."""
    bare = plain(word)
    for candidate in (word, bare, bare.lower(), bare.upper(), bare.capitalize()):
        if candidate and candidate in lexicon:
            return candidate
    return None
