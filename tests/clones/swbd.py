"""A miniature Switchboard: LDC97S62, Mississippi State's transcripts, Hub5'00 (LDC2002S09, LDC2002T43), Hub5'01.

Names, folders, SPHERE headers (two channels, 8 kHz, mu-law) and the notations of transcripts and references are those
of the originals; the speech is synthetic.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from tests.clones.speech import speech, timeline, voice, write_audio

RATE = 8000
# word as it is transcribed -> what is said (the word itself where nothing is given), pronunciations
WORDS = {
    "yeah": ("", "y ae ax"), "i": ("", "ay"), "know": ("", "n ow"), "we": ("", "w iy"), "you": ("", "y uw"),
    "have": ("", "hh ae v"), "two": ("", "t uw"), "dogs": ("", "d ao g z"), "cats": ("", "k ae t s"),
    "like": ("", "l ay k"), "the": ("", "dh ax"), "water": ("", "w ao t er"), "music": ("", "m y uw z ih k"),
    "really": ("", "r iy l iy"), "okay": ("", "ow k ey"), "uh": ("", "ah"), "um": ("", "ah m"), "them": ("", "dh eh m"),
    "them_1": ("", "eh m"), "ab[solute]-": ("ab", "ae b"), "mon[ey]-": ("mun", "m ah n"), "[it'n/isn't]": ("itn", ""),
    "[laughter-yeah]": ("yeah", ""), "{goodish}": ("goodish", "g uh d ih sh"), "uh-huh": ("aha", "ah hh ah"),
}  # fmt: skip
PATTERNS = (
    "i have two dogs", "you know i like music", "yeah we have cats", "okay", "[laughter-yeah] i know", "uh-huh",
    "uh i like the ab[solute]- water", "we really like them_1", "[noise] um you have mon[ey]- water", "really okay",
    "<b_aside> we know <e_aside> them", "[it'n/isn't] music {goodish}", "the cats like water [laughter]", "yeah yeah",
    "two cats have dogs", "um okay you like the dogs",
)  # fmt: skip
NOISE = ("[noise]", "[laughter]", "<b_aside>", "<e_aside>")


def spoken(text: str) -> str:
    """What is said where a transcript stands; "" for nothing."""
    words = [WORDS.get(token, ("", ""))[0] or token.split("_")[0] for token in text.split() if token not in NOISE]
    return " ".join(words)


def side(
    turns: list[tuple[float, str]], speaker: int, seconds: float
) -> tuple[np.ndarray, list[tuple[float, float, str]]]:
    """A channel, and (start, end, text) of what is said on it; a turn begins behind the one before."""
    pieces, spans, now = [], [], 0.0
    for start, text in turns:
        piece = speech(spoken(text) or "hm", voice(speaker), RATE)
        first = max(start, now)
        now = first + len(piece) / RATE
        pieces.append((first, piece))
        spans.append((first, now, text))
    return timeline(pieces, RATE, max(seconds, now + 0.2), speaker), spans


def stereo(channels: list[np.ndarray]) -> np.ndarray:
    """Two channels of one length, (T, 2)."""
    length = max(map(len, channels))
    return np.stack([np.pad(c, (0, length - len(c))) for c in channels], axis=1)


def make(root: Path, conversations: int = 10, turns: int = 9) -> Path:
    """Writes the corpus below a folder, which it returns."""
    draw = random.Random(1)
    text_root = root / "swb_ms98_transcriptions"
    for i in range(conversations):
        name, channels = f"{2001 + i}", []
        folder = text_root / name[:2] / name
        folder.mkdir(parents=True)
        for k, letter in enumerate("AB"):
            said = [(2.5 * n + 1.2 * k, draw.choice(PATTERNS)) for n in range(turns)]
            sound, spans = side(said, 2 * i + k, 2.5 * turns)
            channels.append(sound)
            with open(folder / f"sw{name}{letter}-ms98-a-trans.text", "w", encoding="utf-8") as out:
                now, number = 0.0, 0
                for start, end, text in spans:
                    for first, last, words in ((now, start, "[silence]"), (start, end, text)):
                        if last - first > 0.01:
                            number += 1
                            out.write(f"sw{name}{letter}-ms98-a-{number:04d} {first:.6f} {last:.6f} {words}\n")
                    now = end
        write_audio(root / "swb1" / f"swb1_d{1 + i % 4}" / "data" / f"sw0{name}.sph", stereo(channels), RATE, "ULAW")
    with open(text_root / "sw-ms98-dict.text", "w", encoding="utf-8") as out:
        out.write("#  Dictionary\n\n[silence] sil\n[noise] nsn\n[laughter] lau\n")
        out.writelines(f"{word} {phones}\n" for word, (_, phones) in WORDS.items() if phones)
    _evaluation(root / "LDC2002S09" / "hub5e_00" / "english", root / "LDC2002T43" / "reference" / "hub5e00.english.000405.stm",
                {"en_4156": 40, "sw_4390": 42})  # fmt: skip
    _global_map(root / "LDC2002T43" / "reference" / "en20000405_hub5.glm")
    _evaluation(root / "LDC2002S13" / "english", root / "LDC2002S13" / "hub5e01.english.010402.stm", {"sw_20005": 44})
    _global_map(root / "LDC2002S13" / "en20010117_hub5.glm")
    return root


# Text of the reference, what is said.
SCORED = (
    ("WE HAVE TWO CATS", "we have two cats"), ("(%HESITATION) { I'LL / I WILL } KNOW", "uh i will know"),
    ("I LIKE THE (MON-) WATER", "i like the mun water"), ("<B_ASIDE> YEAH <E_ASIDE> REALLY", "yeah really"),
    ("(%HESITATION)", "um"), ("UH-HUH", "aha"),
)  # fmt: skip


def _evaluation(audio: Path, stm: Path, recordings: dict[str, int]) -> None:
    stm.parent.mkdir(parents=True, exist_ok=True)
    lines = [';; CATEGORY "0" "" ""', ';; LABEL "O" "Overall" "Overall"']
    for name, speaker in recordings.items():
        channels = []
        for k, letter in enumerate("AB"):
            pieces = [(1.0 + 3.0 * n + 1.5 * k, text, said) for n, (text, said) in enumerate(SCORED)]
            sounds = [(start, speech(said, voice(speaker + k), RATE)) for start, _, said in pieces]
            channels.append(timeline(sounds, RATE, 3.0 * len(SCORED) + 5.0, speaker + k))
            where = f"{name} {letter} {name}_{letter}"
            lines.append(f"{where} 0.00 1.00 <O,{name[:2]},M> IGNORE_TIME_SEGMENT_IN_SCORING")
            for (start, sound), (_, text, _) in zip(sounds, pieces):
                lines.append(f"{where} {start:.2f} {start + len(sound) / RATE:.2f} <O,{name[:2]},M>  {text}")
        write_audio(audio / f"{name}.sph", stereo(channels), RATE, "ULAW")
    stm.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _global_map(path: Path) -> None:
    path.write_text(
        ";; a few rules\n* name \"small\"\n* desc \"small\"\n* format = 'NIST1'\n* max_nrules = '2500'\n"
        "* copy_no_hit = 'T'\n* case_sensitive = 'F'\n"
        "UH => %HESITATION / [ ] __ [ ]\nUM => %HESITATION / [ ] __ [ ]\n[OKAY] => [OK] / [ ] __ [ ] ;; spelling\n",
        encoding="utf-8",
    )
