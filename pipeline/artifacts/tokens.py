"""Tokens of end-to-end models: characters or sentencepiece units, with the ids that every model and search shares."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.base.errors import ConfigError, DataError
from pipeline.base.files import atomic_write, content_id, read_json, read_lines, write_json

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

BLANK, EOS, UNK = "<blk>", "<sos/eos>", "<unk>"
SPECIAL = (BLANK, EOS, UNK)
BLANK_ID, EOS_ID, UNK_ID = range(3)
WORD_START = "▁"  # sentencepiece's mark of a word's beginning
TABLE, FACTS, MODEL = "tokens.txt", "tokens.json", "bpe.model"
Unit = Literal["char", "bpe", "unigram"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TokenOptions:
    """Which tokens are made of a text."""

    unit: Unit = Field(
        "bpe", description="char: characters; bpe: byte pair encoding; unigram: sentencepiece's unigram model."
    )
    vocab_size: int = Field(
        100,
        ge=4,
        description="bpe, unigram: number of tokens with blank, sentence end and unknown; "
        "unigram may end with fewer where the text is small.",
    )


class Tokens:
    """An ordered set of tokens: 0 blank (CTC, RNN-T), 1 begin and end of the sentence, 2 unknown, then the pieces.

    A piece that begins a word starts with ``▁``; for characters that mark is a piece of its own. No piece crosses a
    word boundary, so the tokens of a text are those of its words one after the other.
    """

    def __init__(self, unit: Unit, pieces: Iterable[str], model: bytes = b"", where: str | Path = "tokens") -> None:
        """Args:
        pieces: in id order, without the three special ones.
        model: serialised sentencepiece model; empty for characters.
        where: for messages.
        """
        if unit not in ("char", "bpe", "unigram"):
            raise DataError(f"{where}: unit {unit!r} is none of char, bpe, unigram")
        self.unit: Unit = unit
        self.pieces = [*SPECIAL, *pieces]
        self._model, self._where = model, str(where)
        self._ids: dict[str, int] = {}
        for i, piece in enumerate(self.pieces):
            if not piece or any(c.isspace() for c in piece):
                raise DataError(f"{where}: token {i}, {piece!r}, is empty or holds a blank")
            if self._ids.setdefault(piece, i) != i:
                raise DataError(f"{where}: token {piece!r} stands twice, as {self._ids[piece]} and {i}")
        if unit == "char":
            wrong = next((p for p in self.pieces[3:] if len(p) != 1), None)
            if wrong is not None or WORD_START not in self._ids:
                raise DataError(
                    f"{where}: " + (f"token {wrong!r} is no character" if wrong else f"{WORD_START!r} is missing")
                )
        self._processor = None if unit == "char" else self._load_processor()
        self._cache: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def id(self) -> str:
        """Content hash that every model made for these tokens carries."""
        digest = hashlib.sha256(self._model).hexdigest()
        return content_id({"unit": self.unit, "pieces": self.pieces, "model": digest})

    def _load_processor(self) -> SentencePieceProcessor:
        """The sentencepiece model; DataError unless its pieces are those of the table."""
        from sentencepiece import SentencePieceProcessor

        processor = SentencePieceProcessor()
        try:
            assert self._model
            processor.LoadFromSerializedProto(self._model)
        except (RuntimeError, AssertionError):
            raise DataError(f"{self._where}: {MODEL} is no sentencepiece model") from None
        own = [UNK, *self.pieces[3:]]
        if processor.GetPieceSize() != len(own):
            raise DataError(f"{self._where}: {MODEL} has {processor.GetPieceSize()} pieces, {TABLE} {len(own)}")
        try:
            theirs = [processor.IdToPiece(i) for i in range(len(own))]
        except UnicodeDecodeError:
            raise DataError(f"{self._where}: {MODEL} has a piece that is not UTF-8") from None
        for piece, other in zip(own, theirs):
            if piece != other:
                raise DataError(
                    f"{self._where}: {MODEL} has {other!r} where {TABLE} has {piece!r}; they do not belong together"
                )
        return processor

    def encode_word(self, word: str) -> list[int]:
        """Ids of one word; what no piece covers is the unknown token, and so is the word <unk> of transcripts."""
        found = self._cache.get(word)
        if found is None:
            if word == UNK:
                found = [UNK_ID]
            elif self._processor is None:
                found = [self._ids.get(c, UNK_ID) for c in (WORD_START, *word)]
            else:
                found = [i + UNK_ID for i in self._processor.EncodeAsIds(word)]
            self._cache[word] = found
        return list(found)

    def encode(self, text: str) -> list[int]:
        """Ids of a text's words; no sentence ends are added."""
        return [i for word in text.split() for i in self.encode_word(word)]

    def spell(self, words: Sequence[str]) -> list[str]:
        """Pieces of a sentence, for language models over tokens."""
        return [self.pieces[i] for word in words for i in self.encode_word(word)]

    def decode(self, ids: Sequence[int]) -> str:
        """Words of token ids, separated by blanks; blanks and sentence ends are left out."""
        text = "".join(self.pieces[i] for i in ids if i not in (BLANK_ID, EOS_ID))
        return " ".join(text.replace(WORD_START, " ").split())

    def starts_word(self) -> list[bool]:
        """For each id whether the token begins a word."""
        return [p.startswith(WORD_START) for p in self.pieces]

    def save(self, directory: str | Path) -> None:
        """Writes tokens.txt, tokens.json and, for sentencepiece, bpe.model."""
        d = Path(directory)
        d.mkdir(parents=True, exist_ok=True)
        with atomic_write(d / TABLE) as f:
            f.writelines(f"{piece} {i}\n" for i, piece in enumerate(self.pieces))
        if self._model:
            with atomic_write(d / MODEL, "wb") as f:
                f.write(self._model)
        write_json(d / FACTS, {"unit": self.unit, "id": self.id})

    @classmethod
    def load(cls, directory: str | Path) -> Tokens:
        """Reads a directory; DataError names the file (and line) that is wrong."""
        d = Path(directory)
        facts = read_json(d / FACTS)
        if not isinstance(facts, dict) or not {"unit", "id"} <= set(facts):
            raise DataError(f'{d / FACTS}: needs "unit" and "id"')
        pieces = _read_table(d / TABLE)
        model = b""
        if facts["unit"] != "char":
            if not (d / MODEL).is_file():
                raise DataError(f"{d / MODEL}: no such file")
            model = (d / MODEL).read_bytes()
        tokens = cls(facts["unit"], pieces, model, d)
        if tokens.id != facts["id"]:
            raise DataError(
                f"{d}: files were changed after the tokens were made ({FACTS} says id {facts['id']}, the files give "
                f"{tokens.id}); make them anew with steps/train_tokens.py"
            )
        return tokens


def _read_table(path: Path) -> list[str]:
    """Pieces of a tokens.txt without the special ones."""
    pieces: dict[str, None] = {}  # in order
    for line_no, line in read_lines(path):
        fields = line.split()
        if len(fields) != 2 or fields[1] != str(len(pieces)):
            raise DataError(f"{path}:{line_no}: expected a token and the id {len(pieces)}, found {line!r}")
        if len(pieces) < len(SPECIAL) and fields[0] != SPECIAL[len(pieces)]:
            raise DataError(f"{path}:{line_no}: token {len(pieces)} must be {SPECIAL[len(pieces)]}, not {fields[0]!r}")
        if fields[0] in pieces:
            raise DataError(f"{path}:{line_no}: token {fields[0]!r} stands twice")
        pieces[fields[0]] = None
    if len(pieces) <= len(SPECIAL):
        raise DataError(f"{path}: holds no tokens beside the special ones")
    return list(pieces)[len(SPECIAL) :]


def train_tokens(sentences: Iterable[Sequence[str]], options: TokenOptions) -> Tokens:
    """Makes tokens of a text.

    Args:
        sentences: their words, as ``pipeline.artifacts.arpa.read_sentences`` gives them; <unk> among them is left out.
    Raises:
        DataError: a word holds sentencepiece's mark. ConfigError: the text has too few or too many different pieces.
    """
    lines = []
    characters: Counter[str] = Counter()
    for sentence in sentences:
        words = [word for word in sentence if word != UNK]
        if any(WORD_START in word for word in words):
            raise DataError(f"the text holds {WORD_START!r}, which marks where words begin: {' '.join(words)!r}")
        lines.append(" ".join(words))
        characters.update("".join(words))
    if options.unit == "char":
        return Tokens("char", [WORD_START, *sorted(characters)])
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    settings: dict[str, Any] = {
        "vocab_size": options.vocab_size - UNK_ID,
        "model_type": options.unit,
        "character_coverage": 1.0,
        "unk_id": 0,
        "bos_id": -1,
        "eos_id": -1,
        "pad_id": -1,
        "normalization_rule_name": "identity",
        "num_threads": 1,
        "max_sentence_length": 1 << 20,
        "hard_vocab_limit": options.unit == "bpe",
        "minloglevel": 2,
    }
    stream = io.BytesIO()
    try:
        SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=stream, **settings)
    except RuntimeError as e:
        needed = len(characters) + len(SPECIAL) + 1
        raise ConfigError(
            f"no {options.vocab_size} tokens can be made of {len(lines):,} sentences with {len(characters)} "
            f"different characters (at least {needed} are needed): {str(e).strip().splitlines()[-1]}"
        ) from None
    processor = SentencePieceProcessor()
    processor.LoadFromSerializedProto(stream.getvalue())
    pieces = [processor.IdToPiece(i) for i in range(1, processor.GetPieceSize())]
    return Tokens(options.unit, pieces, stream.getvalue())
