"""Audio of any kind looked at, checked to its last sample, and stored as data directories need it.

libsndfile reads WAV, FLAC, Ogg (Vorbis, Opus), MP3, AIFF, AU, SPHERE (plain, mu-law, A-law) and more; the rest goes
through ffmpeg where it is installed. Every sample is read once.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.audio_header import shortage, sphere_coding
from pipeline.artifacts.cut_checks import LOUDEST, audio_info
from pipeline.base.errors import DataError
from pipeline.base.files import check_utf8
from pipeline.corpora import programs
from pipeline.corpora.resample import resample

FULL_SCALE = 32768
_BLOCK = 1 << 16  # samples
_ROUGHLY = 0.25  # seconds by which the length that ffmpeg tells may be off, by padding among others
_IN_PLACE = {"WAV": (".wav",), "WAVEX": (".wav",), "FLAC": (".flac",)}  # as the readers of features know them
_SUBTYPES = ("PCM_16", "PCM_24", "PCM_32", "PCM_S8", "PCM_U8")

Channel = int | Literal["mean"] | None


class AudioProblem(DataError):
    """Audio that cannot be used; ``kind`` says why in few words."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class AudioFacts:
    """What shows without decoding.

    Attributes:
        frames: samples of each channel; None: not known yet, but about ``seconds`` of them if that is above 0.
        in_place: could stay as it is, were its rate right.
        floating: samples are floating-point numbers.
    """

    path: str
    rate: int
    channels: int
    frames: int | None
    by: Literal["sndfile", "ffmpeg"]
    seconds: float = 0.0
    in_place: bool = False
    floating: bool = False


@dataclass(frozen=True)
class Stored:
    """Audio as it stands now: mono, ``samples`` of them at ``rate`` Hz; ``clipped`` of them were louder than can be."""

    path: str
    rate: int
    samples: int
    clipped: int = 0


def look(path: str) -> AudioFacts:
    """Facts of an audio file by its header.

    Raises:
        AudioProblem: it is missing, empty, cut short, of a name that is not UTF-8, or nothing here reads it.
    """
    try:
        check_utf8(os.path.realpath(path))
    except DataError as err:
        raise AudioProblem("name that is not UTF-8", str(err)) from None
    try:
        if os.path.getsize(path) == 0:
            raise AudioProblem("empty audio file", f"{path}: empty file")
        short = shortage(Path(path))
    except OSError as err:
        raise AudioProblem("no audio", f"{path}: cannot be read ({err.strerror})") from None
    if short is not None:
        raise AudioProblem("audio cut short", f"{path}: {short}")
    try:
        info = audio_info(Path(path))
    except DataError as err:
        coding = sphere_coding(Path(path))
        reason = str(err) if coding is None else f"{path}: SPHERE coded as {coding}, which sph2pipe expands"
        return _look_with_ffmpeg(path, reason)
    if not info.frames:
        raise AudioProblem("empty audio file", f"{path}: holds no samples")
    in_place = Path(path).suffix.lower() in _IN_PLACE.get(info.format, ()) and info.subtype in _SUBTYPES
    floating = info.subtype in ("FLOAT", "DOUBLE")
    return AudioFacts(path, info.samplerate, info.channels, info.frames, "sndfile", 0.0, in_place, floating)


def _look_with_ffmpeg(path: str, reason: str) -> AudioFacts:
    found = programs.probe(path)
    if found is None:
        raise AudioProblem("not readable as audio", f"{reason}{programs.ADVICE if not programs.ffmpeg() else ''}")
    return AudioFacts(path, found.rate, found.channels, None, "ffmpeg", found.seconds)


def choose_channel(facts: AudioFacts, named: int | None, chosen: Channel) -> Channel:
    """The channel of a file to take: what its corpus names, else what is chosen, else the only one.

    Raises:
        AudioProblem: several and none chosen, or one that is not there.
    """
    channel: Channel = named if named is not None else chosen
    if channel is None:
        if facts.channels > 1:
            raise AudioProblem(
                "several channels",
                f"{facts.path}: has {facts.channels} channels; --channel N or --channel mean takes one",
            )
        return 0
    if channel == "mean":
        return 0 if facts.channels == 1 else channel
    if not 0 <= channel < facts.channels:
        raise AudioProblem(
            "no such channel",
            f"{facts.path}: has no channel {channel}, but {facts.channels}, counted from 0",
        )
    return channel


class Samples:
    """Blocks of one channel of a file as float (t,), full scale being 1; checked while they pass.

    Attributes:
        count: samples so far.
        peak: largest absolute value so far.
    """

    def __init__(self, facts: AudioFacts, channel: Channel) -> None:
        self.facts, self.channel = facts, channel
        self.count, self.peak = 0, 0.0

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        """Raises:
        AudioProblem: at the end, or where it shows.
        """
        facts = self.facts
        blocks = _decoded(facts.path) if facts.by == "sndfile" else programs.decoded(facts.path, facts.channels)
        for block in blocks:  # (t, C)
            mono = block.mean(axis=1) if self.channel == "mean" else block[:, int(self.channel or 0)]
            self.count += len(mono)
            peak = float(np.abs(mono).max()) if len(mono) else 0.0
            if not np.isfinite(peak):
                raise AudioProblem("samples that are no numbers", f"{facts.path}: has samples that are NaN or infinite")
            self.peak = max(self.peak, peak)
            if self.peak > LOUDEST and facts.floating:
                raise AudioProblem(
                    "samples out of scale",
                    f"{facts.path}: floating-point samples up to {self.peak:,.0f}, where 1 is full scale: "
                    "integers that were not scaled",
                )
            yield mono
        if facts.frames is not None and self.count < facts.frames:
            raise AudioProblem(
                "audio cut short", f"{facts.path}: {self.count:,} of {facts.frames:,} samples can be decoded"
            )
        if self.count < (facts.seconds - _ROUGHLY) * facts.rate:
            told = f"{self.count / facts.rate:.2f} of {facts.seconds:.2f} s can be decoded"
            raise AudioProblem("audio cut short", f"{facts.path}: {told}")
        if not self.count:
            raise AudioProblem("empty audio file", f"{facts.path}: holds no samples")
        if self.peak == 0.0:
            raise AudioProblem("digital silence", f"{facts.path}: all {self.count:,} samples are zero")


def _decoded(path: str) -> Iterator[npt.NDArray[Any]]:
    """Blocks (t, C) of a file that libsndfile reads."""
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            while True:
                block = file.read(_BLOCK, dtype="float32", always_2d=True)
                if not len(block):
                    return
                yield block
    except soundfile.LibsndfileError as err:
        raise AudioProblem("damaged audio", f"{path}: damaged ({err.error_string or 'cannot be decoded'})") from None


def store(facts: AudioFacts, channel: Channel, rate: int, name: str, path: Path, final_path: Path) -> Stored:
    """Read a file to its end; leave it where it is if it is right, else write it as FLAC of one channel.

    Args:
        rate: wanted, in Hz.
        name: id of the recording.
        path, final_path: where to write, and where that will stand.
    Raises:
        AudioProblem: what is wrong with the samples; nothing is left under ``path``.
    """
    from pipeline.artifacts.corpus import store_audio

    samples = Samples(facts, channel)
    if facts.in_place and facts.channels == 1 and facts.rate == rate:
        for _ in samples:
            pass
        return Stored(os.path.realpath(facts.path), rate, samples.count)
    clipped = 0

    def integers() -> Iterator[npt.NDArray[Any]]:
        nonlocal clipped
        for block in resample(samples, facts.rate, rate):
            scaled = np.rint(block * np.float32(FULL_SCALE))
            clipped += int(np.count_nonzero((scaled > FULL_SCALE) | (scaled < -FULL_SCALE)))
            yield np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)

    try:
        recording = store_audio(name, integers(), rate, path, final_path)
    except AudioProblem:
        path.with_name(f"{path.name}.partial").unlink(missing_ok=True)
        raise
    return Stored(str(final_path.resolve()), rate, recording.num_samples, clipped)


def run_command(command: str, output: Path) -> AudioFacts:
    """Write what a command prints into a file, and look at it.

    Raises:
        AudioProblem: the command is not one that can run without a shell, or it failed.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        programs.run_pipe(command, output)
    except (OSError, ValueError, RuntimeError) as err:
        raise AudioProblem("command failed", f"{shlex.quote(command)}: {err}") from None
    return look(str(output))
