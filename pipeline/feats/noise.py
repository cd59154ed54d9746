"""Noise and reverberation added to the audio of a data directory; words and times stay as they are."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.artifacts.corpus import as_cut, checked_cuts, load_samples, save_data_dir, store_audio
from pipeline.artifacts.cut_spool import CutSpool
from pipeline.base.errors import DataError
from pipeline.feats.options import NoiseOptions

if TYPE_CHECKING:
    from lhotse import MonoCut

FULL_SCALE = 32767


def add_noise(data_in: Path, work_dir: Path, out_dir: Path, options: NoiseOptions) -> dict[str, int]:
    """Write a data directory with the utterances of another one and noisy copies of each.

    Copy k of utterance ``u`` of speaker ``s`` is ``u_noise{k}`` of ``s_noise{k}``; alignments of ``u`` hold for it. The
    ratio of signal to noise is uniform in decibels between the options' limits, a function of seed, utterance and copy.
    Reverberation comes before the noise, and counts as signal.

    Args:
        data_in: data directory.
        work_dir: where the new one is written; out_dir: where it will stand.
    Returns:
        facts for the stamp.
    """
    with checked_cuts(data_in, work_dir, check_audio=True) as cuts:
        originals = (_without_features(as_cut(cuts[i])) for i in range(len(cuts) if options.keep else 0))
        return {"utterances": save_data_dir(work_dir, chain(originals, _copies(cuts, work_dir, out_dir, options)))}


def _without_features(cut: MonoCut) -> MonoCut:
    from lhotse.utils import fastcopy

    return fastcopy(cut, features=None)


def _copies(cuts: CutSpool, work_dir: Path, out_dir: Path, options: NoiseOptions) -> Iterator[MonoCut]:
    from lhotse.utils import fastcopy

    if options.kind == "babble" and len(cuts) < 2:
        raise DataError("babble is the voices of other utterances, and there is one alone")
    for number in range(len(cuts)):
        cut = as_cut(cuts[number])
        dry = load_samples(cut).astype(np.float64)
        for copy in range(1, options.copies + 1):
            rng = np.random.default_rng((options.seed, zlib.crc32(cut.id.encode()), copy))
            speech = reverberate(dry, options.rt60 * cut.sampling_rate, options.drr, rng) if options.rt60 else dry
            if options.kind == "babble":
                others = rng.integers(0, len(cuts) - 1, options.voices)
                voices = [load_samples(as_cut(cuts[int(i + (i >= number))])) for i in others]
                noise = babble(voices, len(speech), rng)
            elif options.kind == "none":
                noise = np.zeros(len(speech))
            else:
                noise = coloured(len(speech), 1.0 if options.kind == "pink" else 0.0, rng)
            name = f"{cut.id}_noise{copy}"
            mixed = mix(speech, noise, rng.uniform(options.min_snr, options.max_snr))
            samples = (mixed * FULL_SCALE).round().astype(np.int16)
            path = Path("audio") / f"{name}.flac"
            recording = store_audio(name, samples, cut.sampling_rate, work_dir / path, out_dir / path)
            supervision = fastcopy(
                cut.supervisions[0],
                id=name,
                recording_id=name,
                channel=0,
                speaker=f"{cut.supervisions[0].speaker}_noise{copy}",
            )
            yield fastcopy(
                cut, id=name, start=0.0, channel=0, recording=recording, features=None, supervisions=[supervision]
            )


def reverberate(speech: np.ndarray, decay: float, drr: float, rng: np.random.Generator) -> np.ndarray:
    """Speech in a room: direct sound at its time, and behind it white noise that dies away (Polack 1988), as response.

    Args:
        speech: (T,).
        decay: samples in which the reverberation falls by 60 dB.
        drr: energy of the direct sound over that of the reverberation, in dB.
    Returns:
        (T,), of the loudness of `speech`; what reverberates beyond its end is left out.
    """
    from scipy.signal import fftconvolve

    tail = rng.standard_normal(max(1, round(decay))) * 10 ** (-3 * np.arange(max(1, round(decay))) / decay)
    tail *= 10 ** (-drr / 20) / np.sqrt(np.sum(tail**2))
    heard = speech + np.concatenate([[0.0], fftconvolve(speech, tail)[: len(speech) - 1]])
    return heard * np.sqrt(np.mean(speech**2) / max(float(np.mean(heard**2)), 1e-20))


def mix(speech: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """Speech plus noise at a ratio of their mean powers in dB, (T,) both; scaled down where the sum would clip."""
    power = np.mean(noise**2)
    gain = np.sqrt(np.mean(speech**2) / max(power, 1e-20) / 10 ** (snr / 10))
    mixed = speech + gain * noise
    return mixed / max(1.0, float(np.abs(mixed).max()))


def coloured(length: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """(T,) noise whose power falls with frequency to the given power: 0 white, 1 pink."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1.0) ** (-exponent / 2)
    return np.fft.irfft(spectrum, length)


def babble(voices: list[np.ndarray], length: int, rng: np.random.Generator) -> np.ndarray:
    """(T,) sum of voices of equal power, each repeated from a random place on."""
    out = np.zeros(length)
    for voice in voices:
        power = max(float(np.mean(voice.astype(np.float64) ** 2)), 1e-20)
        place = (int(rng.integers(len(voice))) + np.arange(length)) % len(voice)
        out += voice[place] / np.sqrt(power)
    return out
