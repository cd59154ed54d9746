"""Pronunciations of words in about a hundred languages, by espeak-ng's rules and dictionaries.

espeak-ng (GPL, version 3) comes as a shared library in the package ``espeakng_loader`` and is loaded at run time only;
what it says of words are facts, and nothing of it enters this package.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Iterable
from pathlib import Path

from pipeline.base.errors import ConfigError

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS; nothing is played or synthesised
_DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: a missing data folder is an error code, not exit()
_CHARS_UTF8 = 1
_IPA = 0x02  # of espeak_TextToPhonemes: names in the International Phonetic Alphabet
_BETWEEN = "_"  # and what stands between two of them
_LANGUAGE = re.compile(r"\([a-z-]+\)")  # a word of another language, as "(en)", and the way back
_STRESS = str.maketrans("", "", "ˈˌ")
_LOCK = threading.Lock()  # espeak is one global state per process


def pronounce(words: Iterable[str], language: str) -> dict[str, tuple[str, ...]]:
    """Phones of words said by themselves.

    Args:
        words: one word each; espeak decides what to do with digits and symbols.
        language: espeak's code, such as de, fr or cmn.
    Returns:
        word -> symbols of the International Phonetic Alphabet, long ones with their mark, without stress; none for what
        espeak does not say.
    Raises:
        ConfigError: espeak does not know the language.
    """
    import espeakng_loader

    with _LOCK:
        lib = ctypes.CDLL(espeakng_loader.get_library_path())
        lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        lib.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_int]
        data = espeakng_loader.get_data_path().encode()
        if lib.espeak_Initialize(_SYNCHRONOUS, 0, data, _DONT_EXIT) <= 0:
            raise ConfigError(f"espeak-ng does not start with the data in {data.decode()}")
        try:
            if lib.espeak_SetVoiceByName(language.encode()) != 0:
                known = sorted(path.name for path in Path(data.decode(), "lang").rglob("*") if path.is_file())
                raise ConfigError(f"espeak-ng does not know the language {language!r}, but {', '.join(known)}")
            return {word: _phones(lib, word) for word in words}
        finally:
            lib.espeak_Terminate()


def _phones(lib: ctypes.CDLL, word: str) -> tuple[str, ...]:
    text, found = ctypes.c_char_p(word.encode()), []
    while text.value is not None:  # one clause at a time; espeak moves the pointer
        said = lib.espeak_TextToPhonemes(ctypes.byref(text), _CHARS_UTF8, _IPA | ord(_BETWEEN) << 8)
        found.append((said or b"").decode())
    names = re.split(rf"[{_BETWEEN}\s]+", _LANGUAGE.sub(_BETWEEN, _BETWEEN.join(found)).translate(_STRESS))
    return tuple(name for name in names if name)
