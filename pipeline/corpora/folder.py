"""Folders of audio, each file with its transcript beside it (.txt, .lab), in a list (*.trans.txt), or in its name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.base.errors import DataError
from pipeline.corpora.options import ImportOptions
from pipeline.corpora.places import AUDIO_SUFFIXES, Places, is_audio
from pipeline.corpora.source import LeftOut, SourceAudio, SourceUtterance
from pipeline.corpora.text_files import text_lines, whole_text

TEXTS = (".lab", ".txt")
LIST = ".trans.txt"  # LibriSpeech's: lines of an utterance and its words
_ABOUT = re.compile(r"(read.?me|licen[cs]e|copying|change|notes?|about|speakers|index)", re.IGNORECASE)
# HTK's and others' label files: times and a label in each line.
_LABELS = re.compile(r"\s*\d+(\.\d+)?\s+\d+(\.\d+)?\s+\S+")


def files_below(top: Path) -> Iterator[tuple[str, list[str]]]:
    """(folder, sorted file names) of a folder and all below it, in order, without hidden ones. Links to folders are
    followed, but not those that lead back up, behind which everything would stand again.
    """

    def refuse(err: OSError) -> None:
        raise DataError(f"{err.filename}: cannot be read ({err.strerror})")

    for folder, below, names in os.walk(top, onerror=refuse, followlinks=True):
        below[:] = sorted(name for name in below if not name.startswith(".") and not _leads_up(folder, name))
        yield folder, sorted(name for name in names if not name.startswith("."))


def _leads_up(folder: str, name: str) -> bool:
    link = os.path.join(folder, name)
    return os.path.islink(link) and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(link))


def read_folder(source: Path, root: Path | None, options: ImportOptions, out: LeftOut) -> Iterator[SourceUtterance]:
    """An utterance for each audio file of a folder.

    Args:
        root: folder of the audio if it is another one than that of the transcripts, with equal names below it.
    """
    names = NamePattern(options.name_pattern)
    if names.has_text:
        for folder, files in files_below(root or source):
            for stem, file in sorted(audio_by_stem(files).items()):
                path = os.path.join(folder, file)
                relative = os.path.relpath(os.path.join(folder, stem), root or source)
                yield from _utterance(relative, path, path, "", names, out)
        return
    for folder, files in files_below(source):
        yield from _Folder(source, root, folder, files, options, out, names).utterances()


class NamePattern:
    """What --name-pattern reads from the path of a file below the corpus, without its suffix."""

    def __init__(self, pattern: str | None) -> None:
        self._pattern = None if pattern is None else re.compile(pattern)
        self.has_text = self._pattern is not None and "text" in self._pattern.groupindex

    def text(self, relative: str) -> str:
        """Transcript of a name: words are separated by anything but letters and digits."""
        return " ".join(re.split(r"[\W_]+", self._groups(relative)["text"]))

    def speaker(self, relative: str) -> str:
        """Speaker of a name; "" without a pattern or group for it: then the folder that the file is in, if any."""
        groups = self._groups(relative)
        return groups["speaker"] if "speaker" in groups else os.path.basename(os.path.dirname(relative))

    def _groups(self, relative: str) -> dict[str, str]:
        if self._pattern is None:
            return {}
        found = self._pattern.search(relative)
        if found is None or any(not value for value in found.groupdict().values()):
            raise DataError(f"--name-pattern {self._pattern.pattern!r} does not fit the name {relative!r}")
        return found.groupdict()


def id_of(relative: str) -> str:
    """Utterance id of a path below the corpus: folders, which are speakers in most, come first."""
    return relative.replace(os.sep, "-")


def audio_by_stem(files: list[str]) -> dict[str, str]:
    """Name without suffix -> audio file; of several that differ in their suffix the one that loses the least."""
    found: dict[str, str] = {}
    for file in sorted((f for f in files if is_audio(f)), key=_preference):
        found.setdefault(os.path.splitext(file)[0], file)
    return found


def _preference(file: str) -> tuple[int, str]:
    return AUDIO_SUFFIXES.index(os.path.splitext(file)[1].lower()), file


def _utterance(
    relative: str, path: str, where: str, text: str, names: NamePattern, out: LeftOut
) -> Iterator[SourceUtterance]:
    name = id_of(relative)
    try:
        text = names.text(relative) if names.has_text else text
        speaker = names.speaker(relative)
    except DataError as err:
        out.add(name, "name without a pattern", f"{path}: {err}")
        return
    yield SourceUtterance(name, SourceAudio(name, path=path), text, where, speaker)


class _Folder:
    """One folder of transcripts."""

    def __init__(
        self,
        source: Path,
        root: Path | None,
        folder: str,
        files: list[str],
        options: ImportOptions,
        out: LeftOut,
        names: NamePattern,
    ) -> None:
        self.folder, self.options, self.out, self.names = folder, options, out, names
        self.inside = os.path.relpath(folder, source)
        self.texts = {os.path.splitext(f)[0]: f for f in reversed(files) if f.lower().endswith(TEXTS)}
        self.lists = [f for f in files if f.lower().endswith(LIST)]
        for file in self.lists:
            self.texts.pop(os.path.splitext(file)[0], None)
        audio_folder = folder if root is None else os.path.join(root, self.inside)
        self.places = Places([Path(audio_folder)], options.suffix)
        self.audio = audio_by_stem(files) if root is None else {}
        self.elsewhere = root is not None

    def utterances(self) -> Iterator[SourceUtterance]:
        """Those of the transcripts; audio without any and transcripts without audio are left out."""
        if not (self.audio or self.elsewhere):
            return
        listed = dict(self._listed())
        stems = {**self.audio, **self.texts, **listed}
        paired = bool(self.elsewhere or set(self.audio) & set(self.texts))
        for stem in sorted(stems):
            path = self.places.find(self.audio.get(stem, stem) if self.options.suffix is None else stem)
            name = id_of(self._relative(stem))
            text = self.texts.get(stem, "")
            text_file = os.path.join(self.folder, text)
            if path is None:  # what has neither is audio with another suffix than the one that is wanted
                if stem in listed or text.lower().endswith(".lab") or (text and paired and not _ABOUT.match(stem)):
                    where = listed[stem][0] if stem in listed else text_file
                    self.out.add(name, "no audio", f"{where}: {self.places.missing(stem)}")
            elif stem in listed:
                yield from _utterance(self._relative(stem), path, *listed[stem], self.names, self.out)
            elif not text:
                self.out.add(name, "no transcript", f"{path}: no {stem}.txt or {stem}.lab beside it")
            else:
                with self.out.refusing(name, "transcript that cannot be read"):
                    words = transcript(Path(text_file), self.options.encoding)
                    yield from _utterance(self._relative(stem), path, text_file, words, self.names, self.out)

    def _relative(self, stem: str) -> str:
        return os.path.normpath(os.path.join(self.inside, stem))

    def _listed(self) -> Iterator[tuple[str, tuple[str, str]]]:
        """Stem -> (file:line, words) of the lists of transcripts."""
        for file in self.lists:
            path = Path(self.folder, file)
            for line_no, line in text_lines(path, self.options.encoding):
                stem, _, words = line.partition(" ")
                if stem:
                    yield stem, (f"{path}:{line_no}", words)


def transcript(path: Path, encoding: str | None) -> str:
    """Transcript of a file, its lines joined; DataError for a file of labels with times."""
    text = whole_text(path, encoding)
    rows = [line for line in text.split("\n") if line.strip()]
    if rows and all(_LABELS.match(row) for row in rows):
        raise DataError(f"{path}: has times and labels, not a transcript, as in {rows[0].strip()!r}")
    return " ".join(rows)
