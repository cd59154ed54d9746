"""The lang directory: everything that ties words to phones to HMM topologies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass as record

from pipeline.artifacts.lexicon import Lexicon, LexiconFile, Pronunciation
from pipeline.artifacts.oov import NearWords
from pipeline.artifacts.symbols import SymbolTable
from pipeline.artifacts.topo import Topo, make_topo
from pipeline.base.errors import DataError
from pipeline.base.files import content_id, write_json
from pipeline.base.records import STRICT, read_record

SILENCE = "SIL"
SPOKEN_NOISE = "SPN"  # the phone of the out-of-vocabulary word
WORD_END = "_E"
POSITIONS = ("_B", "_I", WORD_END, "_S")  # first, inner, last and only phone of a word, as Kaldi marks them
Position = Literal["none", "word_end", "full"]


def without_position(symbol: str, position: Position) -> str:
    """A phone's name without its position marker."""
    return symbol[:-2] if symbol[-2:] in _markers(position) else symbol


def position_of(phones: Iterable[str]) -> Position:
    """Whether the names of a lang's phones have position markers, where only they can tell: in "full" all end with one,
    in "word_end" some with _E. X-SAMPA's t_S and d_Z beside other phones are no markers.
    """
    spoken = [p for p in phones if p not in (SILENCE, SPOKEN_NOISE) and not p.startswith(("<", "#"))]
    if spoken and all(p.endswith(POSITIONS) for p in spoken):
        return "full"
    return "word_end" if any(p.endswith(WORD_END) for p in spoken) else "none"


@record(frozen=True, config=STRICT)
class _Facts:
    """What lang.json holds; see ``Lang``."""

    id: str
    unit: str
    position: Position
    silence_prob: float
    oov_word: str | None
    blank: bool = False


@dataclass(frozen=True)
class Lang:
    """Phones, words, pronunciations and topology of one unit (phones or graphemes).

    Attributes:
        unit: "phone" or "grapheme".
        phones: <eps>, SIL, then SPN if there is an OOV word, then the units in alphabetical order.
        words: <eps>, then the vocabulary in alphabetical order.
        lexicon: pronunciations over ``phones`` (word-end markers applied).
        topo: HMM topology of every phone but <eps>.
        position: "word_end" gives the last phone of a word a symbol of its own (paper A's labels); "full" tells the
            first, inner, last and only phone of a word apart (Kaldi's word-position-dependent phones).
        silence_prob: probability of the optional silence at each word boundary and at both ends.
        oov_word: word that stands for unknown ones; None: an unknown word is an error.
        blank: silence is CTC's blank: it may stand between any two phones, and must stand between equal ones.
    """

    unit: str
    phones: SymbolTable
    words: SymbolTable
    lexicon: Lexicon
    topo: Topo
    position: Position = "none"
    silence_prob: float = 0.5
    oov_word: str | None = None
    blank: bool = False

    @property
    def silence_id(self) -> int:
        return self.phones.id(SILENCE)

    @property
    def id(self) -> str:
        """Content hash that every artifact made with this lang carries."""
        return content_id(
            {
                "unit": self.unit,
                "phones": list(self.phones),
                "words": list(self.words),
                "topo": self.topo.id,
                "lexicon": [[e.word, e.prob, list(e.phones)] for e in self.lexicon.entries],
                "position": self.position,
                "silence_prob": self.silence_prob,
                "oov_word": self.oov_word,
                **({"blank": True} if self.blank else {}),
            }
        )

    def base_phone(self, phone: str) -> str:
        """The phone without its position marker."""
        return without_position(phone, self.position)

    def marked(self, phones: Sequence[str]) -> tuple[str, ...]:
        """The phones of a word, given without position markers, with them."""
        return _mark(phones, self.position)

    def base_phones(self) -> dict[str, str]:
        """Phone -> phone without position marker, for all phones with a topology."""
        return {p: self.base_phone(p) for p in self.phones if p in self.topo.phones}

    def base_lexicon(self) -> Lexicon:
        """The pronunciations without position markers, and without the out-of-vocabulary word."""
        entries = (e for e in self.lexicon.entries if e.word != self.oov_word)
        return Lexicon(replace(e, phones=tuple(self.base_phone(p) for p in e.phones)) for e in entries)

    def with_lexicon(self, lexicon: Lexicon, where: str | Path) -> Lang:
        """The same phones and topology with other words.

        Args:
            lexicon: over some of the phones, without position markers.
            where: names it in messages.
        Raises:
            DataError: a phone that is not here, or the out-of-vocabulary word.
        """
        entries = []
        for e in lexicon.entries:
            marked = replace(e, phones=self.marked(e.phones))
            for plain, phone in zip(e.phones, marked.phones):
                if phone not in self.phones or plain == SILENCE:
                    raise DataError(f"{where}: phone {plain!r} of word {e.word!r} is none of the model's")
            if e.word == self.oov_word:
                raise DataError(f"{where}: word {e.word!r} stands for unknown words")
            entries.append(marked)
        entries += [e for e in self.lexicon.entries if e.word == self.oov_word]
        words = SymbolTable(sorted({e.word for e in entries}))
        lang = replace(self, words=words, lexicon=Lexicon(entries))
        lang.validate(where)
        return lang

    def word_ids(self, text: str, where: str) -> list[int]:
        """Ids of a transcript's words.

        Args:
            text: words separated by blanks.
            where: file and utterance for the message.
        Raises:
            DataError: empty transcript, or a word outside the lexicon when the lang has no OOV word.
        """
        words = text.split()
        if not words:
            raise DataError(f"{where}: the transcript is empty")
        ids = []
        for word in words:
            if word not in self.lexicon:
                if self.oov_word is None:
                    near = NearWords(self.lexicon.words()).find(word)
                    told = "" if near is None else f", which has {near.word!r}; they differ in {near.difference}"
                    raise DataError(f"{where}: word {word!r} is not in the lexicon{told}")
                word = self.oov_word
            ids.append(self.words.id(word))
        return ids

    def save(self, directory: str | Path) -> None:
        """Writes phones.txt words.txt lexiconp.txt topo.json lang.json."""
        d = Path(directory)
        d.mkdir(parents=True, exist_ok=True)
        self.phones.save(d / "phones.txt")
        self.words.save(d / "words.txt")
        self.lexicon.save(d / "lexiconp.txt")
        self.topo.save(d / "topo.json")
        write_json(
            d / "lang.json",
            {
                "id": self.id,
                "unit": self.unit,
                "position": self.position,
                "silence_prob": self.silence_prob,
                "oov_word": self.oov_word,
                **({"blank": True} if self.blank else {}),
            },
        )

    @classmethod
    def load(cls, directory: str | Path) -> Lang:
        """Reads and validates a lang directory; DataError names the file (and line) that is wrong."""
        d = Path(directory)
        facts = read_record(d / "lang.json", _Facts)
        lang = cls._read(d, facts, SymbolTable.load(d / "words.txt"), Lexicon.load(d / "lexiconp.txt"))
        if facts.id != lang.id:
            raise DataError(
                f"{d}: files were changed after the lang was made (lang.json says id {facts.id}, "
                f"the files give {lang.id}); make it anew with steps/make_lang.py"
            )
        return lang

    @classmethod
    def load_without_words(cls, directory: str | Path) -> tuple[Lang, LexiconFile]:
        """A lang that has no word yet but the out-of-vocabulary word, for `with_lexicon`, and its pronunciations, which
        are read and checked when they are asked for (with position markers); much faster than `load`, which checks
        the whole lexicon.
        """
        d = Path(directory)
        facts, lexicon = read_record(d / "lang.json", _Facts), LexiconFile(d / "lexiconp.txt")
        entries = lexicon.get(facts.oov_word, []) if facts.oov_word is not None else []
        return cls._read(d, facts, SymbolTable({e.word for e in entries}), Lexicon(entries)), lexicon

    @classmethod
    def _read(cls, d: Path, facts: _Facts, words: SymbolTable, lexicon: Lexicon) -> Lang:
        """The rest of a lang directory, validated."""
        lang = cls(
            unit=facts.unit,
            phones=SymbolTable.load(d / "phones.txt"),
            words=words,
            lexicon=lexicon,
            topo=Topo.load(d / "topo.json"),
            position=facts.position,
            silence_prob=facts.silence_prob,
            oov_word=facts.oov_word,
            blank=facts.blank,
        )
        lang.validate(d)
        return lang

    def validate(self, where: str | Path) -> None:
        """Cross-checks the files; DataError names the first contradiction."""
        w = Path(where)
        if not 0.0 <= self.silence_prob < 1.0:
            raise DataError(f"{w / 'lang.json'}: silence_prob {self.silence_prob} is outside [0, 1)")
        if self.blank and self.silence_prob == 0.0:
            raise DataError(f"{w / 'lang.json'}: a blank needs a silence_prob above 0")
        if SILENCE not in self.phones:
            raise DataError(f"{w / 'phones.txt'}: the silence phone {SILENCE!r} is missing")
        for line_no, entry in enumerate(self.lexicon.entries, 1):
            for phone in entry.phones:
                if phone not in self.phones:
                    raise DataError(
                        f"{w / 'lexiconp.txt'}:{line_no}: phone {phone!r} of word {entry.word!r} is not in phones.txt"
                    )
            if entry.word not in self.words:
                raise DataError(f"{w / 'lexiconp.txt'}:{line_no}: word {entry.word!r} is not in words.txt")
        for word in list(self.words)[1:]:
            if word not in self.lexicon:
                raise DataError(f"{w / 'words.txt'}: word {word!r} has no pronunciation in lexiconp.txt")
        for phone in list(self.phones)[1:]:
            if phone not in self.topo.phones:
                raise DataError(f"{w / 'topo.json'}: phone {phone!r} has no topology")
        if self.oov_word is not None and self.oov_word not in self.lexicon:
            raise DataError(f"{w / 'lang.json'}: the OOV word {self.oov_word!r} has no pronunciation")


def make_lang(
    lexicon: Lexicon,
    unit: str = "phone",
    position: Position = "none",
    oov_word: str | None = None,
    silence_prob: float = 0.5,
    speech_states: int = 3,
    silence_states: int = 1,
    speech_forward: float = 1 / 3,
    silence_forward: float = 1 / 40,
    blank: bool = False,
) -> Lang:
    """Builds a lang from a lexicon.

    Args:
        lexicon: without silence and without the OOV word; both are added here.
        speech_states, silence_states, speech_forward, silence_forward: see ``pipeline.artifacts.topo.make_topo``.
        blank: see ``Lang``; with one state per phone this is the topology of CTC.
    Raises:
        DataError: a phone named like a special one, or a word named like a special symbol.
    """
    special = [SILENCE] + ([SPOKEN_NOISE] if oov_word else [])
    clash = set(lexicon.phones()) & {SILENCE, SPOKEN_NOISE, "<eps>"}
    if clash:
        raise DataError(f"the lexicon uses the reserved phone {sorted(clash)[0]!r}")
    for phone in lexicon.phones():
        if phone.startswith("#") or phone[-2:] in _markers(position):
            raise DataError(f"phone {phone!r} looks like a disambiguation symbol or a position marker")
    entries = list(lexicon.entries)
    if oov_word is not None:
        if oov_word in lexicon:
            raise DataError(f"the lexicon already has the OOV word {oov_word!r}")
        entries.append(Pronunciation(oov_word, (SPOKEN_NOISE,)))
    entries = [e if e.phones == (SPOKEN_NOISE,) else replace(e, phones=_mark(e.phones, position)) for e in entries]
    units = sorted({p for e in entries for p in e.phones} - {SPOKEN_NOISE})
    topo = make_topo(units + special[1:], [SILENCE], speech_states, silence_states, speech_forward, silence_forward)
    lang = Lang(
        unit,
        SymbolTable(special + units),
        SymbolTable(sorted({e.word for e in entries})),
        Lexicon(entries),
        topo,
        position,
        silence_prob,
        oov_word,
        blank,
    )
    lang.validate("lang")
    return lang


def _markers(position: Position) -> tuple[str, ...]:
    return {"none": (), "word_end": (WORD_END,), "full": POSITIONS}[position]


def _mark(phones: Sequence[str], position: Position) -> tuple[str, ...]:
    """A word's phones with their position markers."""
    if position == "none":
        return tuple(phones)
    if position == "word_end":
        return (*phones[:-1], phones[-1] + WORD_END)
    first, inner, last, only = POSITIONS
    if len(phones) == 1:
        return (phones[0] + only,)
    return (phones[0] + first, *(p + inner for p in phones[1:-1]), phones[-1] + last)


def uncovered_words(lang_words: Iterable[str], lexicon: Lexicon) -> list[str]:
    """Sorted words that the lexicon does not pronounce."""
    return sorted({w for w in lang_words if w not in lexicon})
