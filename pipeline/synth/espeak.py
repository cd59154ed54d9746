"""Speech with exact phone times from espeak-ng, called through ctypes.

espeak-ng (GPL, version 3) comes as a shared library in the package ``espeakng_loader`` and is loaded at run time only;
nothing of it enters this package or its output.

espeak reports each word and phoneme as an event that carries the output sample at which it starts (the integer field
``sample``; the millisecond field next to it is rounded down and not used). Two properties shape this module:

- The library keeps the state of its noise and flutter generators from one call to the next, so equal text gives
different
  audio the second time. Each call therefore loads the library afresh (about 4 ms) and unloads it afterwards, which
  makes the audio a function of text and voice alone.
- A plosive's event stands at its release: the silence of the closure is written before the event. ``_phone_spans``
gives this
  silence to the plosive, so that a phone here is closure plus release, as in most alignments.
"""

from __future__ import annotations

import ctypes
import functools
import os
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.base.errors import DataError

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: the callback runs inside espeak_Synth, in this thread
_PHONEME_EVENTS = 0x0001  # espeakINITIALIZE_PHONEME_EVENTS
_DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: a missing data folder is an error code, not exit()
_CHARS_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER
_EVENT_END, _EVENT_WORD, _EVENT_PHONEME = 0, 1, 7
_LOCK = threading.Lock()  # espeak is one global state per process


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Voice:
    """One synthetic speaker: an espeak voice variant with its pitch and speed.

    Args:
        name: speaker id.
        variant: espeak's voice variant, e.g. ``m3``; the language is ``language``.
        pitch: base pitch, 0 to 100 (50 is the variant's own).
        range: pitch range, 0 to 100 (0 is monotone).
        rate: speed in words per minute, 80 to 450.
        language: espeak's language.
        definition: text of a voice file of espeak's, for a variant that espeak does not come with; empty for its own.
    """

    name: str
    variant: str
    pitch: int = 50
    range: int = 50
    rate: int = 175
    language: str = "en-us"
    definition: str = ""


class RawPhone(NamedTuple):
    """A phoneme as espeak names it; ``start`` and ``end`` in samples, ``end`` exclusive."""

    mnemonic: str
    start: int
    end: int


class RawWord(NamedTuple):
    """A word with its phonemes."""

    text: str
    phones: tuple[RawPhone, ...]


class RawSpeech(NamedTuple):
    """One synthesised phrase: int16 samples, their rate in Hz, the words with phone times in samples."""

    samples: np.ndarray
    rate: int
    words: tuple[RawWord, ...]


class _Recorder:
    """Collects audio and events from espeak's callback."""

    def __init__(self) -> None:
        self.audio: list[np.ndarray] = []
        self.events: list[tuple[int, int, int, str]] = []  # type, text position, sample, mnemonic
        self.callback = _Callback(self._receive)

    def _receive(self, wav, num_samples, events) -> int:
        if wav and num_samples > 0:
            self.audio.append(np.ctypeslib.as_array(wav, (num_samples,)).copy())
        i = 0
        while events[i].type != _EVENT_END:
            event = events[i]
            mnemonic = ""
            if event.type == _EVENT_PHONEME:
                mnemonic = ctypes.string_at(ctypes.addressof(event.id), 8).split(b"\0")[0].decode()
            self.events.append((event.type, event.text_position, event.sample, mnemonic))
            i += 1
        return 0


@functools.cache
def _drawn_voices() -> tempfile.TemporaryDirectory:
    """The folder of this process for voices that espeak does not come with; it goes with the process."""
    return tempfile.TemporaryDirectory(prefix="voices-")


def _data_with(voice: Voice, data: Path) -> Path:
    """Returns a folder of espeak's data whose only variant is this one: espeak reads variants from no other place, and
    lists at each start all that are there, up to 350 voices.
    """
    own = Path(_drawn_voices().name)
    variants = own / "voices" / "!v"
    if not variants.is_dir():
        for path in data.iterdir():
            if path.name != "voices":
                (own / path.name).symlink_to(path)
        variants.mkdir(parents=True)
    for path in variants.iterdir():
        path.unlink()
    (variants / voice.variant).write_text(voice.definition, encoding="utf-8")
    return own


def _run(text: str, voice: Voice) -> tuple[np.ndarray, int, list[tuple[int, int, int, str]]]:
    """Synthesise in a freshly loaded library; returns (samples, rate, events)."""
    import _ctypes

    import espeakng_loader

    recorder = _Recorder()
    lib = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        lib.espeak_Synth.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint]
        lib.espeak_Synth.argtypes += [ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p]
        ctypes.CDLL(None).srand(1)  # the library draws its noise from libc's rand()
        data = Path(espeakng_loader.get_data_path())
        if voice.definition:
            data = _data_with(voice, data)
        rate = lib.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), _PHONEME_EVENTS | _DONT_EXIT)
        if rate <= 0:
            raise DataError(f"espeak-ng does not start with the data in {data}")
        lib.espeak_SetSynthCallback(recorder.callback)
        name = f"{voice.language}+{voice.variant}"
        known = (data / "voices" / "!v" / voice.variant).is_file()  # espeak ignores an unknown variant
        if not known or lib.espeak_SetVoiceByName(name.encode()) != 0:
            raise DataError(f"espeak-ng has no voice {name!r}")
        for parameter, value in ((_RATE, voice.rate), (_PITCH, voice.pitch), (_RANGE, voice.range)):
            lib.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode()
        lib.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _CHARS_UTF8, None, None)
        lib.espeak_Terminate()
    finally:
        _ctypes.dlclose(lib._handle)
    return np.concatenate([np.zeros(0, np.int16), *recorder.audio]), rate, recorder.events


def _closure(samples: np.ndarray, start: int, floor: int) -> int:
    """First sample of the silence (exact zeros) that ends at ``start``; not before ``floor``."""
    first = start
    while first > floor and samples[first - 1] == 0:
        first -= 1
    return first


def _phone_spans(samples: np.ndarray, events: list[tuple[int, int, int, str]]) -> list[tuple[int, RawPhone]]:
    """Phonemes with their spans and the text position of their word.

    A phone starts at its event, or, when the sound before it did not stop with a pause phoneme, at the start of the
    zeros that espeak writes before the event. After a pause the two silences cannot be told apart and count as pause.

    Returns:
        (text position, phone) pairs in order of time; pauses (espeak's ``_``, ``_:`` ...) are left out.
    """
    marks = [(position, sample, mnemonic) for kind, position, sample, mnemonic in events if kind == _EVENT_PHONEME]
    starts = []
    for i, (_, sample, mnemonic) in enumerate(marks):
        after_pause = i == 0 or marks[i - 1][2].startswith("_")
        is_pause = mnemonic.startswith("_")
        starts.append(sample if after_pause or is_pause else _closure(samples, sample, marks[i - 1][1]))
    ends = starts[1:] + [len(samples)]
    return [
        (position, RawPhone(mnemonic, start, end))
        for (position, _, mnemonic), start, end in zip(marks, starts, ends)
        if not mnemonic.startswith("_")
    ]


def say(text: str, voice: Voice) -> tuple[np.ndarray, int]:
    """Speak any text, where times of words are not needed.

    Returns:
        int16 samples (T,) and their rate in Hz (22,050); the same in every call.
    """
    with _LOCK:
        samples, rate, _ = _run(text, voice)
    return samples, rate


def synthesize(words: list[str], voice: Voice) -> RawSpeech:
    """Speak one phrase and return its audio with the exact times of its words and phones.

    Args:
        words: the words; espeak decides on their pronunciation in this context. Lower case, no punctuation.
        voice: the speaker.
    Returns:
        int16 samples at espeak's own rate (22,050 Hz), silence before the first and after the last phone included.
    Raises:
        DataError: unknown voice, or words that espeak joins or does not pronounce (``of the`` has one entry in some
            dictionaries).
    """
    with _LOCK:
        samples, rate, events = _run(" ".join(words), voice)
    position_of: dict[int, int] = {}
    position = 1  # espeak counts characters from 1
    for word in words:
        position_of[position] = len(position_of)
        position += len(word) + 1
    phones: list[list[RawPhone]] = [[] for _ in words]
    for text_position, phone in _phone_spans(samples, events):
        if text_position not in position_of:
            raise DataError(
                f"espeak splits the phrase {' '.join(words)!r} into other words (at character {text_position})"
            )
        if (
            phone.end <= phone.start
        ):  # an l after a vowel, for example: espeak colours the vowel and writes nothing more
            raise DataError(f"espeak gives no time of its own to phoneme {phone.mnemonic!r} in {' '.join(words)!r}")
        phones[position_of[text_position]].append(phone)
    silent = [word for word, spoken in zip(words, phones) if not spoken]
    if silent:
        raise DataError(f"espeak gives no phones to {silent} in the phrase {' '.join(words)!r}")
    return RawSpeech(samples, rate, tuple(RawWord(word, tuple(spoken)) for word, spoken in zip(words, phones)))
