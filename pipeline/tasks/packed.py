"""Packed aligners: one file that holds a model, its lang, its grapheme-to-phoneme model and a card that tells of it.

A packed model is a zip archive of JSON, text and safetensors: nothing in it is ever run. Reading takes only the names
below, checks sizes before anything is written, and never leaves the directory that it writes to.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass

import pipeline
from pipeline.artifacts.checkpoint import TENSORS
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import load_hmm
from pipeline.artifacts.model_meta import META, model_kind
from pipeline.base.errors import ConfigError, DataError, MismatchError
from pipeline.base.files import atomic_write, parse_json
from pipeline.base.records import STRICT, from_json, to_json
from pipeline.tasks.model import load_model

SUFFIX = ".fsm"
FORMAT = 1
CARD = "card.json"
MODEL_FILES = (META, TENSORS, "phones.txt", "topo.json", "tree.json", "transitions.json")
LANG_FILES = ("lang.json", "lexiconp.txt", "phones.txt", "topo.json", "words.txt")
G2P_FILES = ("g2p.json",)
MOST_BYTES = 4 << 30  # of all files of a packed model together
REFINERS = 4  # further models at most
_NAME = re.compile(rf"(model|lang|g2p|refiner[1-{REFINERS}])/[A-Za-z0-9_.]+\Z")


@dataclass(frozen=True, config=STRICT)
class Card:
    """What people should know of a packed model.

    Attributes:
        name: short name.
        description: what it is and what it is good for.
        language: name of the language, or its code.
        data: corpus and hours that it was trained on.
        licence: under which it may be used, with what the licence of the data asks for.
        scores: measured results by name, for instance {"TIMIT sample, phone starts": "12.9 ms"}.
        align: options of steps/align.py that it aligns best with.
        refine: options of steps/refine_ali.py, where boundaries are refined by the model and its refiners; else None.
        format: version of the packing.
        version: of the program that packed it.
    """

    name: str = Field(min_length=1, max_length=100)
    description: str = ""
    language: str = ""
    data: str = ""
    licence: str = ""
    scores: dict[str, str] = Field(default_factory=dict)
    align: dict[str, Any] = Field(default_factory=dict)
    refine: dict[str, Any] | None = None
    format: int = FORMAT
    version: str = pipeline.__version__


def pack(model: Path, lang: Path, out: Path, card: Card, g2p: Path | None = None, refiners: Sequence[Path] = ()) -> int:
    """Packs a model; equal directories give equal bytes.

    Args:
        model: a directory that steps/align.py takes.
        lang: the lang that it was trained with; its lexicon is what the packed model pronounces words by.
        out: the file.
        card: what it is.
        g2p: a grapheme-to-phoneme model for words that the lexicon lacks; its phones must be the lang's.
        refiners: further models over the same lang and features, by which boundaries are refined beside the first.
    Returns:
        size of the file in bytes.
    Raises:
        ConfigError: an end-to-end model without HMM. MismatchError: directories that do not belong together.
    """
    if model_kind(model) == "e2e":
        raise ConfigError(f"{model}: an end-to-end model has no HMM to align with; see steps/export_e2e.py")
    hmm, loaded = load_hmm(model), Lang.load(lang)
    hmm.check_lang(loaded, lang)
    parts = [(model, "model", MODEL_FILES), (lang, "lang", LANG_FILES)]
    if g2p is not None:
        _check_g2p(g2p, loaded, lang)
        parts.append((g2p, "g2p", G2P_FILES))
    if len(refiners) > REFINERS or (refiners and card.refine is None):
        raise ConfigError(f"{len(refiners)} refiners: at most {REFINERS}, and only where the card says how to refine")
    for number, refiner in enumerate(refiners, 1):
        load_hmm(refiner).check_lang(loaded, lang)
        load_model(model).facts.check_same(load_model(refiner).facts, model, refiner)
        parts.append((refiner, f"refiner{number}", MODEL_FILES))
    blob = io.BytesIO()
    with zipfile.ZipFile(blob, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        _add(archive, CARD, json.dumps(to_json(card), indent=2, ensure_ascii=False).encode())
        for directory, folder, names in parts:
            for name in names:
                _add(archive, f"{folder}/{name}", (directory / name).read_bytes())
    with atomic_write(out, "wb") as file:
        file.write(blob.getvalue())
    return len(blob.getvalue())


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """One entry, with a date that does not depend on the clock."""
    entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    archive.writestr(entry, content)


def _check_g2p(g2p: Path, lang: Lang, lang_dir: Path) -> None:
    from pipeline.g2p.joint_units import G2p

    known = set(lang.base_phones().values())
    foreign = sorted({p for _, phones in G2p.load(g2p).units for p in phones} - known)
    if foreign:
        raise MismatchError(f"{g2p} and {lang_dir} do not belong together: the lang has no phone {foreign[0]!r}")


def read_card(path: str | Path) -> Card:
    """The card of a packed model; DataError if the file is none."""
    with _opened(path) as archive:
        return _card(archive, path)


def unpack(path: str | Path, directory: Path) -> Card:
    """Writes the directories model, lang and, where there is one, g2p below a directory.

    Returns:
        the card.
    Raises:
        DataError: no packed model, damaged, of a later format, too large, or with entries that do not belong.
    """
    with _opened(path) as archive:
        card, total = _card(archive, path), 0
        wanted = {f"model/{n}" for n in MODEL_FILES} | {f"lang/{n}" for n in LANG_FILES}
        for entry in archive.infolist():
            total += entry.file_size
            if entry.filename != CARD and not _NAME.match(entry.filename):
                raise DataError(f"{path}: entry {entry.filename!r} does not belong into a packed model")
            if total > MOST_BYTES:
                raise DataError(f"{path}: would unpack to more than {MOST_BYTES >> 30} GiB")
        missing = sorted(wanted - set(archive.namelist()))
        if missing:
            raise DataError(f"{path}: has no {missing[0]}")
        optional = {f"g2p/{n}" for n in G2P_FILES}
        optional |= {f"refiner{i}/{n}" for i in range(1, REFINERS + 1) for n in MODEL_FILES}
        for name in sorted(wanted | (optional & set(archive.namelist()))):
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_read(archive, name, path))
    return card


def _opened(path: str | Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (zipfile.BadZipFile, NotImplementedError, OSError) as err:  # the second: a later version of the format
        raise DataError(f"{path}: not a packed model ({err})") from None


def _read(archive: zipfile.ZipFile, name: str, path: str | Path) -> bytes:
    """An entry, never more than its header promises."""
    size = archive.getinfo(name).file_size
    try:
        with archive.open(name) as file:
            content = file.read(size + 1)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as err:
        raise DataError(f"{path}: {name} is damaged ({err})") from None
    if len(content) != size:
        raise DataError(f"{path}: {name} is damaged ({len(content)} bytes, {size} expected)")
    return content


def _card(archive: zipfile.ZipFile, path: str | Path) -> Card:
    if CARD not in archive.namelist() or archive.getinfo(CARD).file_size > 1 << 20:
        raise DataError(f"{path}: not a packed model (no {CARD})")
    try:
        told = parse_json(_read(archive, CARD, path).decode(), f"{path}: {CARD}")
    except UnicodeDecodeError:
        raise DataError(f"{path}: {CARD} is not UTF-8") from None
    packing = told.get("format") if isinstance(told, dict) else None
    if isinstance(packing, int) and packing > FORMAT:
        raise DataError(f"{path}: packed in format {packing} by a later version; this one reads {FORMAT}")
    return make_card(told, f"{path}: {CARD}")


def make_card(told: object, where: str | Path) -> Card:
    """A card from JSON values; DataError names `where` and the field."""
    return from_json(Card, told, Path(where))
