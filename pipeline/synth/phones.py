"""The phone set of synthesised English: espeak's mnemonics mapped to ARPAbet-like symbols.

Stress is dropped and espeak's allophones of one phone are merged. Vowels that espeak joins with a following r are one
phone here as well (AAR, AOR, EHR, IHR), since the synthesiser has no boundary inside them.
"""

from __future__ import annotations

from pipeline.base.errors import DataError

_STRESS = "',%="

PHONE_OF = {
    "0": "AA", "A:": "AA", "a": "AE", "aa": "AE", "V": "AH", "O:": "AO", "O2": "AO", "aU": "AW",
    "@": "AX", "@2": "AX", "@5": "AX", "a#": "AX", "aI": "AY", "E": "EH", "3": "ER", "3:": "ER", "eI": "EY",
    "I": "IH", "I2": "IH", "I#": "IH", "i": "IY", "i:": "IY", "oU": "OW", "OI": "OY", "U": "UH", "u:": "UW", "u": "UW",
    "@L": "EL", "A@": "AAR", "O@": "AOR", "o@": "AOR", "e@": "EHR", "i@": "IHR", "i@3": "IHR",
    "b": "B", "tS": "CH", "d": "D", "D": "DH", "t#": "DX", "f": "F", "g": "G", "h": "HH", "dZ": "JH", "k": "K", "l": "L",
    "m": "M", "n": "N", "N": "NG", "p": "P", "r": "R", "r-": "R", "s": "S", "S": "SH", "t": "T", "t2": "T", "T": "TH",
    "v": "V", "w": "W", "j": "Y", ";": "Y", "z": "Z", "Z": "ZH",
}  # fmt: skip


def phone_symbol(mnemonic: str) -> str:
    """Returns the phone symbol of an espeak mnemonic, e.g. ``'oU`` -> ``OW``; DataError for one outside the table."""
    symbol = PHONE_OF.get(mnemonic.strip(_STRESS))
    if symbol is None:
        raise DataError(f"espeak phoneme {mnemonic!r} has no phone symbol: leave the word out or extend PHONE_OF")
    return symbol
