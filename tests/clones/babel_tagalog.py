"""A miniature of Babel's Tagalog, full language pack: SPHERE of 8 kHz and some .wav of 48 kHz, transcripts with Babel's
tags, lexicon with bounds of syllables and stress.

Names, folders and notations are those of IARPA_BABEL_BP_106; the speech is synthetic, by espeak's rules for
Indonesian, whose letters sound much like Tagalog's.
"""

from __future__ import annotations

import random
from pathlib import Path

from tests.clones.speech import speech, timeline, voice, write_audio

RATE = 8000
LEXICON = {
    "ako": 'a . " k o', "ang": "? a N", "ano": "? a . n o\t? a n u", "araw": '? " a . r a w', "bahay": '" b a . h a j',
    "ikaw": '? i . " k a w', "ka": "k a", "kumain": 'k u . " m a . ? i n', "lang": "l a N", "mahal": 'm a . " h a l',
    "maganda": 'm a . g a n . " d a', "na": "n a", "ngayon": 'N a . " j o n', "oo": '" o . ? o', "tubig": '" t u . b i g',
    "sa": "s a", "si": "s i", "Maria": 'm a . " r i . j a', "salamat": 's a . " l a . m a t', "wala": 'w a . " l a',
}  # fmt: skip
# As it is transcribed, as it is said; "" for what is not said.
SENTENCES = (
    ("oo ako ang kumain sa bahay", "oo ako ang kumain sa bahay"), ("<hes> ano na ngayon", "em ano na ngayon"),
    ("maganda si Maria <laugh>", "maganda si maria"), ("mahal ka lang *ngayon*", "mahal ka lang ngayon"),
    ("wala na ang tubig", "wala na ang tubig"), ("salamat <lipsmack> oo", "salamat oo"), ("kuma- kumain ka na", "kuma kumain ka na"),
    ("ang araw sa bahay ~", "ang araw sa bahay"), ("(()) ako lang", "hoy ako lang"), ("<foreign> maganda ang araw", "hello maganda ang araw"),
    ("ikaw ang mahal", "ikaw ang mahal"), ("oo oo", "oo oo"),
)  # fmt: skip


def make(root: Path, conversations: int = 8, tested: int = 2, stretches: int = 12) -> Path:
    """Writes the language pack below a folder; returns it."""
    top, draw = root / "IARPA_BABEL_BP_106", random.Random(4)
    for part, count in (("training", conversations), ("dev", tested)):
        for i in range(count):
            first = 10188 + 100 * i + (50 if part == "dev" else 0)
            for k, line in enumerate(("inLine", "outLine")):
                name = f"BABEL_BP_106_{first}_201111{10 + i}_21331{i % 10}_{line}"
                _side(
                    top / "conversational" / part, name, 2 * i + k + (30 if part == "dev" else 0), stretches, draw, part
                )
    reference = top / "conversational" / "reference_materials"
    reference.mkdir()
    marks = "<hes>\t<hes>\n<foreign>\t<oov>\n"
    (reference / "lexicon.txt").write_text(marks + "".join(f"{w}\t{p}\n" for w, p in LEXICON.items()), encoding="utf-8")
    (reference / "demographics.tsv").write_text("outputFn\tsessID\n", encoding="utf-8")
    return top


def _side(folder: Path, name: str, number: int, stretches: int, draw: random.Random, part: str) -> None:
    """Audio and transcript of a side; every third recording is a .wav of 48 kHz, as some of Babel's are."""
    rate = 48_000 if number % 3 == 2 else RATE
    now, lines, pieces = 1.37, ["[0.000]", "<no-speech>"], []
    for k in range(stretches):
        text, said = SENTENCES[k % len(SENTENCES)] if part == "dev" else draw.choice(SENTENCES)
        sound = speech(said, voice(number, "id"), rate, seed=k)
        lines += [f"[{now:.3f}]", text]
        pieces.append((now, sound))
        now += len(sound) / rate
        if k % 4 == 3:
            lines += [f"[{now:.3f}]", "<no-speech>"]
            now += 0.6
        elif k % 4 == 1:
            lines.append(f"[{now:.3f}]")  # a time without a text, as it happens
            now += 0.2
    lines.append(f"[{now:.3f}]")
    (folder / "transcription").mkdir(parents=True, exist_ok=True)
    (folder / "transcription" / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    track = timeline(pieces, rate, now + 0.5, number)
    if rate == RATE:
        write_audio(folder / "audio" / f"{name}.sph", track, rate, "ULAW")
    else:
        write_audio(folder / "audio" / f"{name}.wav", track, rate, "PCM_24")
