"""Utterances from synthesised phrases: pauses, level, background noise, resampling; the times stay exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.artifacts.corpus import Span
from pipeline.synth.espeak import RawSpeech
from pipeline.synth.phones import phone_symbol


@dataclass(frozen=True)
class Utterance:
    """Audio with exact times.

    Args:
        samples: int16 (T,).
        sampling_rate: in Hz.
        words, phones: spans in seconds in order of time; pauses are the gaps between them.
        pronunciations: (word, phone symbols) per word.
    """

    samples: np.ndarray
    sampling_rate: int
    words: tuple[Span, ...]
    phones: tuple[Span, ...]
    pronunciations: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Room:
    """How the speech of one utterance is recorded.

    Args:
        silences: seconds of silence before each phrase and after the last one, (number of phrases + 1,).
        level: root mean square of the speech, as a fraction of full scale.
        snr_db: ratio of speech to noise in dB.
        noise_colour: pole of the first-order filter that shapes the white noise, 0 (white) to below 1 (dull).
    """

    silences: tuple[float, ...]
    level: float
    snr_db: float
    noise_colour: float


def assemble(phrases: list[RawSpeech], room: Room, sampling_rate: int, rng: np.random.Generator) -> Utterance:
    """Join phrases with silences, add noise and convert to the sampling rate.

    Each phrase is cut to the time from its first to its last phone. The resampling filter has linear phase and its
    delay is removed, so that times do not move.

    Args:
        phrases: at least one, all at one rate.
        room: silences, level and noise.
        sampling_rate: of the result, in Hz.
        rng: source of the noise.
    """
    from scipy.signal import lfilter, resample_poly

    assert len(room.silences) == len(phrases) + 1, (len(room.silences), len(phrases))
    rate = phrases[0].rate
    pieces: list[np.ndarray] = []
    words: list[Span] = []
    phones: list[Span] = []
    pronunciations = []
    position = 0
    for phrase, silence in zip(phrases, room.silences):
        pieces.append(np.zeros(round(silence * rate)))
        position += len(pieces[-1])
        first, last = phrase.words[0].phones[0].start, phrase.words[-1].phones[-1].end
        for word in phrase.words:
            spans = [_span(phone_symbol(p.mnemonic), p.start, p.end, position - first, rate) for p in word.phones]
            phones += spans
            words.append(_span(word.text.upper(), word.phones[0].start, word.phones[-1].end, position - first, rate))
            pronunciations.append((word.text.upper(), tuple(span.symbol for span in spans)))
        pieces.append(phrase.samples[first:last].astype(np.float64))
        position += last - first
    pieces.append(np.zeros(round(room.silences[-1] * rate)))
    speech = resample_poly(np.concatenate(pieces), sampling_rate, rate)
    spoken = np.concatenate(pieces[1::2])
    speech *= room.level / (np.sqrt(np.mean(spoken**2)) + 1e-9)
    noise = lfilter([1.0], [1.0, -room.noise_colour], rng.standard_normal(len(speech)))
    noise *= room.level * 10 ** (-room.snr_db / 20) / np.sqrt(np.mean(noise**2))
    samples = np.clip(np.round((speech + noise) * 32768), -32768, 32767).astype(np.int16)
    return Utterance(samples, sampling_rate, tuple(words), tuple(phones), tuple(pronunciations))


def _span(symbol: str, start: int, end: int, shift: int, rate: int) -> Span:
    begin = round((start + shift) / rate, 6)
    return Span(symbol, begin, round(round((end + shift) / rate, 6) - begin, 6))
