"""The recordings of a corpus that is imported: looked at, then read and stored once each, however many utterances."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.base.log import progress
from pipeline.base.spool import JsonSpool
from pipeline.corpora.audio import AudioFacts, AudioProblem, Channel, choose_channel, look, run_command, store
from pipeline.corpora.options import ImportOptions
from pipeline.corpora.source import SourceAudio, SourceUtterance, Unique

if TYPE_CHECKING:
    from lhotse import Recording

logger = logging.getLogger(__name__)

AUDIO_DIR = "audio"
_PER_FOLDER = 1000  # files that are put into one folder
_A = TypeVar("_A")
_B = TypeVar("_B")
_ROUNDING = 0.05  # seconds by which the length that a corpus gives may be off


def _key(audio: SourceAudio) -> str:
    named = json.dumps([audio.path, audio.command, audio.channel])
    return hashlib.blake2b(named.encode(), digest_size=12).hexdigest()


class Recordings:
    """Recordings by (file or command, channel), in files on disk but for 100 bytes each."""

    def __init__(self, work_dir: Path, final_dir: Path, options: ImportOptions) -> None:
        self._work_dir, self._final_dir, self._options = work_dir, final_dir, options
        self._found = (
            JsonSpool()
        )  # key -> {"audio", "facts", "channel", "name"} or {"problem"}, later {"stored", "name"}
        self._names = Unique()
        self._rates: Counter[int] = Counter()
        self._counts: Counter[str] = Counter()
        self.rate = options.rate

    def look(self, utterances: Iterable[SourceUtterance]) -> None:
        """Look at the header of each recording; afterwards ``rate`` is that of the data directory."""
        for utt in progress(utterances, desc="audio headers"):
            key = _key(utt.audio)
            if key not in self._found:
                self._found[key] = self._looked(utt.audio)
        if self.rate is None and self._rates:
            self.rate = self._rates.most_common(1)[0][0]

    def _looked(self, audio: SourceAudio) -> dict[str, Any]:
        entry: dict[str, Any] = {"audio": asdict(audio), "name": self._names(audio.recording)}
        if audio.command:
            return entry
        try:
            facts = look(audio.path)
            entry |= {"facts": asdict(facts), "channel": self._channel(audio, facts)}
            _check_account(audio, facts)
        except AudioProblem as err:
            return {"problem": [err.kind, str(err)]}
        self._rates[facts.rate] += 1
        return entry

    def _channel(self, audio: SourceAudio, facts: AudioFacts) -> Channel:
        if audio.maybe_alone and audio.channel is not None and facts.channels == 1:
            return 0
        return choose_channel(facts, audio.channel, self._options.channel)

    def problem(self, audio: SourceAudio) -> list[str] | None:
        """[kind, words] of what speaks against a recording; None where nothing does."""
        entry = self._found[_key(audio)]
        if "problem" in entry:
            return list(entry["problem"])
        rate = entry.get("facts", {}).get("rate", self.rate)
        if self._options.rate is None and rate != self.rate:
            return [
                "another sampling rate",
                f"{audio.path}: {rate} Hz, most files have {self.rate} Hz; --rate HZ converts",
            ]
        return None

    def seconds(self, audio: SourceAudio) -> float | None:
        """Length of a recording by its header; None if that does not say it."""
        facts = self._found[_key(audio)].get("facts")
        return None if not facts or facts["frames"] is None else facts["frames"] / facts["rate"]

    def store(self, utterances: Iterable[SourceUtterance]) -> None:
        """Read the recordings of utterances to their ends and store them."""
        keys = dict[str, None]()
        for utt in utterances:
            keys[_key(utt.audio)] = None
        numbers = {key: number for number, key in enumerate(keys)}
        with ThreadPoolExecutor(self._options.num_jobs) as pool:
            stored = map_ahead(pool, lambda key: self._store(key, numbers[key]), keys, 4 * self._options.num_jobs)
            for key, entry in progress(stored, len(keys), "audio"):
                self._found[key] = entry
                self._counts["recordings"] += 1
                if "stored" in entry:
                    self._counts["converted"] += self._is_own(entry["stored"]["path"])
                    self._counts["clipped_samples"] += entry["stored"]["clipped"]

    def _store(self, key: str, number: int) -> tuple[str, dict[str, Any]]:
        entry = self._found[key]
        audio, name = SourceAudio(**entry["audio"]), entry["name"]
        relative = Path(AUDIO_DIR, f"{number // _PER_FOLDER:04d}", f"{name}.flac")
        assert self.rate is not None
        printed = self._work_dir / relative.with_suffix(".printed")
        try:
            if audio.command:
                facts = run_command(audio.command, printed)
                channel = self._channel(audio, facts)
            else:
                facts, channel = AudioFacts(**entry["facts"]), entry["channel"]
            final = self._final_dir / relative
            found = store(facts, channel, self.rate, name, self._work_dir / relative, final)
        except AudioProblem as err:
            return key, {"problem": [err.kind, str(err)]}
        finally:
            printed.unlink(missing_ok=True)
        return key, {"stored": asdict(found), "name": name}

    def _is_own(self, path: str) -> bool:
        return Path(path).is_relative_to(self._final_dir.resolve())

    def stored(self, audio: SourceAudio) -> Recording:
        """The recording as it stands now."""
        entry = self._found[_key(audio)]
        return _recording(entry["name"], **entry["stored"])

    def facts(self) -> dict[str, Any]:
        """Numbers for the stamp; what was too loud is told."""
        if self._counts["clipped_samples"]:
            logger.warning("%d samples were too loud for 16 bits and are clipped", self._counts["clipped_samples"])
        return dict(self._counts)


def _check_account(audio: SourceAudio, facts: AudioFacts) -> None:
    """AudioProblem unless a file has the rate and length that its corpus gives, up to rounding."""
    if audio.rate is not None and audio.rate != facts.rate:
        raise AudioProblem(
            "not the audio of the manifest", f"{facts.path}: {facts.rate} Hz, the manifest says {audio.rate} Hz"
        )
    if audio.samples is not None and facts.frames is not None:
        if abs(audio.samples - facts.frames) > _ROUNDING * facts.rate:
            raise AudioProblem(
                "not the audio of the manifest",
                f"{facts.path}: {facts.frames:,} samples, the manifest says {audio.samples:,}",
            )


@functools.lru_cache(maxsize=256)
def _recording(name: str, path: str, rate: int, samples: int, clipped: int) -> Recording:
    from pipeline.artifacts.corpus import known_recording

    return known_recording(name, Path(path), rate, samples)


def map_ahead(pool: ThreadPoolExecutor, function: Callable[[_A], _B], items: Iterable[_A], ahead: int) -> Iterator[_B]:
    """Results of a function in the order of its arguments, never more than ``ahead`` of them under way."""
    waiting: deque[Future[_B]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
