"""Types of the fields of a cut: what has another one than lhotse's and ours is named, before anything looks inside."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Check = Callable[[Any], bool]
Kind = tuple[str, Check]


def is_number(value: Any) -> bool:
    """A finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_channel(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_channels(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_channel, value))


def _is_items(value: Any) -> bool:
    """Lists of symbol, start, duration and perhaps a score."""
    return isinstance(value, list) and all(
        isinstance(item, list)
        and len(item) in (3, 4)
        and isinstance(item[0], str)
        and all(map(is_number, item[1:3]))
        and (len(item) == 3 or item[3] is None or is_number(item[3]))
        for item in value
    )


TEXT: Kind = ("a text", lambda value: isinstance(value, str))
NUMBER: Kind = ("a number", is_number)
COUNT: Kind = ("a whole number above 0", _is_count)
OBJECT: Kind = ("an object", lambda value: isinstance(value, dict))
OBJECTS: Kind = ("a list of objects", lambda v: isinstance(v, list) and all(isinstance(item, dict) for item in v))
CHANNELS: Kind = ("a list of channels", _is_channels)
CHANNEL: Kind = ("a channel from 0 on, or a list of them", lambda value: _is_channel(value) or _is_channels(value))
TIERS: Kind = (
    "an object with lists of [symbol, start, duration, score]",
    lambda value: isinstance(value, dict) and all(map(_is_items, value.values())),
)
MONO: Kind = ("'MonoCut'", lambda value: value == "MonoCut")

CUT: Mapping[str, Kind] = {
    "type": MONO,
    "id": TEXT,
    "start": NUMBER,
    "duration": NUMBER,
    "channel": CHANNEL,
    "recording": OBJECT,
    "supervisions": OBJECTS,
    "features": OBJECT,
    "custom": OBJECT,
}
RECORDING: Mapping[str, Kind] = {
    "id": TEXT,
    "sources": OBJECTS,
    "sampling_rate": COUNT,
    "num_samples": COUNT,
    "duration": NUMBER,
    "channel_ids": CHANNELS,
    "transforms": OBJECTS,
}
SOURCE: Mapping[str, Kind] = {"type": TEXT, "channels": CHANNELS, "source": TEXT}
SUPERVISION: Mapping[str, Kind] = {
    "id": TEXT,
    "recording_id": TEXT,
    "start": NUMBER,
    "duration": NUMBER,
    "channel": CHANNEL,
    "text": TEXT,
    "speaker": TEXT,
    "language": TEXT,
    "gender": TEXT,
    "alignment": TIERS,
    "custom": OBJECT,
}


def type_problems(cut: Mapping[str, Any]) -> Iterator[str]:
    """Fields of a cut that are there, not null, and of another type than they should be."""
    found = list(_wrong(cut, CUT, ""))
    yield from found
    if found:
        return
    recording = cut.get("recording") or {}
    yield from _wrong(recording, RECORDING, "recording.")
    if OBJECTS[1](recording.get("sources")):
        for i, source in enumerate(recording["sources"]):
            yield from _wrong(source, SOURCE, f"recording.sources[{i}].")
    for i, supervision in enumerate(cut.get("supervisions") or []):
        yield from _wrong(supervision, SUPERVISION, f"supervisions[{i}].")


def _wrong(entry: Mapping[str, Any], kinds: Mapping[str, Kind], prefix: str) -> Iterator[str]:
    for name, (wanted, check) in kinds.items():
        value = entry.get(name)
        if value is not None and not check(value):
            shown = json.dumps(value, ensure_ascii=False)
            yield f"field {prefix}{name} should be {wanted}, and is {shown if len(shown) < 60 else shown[:57] + '...'}"
