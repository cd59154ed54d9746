"""Where the audio of a corpus is: relative paths, other suffixes than those that the corpus names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

AUDIO_SUFFIXES = (
    ".wav", ".flac", ".sph", ".mp3", ".m4a", ".opus", ".ogg", ".oga", ".aiff", ".aif", ".aifc", ".au", ".snd", ".nist",
    ".wv1", ".wv2", ".w64", ".rf64", ".caf", ".aac", ".mp4", ".webm", ".wma", ".amr", ".3gp", ".mkv", ".mov", ".mpga",
)  # fmt: skip


def is_audio(path: str | Path) -> bool:
    """Whether a name ends as those of audio files do."""
    return os.path.splitext(path)[1].lower() in AUDIO_SUFFIXES


class Places:
    """Finds audio files by the names that a corpus gives them.

    Attributes:
        num_renamed: files that were found with another suffix than named; ``renamed`` is an example of both names.
    """

    def __init__(self, roots: Iterable[Path], suffix: str | None = None, below: Path | None = None) -> None:
        """Args:
        roots: directories that relative names may start from, tried in this order.
        suffix: suffix of all audio files in place of the named one; None: the named one, and any other of audio
            where there is no such file.
        below: where nothing else helps, a file of that name in any folder below this one, if there is just one.
        """
        self._roots = list(dict.fromkeys(os.path.abspath(root) for root in roots))
        self._suffix = None if suffix is None else f".{suffix.lstrip('.')}"
        self._below, self._index = below, None if below is None else dict[str, str]()
        self._shown = ", ".join(self._roots[:4])
        self.num_renamed, self.renamed = 0, ("", "")

    def find(self, name: str) -> str | None:
        """Absolute path of an audio file; None if there is none."""
        for root in self._roots:
            named = os.path.join(root, name)
            for path in self._candidates(named):
                if os.path.isfile(path):
                    if path != named:
                        self.num_renamed, self.renamed = self.num_renamed + 1, (name, os.path.basename(path))
                    self._roots.remove(root)
                    self._roots.insert(0, root)  # where one was the next will be
                    return os.path.abspath(path)
        return self._anywhere(os.path.basename(name))

    def _anywhere(self, name: str) -> str | None:
        if self._index is None or self._below is None:
            return None
        if not self._index:
            for folder, _, files in os.walk(self._below):
                for file in filter(is_audio, sorted(files)):
                    for key in (file, os.path.splitext(file)[0]):
                        path = os.path.join(folder, file)
                        self._index[key] = "" if self._index.setdefault(key, path) != path else path
        found = (self._index.get(os.path.basename(path), "") for path in [name, *self._candidates(name)])
        return next((os.path.abspath(path) for path in found if path), None)

    def _candidates(self, named: str) -> Iterator[str]:
        if self._suffix is None:
            yield named
        stem = os.path.splitext(named)[0] if is_audio(named) else named
        for suffix in AUDIO_SUFFIXES if self._suffix is None else (self._suffix,):
            yield stem + suffix
            yield stem + suffix.upper()
            yield stem + suffix.lower()

    def missing(self, name: str) -> str:
        """Words for a file that was not found."""
        if os.path.isabs(name):
            return f"no such audio file {name}"
        return f"no audio file {name} below {self._shown} (--root DIR names the directory that paths start from)"


def roots_above(directory: Path, levels: int = 2) -> list[Path]:
    """A directory, those above it, and the current one: where relative paths of a corpus usually start."""
    directory = Path(os.path.abspath(directory))
    return [directory, *directory.parents[:levels], Path.cwd()]
