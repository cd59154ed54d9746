"""lhotse manifests of any shape: cuts with any number of supervisions, or recordings and supervisions; .jsonl, .gz.

Each supervision is an utterance, with its id. Only audio in files is read: commands and addresses are refused, and so
is audio that lhotse would compute.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.artifacts.cut_checks import TOLERANCE
from pipeline.base.errors import DataError
from pipeline.base.spool import JsonSpool
from pipeline.corpora.json_files import SUFFIXES, Fields, first_object, objects
from pipeline.corpora.options import ImportOptions
from pipeline.corpora.places import Places, roots_above
from pipeline.corpora.source import LeftOut, SourceAudio, SourceUtterance, Tier

KINDS = ("cuts", "recordings", "supervisions")
_ROUNDED = 0.02  # seconds by which rounded times of a supervision may leave its cut


def kind_of(path: Path) -> str | None:
    """cuts, recordings or supervisions, by the first object of a file; None for other files."""
    if not path.name.lower().endswith(SUFFIXES):
        return None
    first = first_object(path)
    if "supervisions" in first and ("recording" in first or "tracks" in first or "start" in first):
        return "cuts"
    if "sources" in first and "id" in first:
        return "recordings"
    if "recording_id" in first and "duration" in first:
        return "supervisions"
    return None


def is_lhotse(source: Path) -> bool:
    """Whether a file is a manifest, or a folder has cuts, or recordings and supervisions."""
    kinds = {kind for kind, files in _manifests(source).items() if files}
    return "cuts" in kinds or {"recordings", "supervisions"} <= kinds or (not source.is_dir() and bool(kinds))


def _manifests(source: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for path in sorted(source.iterdir()) if source.is_dir() else [source]:
        kind = kind_of(path) if path.is_file() else None
        if kind is not None:
            found[kind].append(path)
    return found


def read_lhotse(source: Path, root: Path | None, options: ImportOptions, out: LeftOut) -> Iterator[SourceUtterance]:
    """Utterances of cuts, else of recordings and supervisions.

    Args:
        source: a file of cuts or supervisions, or a folder with one of each kind.
        root: directory that relative paths start from; None: looked for, see `roots_above`.
    """
    found = _manifests(source)
    folder = source if source.is_dir() else source.parent
    reader = _Reader(Places([root] if root is not None else roots_above(folder), options.suffix), options, out)
    if found["cuts"]:
        yield from reader.cuts(_only(found["cuts"], source))
        return
    if found["recordings"] and not found["supervisions"] and not source.is_dir():
        raise DataError(f"{source}: recordings alone; give the supervisions, beside which they are found")
    if not found["supervisions"]:
        raise DataError(f"{source}: no manifest of cuts or supervisions (the first object shows what a file holds)")
    supervisions = _only(found["supervisions"], source)
    yield from reader.supervisions(supervisions, recordings_beside(supervisions))


def _only(paths: list[Path], source: Path) -> Path:
    if len(paths) > 1:
        shown = ", ".join(path.name for path in paths)
        raise DataError(f"{source}: holds {len(paths)} manifests of one kind, {shown}; give one of them as SOURCE")
    return paths[0]


def recordings_beside(supervisions: Path) -> Path:
    """The manifest of recordings that goes with one of supervisions: of a name like it, else the only one."""
    named = supervisions.with_name(supervisions.name.replace("supervisions", "recordings"))
    if named != supervisions and named.is_file():
        return named
    return _only(_manifests(supervisions.parent)["recordings"] or [named], supervisions.parent)


class _Reader:
    def __init__(self, places: Places, options: ImportOptions, out: LeftOut) -> None:
        self.places, self.options, self.out = places, options, out

    def cuts(self, path: Path) -> Iterator[SourceUtterance]:
        """Those of the supervisions of cuts."""
        for where, entry in objects(path, self.out):
            cut = Fields(entry, where)
            name = str(entry.get("id"))
            with self.out.refusing(name, "field of a manifest"):
                kind = cut.text("type", "MonoCut")
                if kind not in ("MonoCut", "MultiCut"):
                    raise DataError(f"{where}: a {kind}, whose audio lhotse computes; save it as a file first")
                recording, start, duration = cut.object("recording"), cut.number("start"), cut.number("duration")
                supervisions = cut.objects("supervisions", default=True)
                if not supervisions:
                    self.out.add(name, "no transcript", f"{where}: cut {name!r} has no supervision")
                for supervision in supervisions:
                    with self.out.refusing(str(supervision.entry.get("id")), "field of a manifest"):
                        yield self._utterance(supervision, recording, cut.channel("channel"), start, duration)

    def supervisions(self, path: Path, recordings: Path) -> Iterator[SourceUtterance]:
        """Those of supervisions, whose times are in their recordings."""
        known = JsonSpool()
        for where, entry in objects(recordings, self.out):
            with self.out.refusing(where, "field of a manifest"):
                known[Fields(entry, where).text("id")] = [where, entry]
        for where, entry in objects(path, self.out):
            supervision = Fields(entry, where)
            with self.out.refusing(str(entry.get("id")), "field of a manifest"):
                name = supervision.text("recording_id")
                if name not in known:
                    raise DataError(f"{where}: recording {name!r} is not in {recordings}")
                place, recording = known[name]
                yield self._utterance(supervision, Fields(recording, place), None, 0.0, None)

    def _utterance(
        self, supervision: Fields, recording: Fields, channel: int | None, offset: float, duration: float | None
    ) -> SourceUtterance:
        """An utterance in a cut that begins at ``offset`` of its recording."""
        where, utt_id = supervision.where, supervision.text("id")
        start, length = supervision.number("start"), supervision.number("duration")
        told = f"{where}: supervision {utt_id!r} spans [{start}, {start + length}] s"
        if length <= 0:
            raise DataError(told)
        if duration is not None and (start < -_ROUNDED or start + length > duration + _ROUNDED):
            raise DataError(f"{told} of a cut of {duration} s: the cut has only a part of what the transcript says")
        first = max(offset + start, 0.0)
        channel = supervision.channel("channel") if channel is None else channel
        audio = self._audio(recording, channel)
        if "text" not in supervision.entry or supervision.entry["text"] is None:
            raise DataError(f"{where}: supervision {utt_id!r} has no text")
        return SourceUtterance(
            utt_id,
            audio,
            supervision.text("text"),
            where,
            supervision.text("speaker", ""),
            first,
            offset + start + length,
            tiers=_tiers(supervision, offset, first, length),
            gender=supervision.text("gender", "") or None,
            language=supervision.text("language", "") or None,
        )

    def _audio(self, recording: Fields, channel: int | None) -> SourceAudio:
        name, where = recording.text("id"), recording.where
        if recording.entry.get("transforms"):
            raise DataError(
                f"{where}: recording {name!r} has transforms, which lhotse computes; save it as a file first"
            )
        sources = recording.objects("sources")
        if len(sources) > 1 and channel is None:
            channel = self.options.channel if isinstance(self.options.channel, int) else None
            if channel is None:
                raise DataError(f"{where}: recording {name!r} has {len(sources)} files; --channel N takes one channel")
        for source in sources:
            channels = source.entry.get("channels")
            if not isinstance(channels, list) or not all(type(c) is int and c >= 0 for c in channels):
                raise source.fail("channels", "a list of channels")
            if channel is not None and channel not in channels:
                continue
            kind = source.text("type")
            if kind != "file":
                raise DataError(f"{where}: recording {name!r} is of type {kind!r}; only files are read")
            path = self.places.find(source.text("source"))
            if path is None:
                raise DataError(f"{where}: {self.places.missing(source.text('source'))}")
            inside = None if channel is None else channels.index(channel)
            several = len(sources) > 1 or len(channels) > 1
            return SourceAudio(
                f"{name}-{channel}" if several and channel is not None else name,
                path=path,
                channel=inside,
                samples=recording.integer("num_samples"),
                rate=recording.integer("sampling_rate"),
            )
        raise DataError(f"{where}: recording {name!r} has no channel {channel}")


def _tiers(supervision: Fields, offset: float, first: float, length: float) -> dict[str, Tier]:
    """Times of words and phones from the start of the utterance, which is at ``first`` of its recording.

    They count from the start of the cut, at ``offset``, or, as lhotse leaves them when it cuts a recording, from that
    of the recording: what fits the utterance shows. Where both do, or neither, the times are dropped (the importer
    counts what is outside).
    """
    tiers: dict[str, Tier] = {}
    alignment: Any = supervision.entry.get("alignment") or {}
    if not isinstance(alignment, dict):
        raise supervision.fail("alignment", "an object")
    for name in ("word", "phone"):
        try:
            items = [(str(item[0]), float(item[1]), float(item[2])) for item in alignment.get(name) or []]
        except (TypeError, ValueError, OverflowError, IndexError, KeyError):
            raise supervision.fail("alignment", "lists of [symbol, start, duration]") from None
        shifted = [[(s, t - first + zero, d) for s, t, d in items] for zero in dict.fromkeys((offset, 0.0))]
        fitting = [tier for tier in shifted if all(t >= -TOLERANCE and t + d <= length + TOLERANCE for _, t, d in tier)]
        if items:
            tiers[name] = fitting[0] if len(fitting) == 1 else [("", -1.0, 0.0)]
    return tiers
