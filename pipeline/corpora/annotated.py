"""Long recordings whose utterances stand with their times in files beside them: TextGrids, ELAN's, subtitles."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.artifacts.cut_checks import MOST_SECONDS
from pipeline.base.errors import DataError
from pipeline.corpora.folder import NamePattern, files_below, id_of
from pipeline.corpora.options import ImportOptions
from pipeline.corpora.places import Places
from pipeline.corpora.source import LeftOut, SourceAudio, SourceUtterance

# Names of tiers that say what is in them rather than who speaks.
_NO_SPEAKER = re.compile(
    r"(utt(erance)?s?|sentences?|segments?|text|trans(cript(ion)?s?)?|words?|ort(hography)?|default|tier|speech|kan|\W*)"
    r"[\W_]*\d*",
    re.IGNORECASE,
)
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z]{2,4})?")  # a.en.srt


@dataclass(frozen=True)
class Span:
    """A stretch of a recording with what is said: times in seconds, the speaker or "", the place in the file."""

    start: float
    end: float
    text: str
    speaker: str
    where: str


@dataclass(frozen=True)
class Annotation:
    """What a file of annotations holds.

    Attributes:
        spans: utterances.
        audio: names of audio files, the likeliest first, if the file has any; with the seconds of each at which the
            times of the utterances begin to count.
    """

    spans: Sequence[Span]
    audio: Mapping[str, float] = field(default_factory=dict)


def read_annotated(
    source: Path,
    root: Path | None,
    options: ImportOptions,
    out: LeftOut,
    suffixes: tuple[str, ...],
    parse: Callable[[Path, ImportOptions], Annotation],
) -> Iterator[SourceUtterance]:
    """Utterances of all files of annotations below a folder, or of one file.

    Args:
        root: directory of the audio if it is not beside the annotations; it has the same folders below it.
        suffixes: of the files. parse: reads one; what it cannot read is a DataError.
    """
    pattern = NamePattern(options.name_pattern)
    for path, relative in annotation_files(source, suffixes):
        with out.refusing(id_of(relative), "annotations that cannot be read"):
            annotation = parse(path, options)
            if not annotation.spans:
                raise DataError(f"{path}: no utterance in it")
            audio, zero = audio_of(path, relative, root, annotation.audio, options.suffix)
            spans = (replace(span, start=span.start + zero, end=span.end + zero) for span in annotation.spans)
            yield from _utterances(path, relative, audio, spans, pattern, out)


def annotation_files(source: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    """(file, its path below the corpus without suffix) of files with some suffixes, in order."""
    if not source.is_dir():
        yield source, os.path.splitext(source.name)[0]
        return
    for folder, files in files_below(source):
        for file in files:
            if file.lower().endswith(suffixes):
                path = Path(folder, file)
                yield path, os.path.splitext(os.path.relpath(path, source))[0]


def audio_of(
    path: Path, relative: str, root: Path | None, named: Mapping[str, float], suffix: str | None
) -> tuple[str | None, float]:
    """The audio of a file of annotations: one of the names in it, or what has the same name; None without any. And the
    seconds at which times begin to count: those of this name, else of the first one.
    """
    beside = path.parent if root is None else root
    places = Places([beside, path.parent], suffix)
    stem = os.path.splitext(path.name)[0]
    shorter, _, language = stem.rpartition(".")
    names = [*named, stem if root is None else relative, *([shorter] if _LANGUAGE.fullmatch(language) else [])]
    for name in names:
        found = places.find(name) or places.find(os.path.basename(name))
        if found is not None:
            return found, named.get(name, next(iter(named.values()), 0.0))
    return None, 0.0


def _utterances(
    path: Path, relative: str, audio: str | None, spans: Iterable[Span], pattern: NamePattern, out: LeftOut
) -> Iterator[SourceUtterance]:
    name = id_of(relative)
    for span in spans:
        if not 0 <= span.start < span.end < MOST_SECONDS:
            out.add(name, "times", f"{span.where}: {span.text!r} spans [{span.start}, {span.end}] s")
            continue
        try:
            speaker = span.speaker or pattern.speaker(relative) or name
        except DataError as err:
            out.add(name, "name without a pattern", f"{path}: {err}")
            return
        first = name if name.startswith(speaker) else f"{speaker}-{name}"
        utt_id = f"{first}-{round(span.start * 1000):08d}-{round(span.end * 1000):08d}"
        if audio is None:
            out.add(
                utt_id, "no audio", f"{span.where}: no audio file named like {path.name} (--root DIR is its folder)"
            )
        else:
            source = SourceAudio(name, path=audio)
            yield SourceUtterance(utt_id, source, span.text, span.where, speaker, span.start, span.end)


def speaker_of_tier(tier: str, num_tiers: int) -> str:
    """Who speaks in a tier: its name, but "" for the only tier of a file if it is called after its content."""
    return "" if num_tiers == 1 and _NO_SPEAKER.fullmatch(tier) else tier


def chosen_tiers(there: Sequence[str], wanted: Sequence[str], path: Path) -> list[str]:
    """Tiers of utterances: those that are wanted, else all.

    Raises:
        DataError: a wanted one is missing, or without any wanted some look like words and phones of an alignment.
    """
    if wanted:
        found = [tier for tier in there if tier in wanted]
        if not found:
            raise DataError(f"{path}: has no tier {' or '.join(map(repr, wanted))}, but {', '.join(map(repr, there))}")
        return found
    fine = [t for t in there if re.search(r"(^|[\W_])(phones?|phonemes?|phon|syllables?|syll|words?|mau)$", t.lower())]
    if fine and len(there) > 1:
        raise DataError(
            f"{path}: the tiers {', '.join(map(repr, fine))} look like an alignment; --tiers A,B names those whose "
            f"intervals are utterances (there are {', '.join(map(repr, there))})"
        )
    return list(there)
