"""The identity of the audio that a data directory names: what a step that reads audio was made from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline.artifacts.corpus import cut_files
from pipeline.artifacts.cut_checks import json_lines
from pipeline.base.digests import Digests


def audio_files(data_dir: Path) -> list[str]:
    """Paths of the audio files of a data directory, each once, in the order of its manifest."""
    found: dict[str, None] = {}
    for _, cut in (pair for path in cut_files(data_dir) for pair in json_lines(path)):
        recording = cut.get("recording")
        sources = recording.get("sources") if isinstance(recording, dict) else None
        for source in sources if isinstance(sources, list) else []:
            if isinstance(source, dict) and source.get("type") == "file":
                found[str(source.get("source"))] = None
    return list(found)


def audio_id(data_dir: Path, digests: Digests) -> str:
    """Hash over the content of the audio files, in the order of the manifest, wherever they are.

    Files that cannot be read count as such: the step that reads them says which utterances they belong to.

    Returns:
        32 hexadecimal digits.
    """
    content = digests.of(audio_files(data_dir), lenient=True)
    return hashlib.sha256("\n".join(content).encode()).hexdigest()[:32]
