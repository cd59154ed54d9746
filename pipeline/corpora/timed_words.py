"""NIST's .stm, a stretch and its words in each line, and .ctm, a word each, which pauses divide into utterances."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from pipeline.artifacts import stm
from pipeline.artifacts.characters import split_fields
from pipeline.artifacts.cut_checks import MOST_SECONDS
from pipeline.base.errors import DataError
from pipeline.corpora.annotated import annotation_files
from pipeline.corpora.kaldi import channel_number
from pipeline.corpora.options import ImportOptions
from pipeline.corpora.places import Places
from pipeline.corpora.source import LeftOut, SourceAudio, SourceUtterance
from pipeline.corpora.text_files import text_lines

SUFFIXES = (".stm", ".ctm")
MARGIN = 0.25  # seconds of a pause that stay on each side of an utterance of a .ctm, at most
LONGEST = 30.0  # seconds after which the next pause of any length ends an utterance of a .ctm


def read_timed_words(
    source: Path, root: Path | None, options: ImportOptions, out: LeftOut
) -> Iterator[SourceUtterance]:
    """Utterances of .stm or .ctm files, with audio named like their recordings."""
    files = list(annotation_files(source, SUFFIXES))
    kinds = {path.suffix.lower() for path, _ in files}
    if len(kinds) > 1:
        raise DataError(f"{source}: has .stm and .ctm files; give one of them")
    top = root or (source if source.is_dir() else source.parent)
    places = Places([top], options.suffix, below=top)
    for path, _ in files:
        yield from (_Stm if path.suffix.lower() == ".stm" else _Ctm)(path, places, options, out).utterances()


class _Timed:
    def __init__(self, path: Path, places: Places, options: ImportOptions, out: LeftOut) -> None:
        self.path, self.places, self.options, self.out = path, places, options, out
        self._audio: dict[tuple[str, str], SourceAudio] = {}

    def rows(self, least: int) -> Iterator[tuple[str, list[str]]]:
        """(file:line, fields) of the lines that are no comments."""
        for line_no, line in text_lines(self.path, self.options.encoding):
            where = f"{self.path}:{line_no}"
            if not line or line.startswith(";;"):
                continue
            name = line.partition(" ")[0]
            with self.out.refusing(name, "line that cannot be read"):
                fields = split_fields(line, where)
                if len(fields) < least:
                    raise DataError(f"{where}: needs {self.needs}, found {line!r}")
                yield where, fields

    needs = ""

    def audio(self, recording: str, channel: str, where: str) -> SourceAudio:
        """Audio of a recording and channel; DataError without any."""
        key = recording, channel
        if key not in self._audio:
            path = self.places.find(recording)
            if path is None:
                raise DataError(f"{where}: no audio file {recording} below {self.path.parent} (--root DIR has it)")
            number = channel_number(channel, where)
            self._audio[key] = SourceAudio(f"{recording}-{channel}" if number else recording, path, channel=number)
        return self._audio[key]

    def times(self, first: str, second: str, where: str) -> tuple[float, float]:
        """Two numbers of seconds."""
        try:
            found = float(first), float(second)
            if all(0 <= value < MOST_SECONDS for value in found):
                return found
        except ValueError:
            pass
        raise DataError(f"{where}: {first!r} and {second!r} are no times in seconds")


class _Stm(_Timed):
    needs = stm.NEEDS

    def utterances(self) -> Iterator[SourceUtterance]:
        for where, fields in self.rows(stm.FEWEST):
            with self.out.refusing("-".join(fields[:5]), "line that cannot be read"):
                line = stm.stm_line(fields, where)
                if line.ignored:
                    self.out.add(line.utt_id, "marked as not to be scored", f"{where}: {line.text}")
                    continue
                audio = self.audio(line.recording, line.channel, where)
                yield SourceUtterance(line.utt_id, audio, line.text, where, line.speaker, line.start, line.end)


class _Ctm(_Timed):
    needs = "'recording channel start duration word [confidence]'"

    def utterances(self) -> Iterator[SourceUtterance]:
        words: list[tuple[str, float, float]] = []  # of one utterance: word, start, end
        last, place, before = ("", ""), "", math.inf  # before: seconds since the last word of the utterance before
        for where, fields in self.rows(5):
            with self.out.refusing(fields[0], "line that cannot be read"):
                start, length = self.times(fields[2], fields[3], where)
                if words and (tuple(fields[:2]) != last or self._ends(words, start)):
                    gap = start - words[-1][2] if tuple(fields[:2]) == last else math.inf
                    yield from self._utterance(*last, words, place, (before, gap))
                    words, before = [], gap
                if not words:
                    last, place = (fields[0], fields[1]), where
                words.append((fields[4], start, start + length))
        if words:
            yield from self._utterance(*last, words, place, (before, math.inf))

    def _ends(self, words: list[tuple[str, float, float]], start: float) -> bool:
        gap = start - words[-1][2]
        return gap >= self.options.pause or (gap > 0 and start - words[0][1] > LONGEST)

    def _utterance(
        self,
        recording: str,
        channel: str,
        words: list[tuple[str, float, float]],
        where: str,
        gaps: tuple[float, float],
    ) -> Iterator[SourceUtterance]:
        # Half of the pause on each side at most, as recognisers cut speech.
        before, after = (min(self.options.pause / 2, MARGIN, gap / 2) for gap in gaps)
        first, last = max(words[0][1] - before, 0.0), words[-1][2]
        utt_id = f"{recording}-{channel}-{round(words[0][1] * 1000):08d}-{round(last * 1000):08d}"
        with self.out.refusing(utt_id, "no audio"):
            audio = self.audio(recording, channel, where)
            tier = [(word, round(start - first, 6), round(end - start, 6)) for word, start, end in words]
            text = " ".join(word for word, _, _ in words)
            yield SourceUtterance(utt_id, audio, text, where, recording, first, last + after, {"word": tier})
