"""A miniature TED-LIUM 2: talks of a minute as SPHERE of 16 kHz with .stm, the dictionary and texts of LM/.

Names, folders and notations are those of TEDLIUM_release2; the speech is synthetic.
"""

from __future__ import annotations

import gzip
import random
from pathlib import Path

from tests.clones.speech import speech, timeline, voice, write_audio

RATE = 16_000
DICTIONARY = """\
<s>\tSIL
</s>\tSIL
<unk>\tNSN
a\tAH
a(2)\tEY
and\tAH N D
change\tCH EY N JH
ideas\tAY D IY AH Z
is\tIH Z
it\tIH T
it's\tIH T S
people\tP IY P AH L
science\tS AY AH N S
the\tDH AH
the(2)\tDH IY
they\tDH EY
they're\tDH EH R
think\tTH IH NG K
this\tDH IH S
we\tW IY
world\tW ER L D
worth\tW ER TH
you\tY UW
"""
# As it is transcribed, as it is said.
SENTENCES = (
    ("ideas change the(2) world", "ideas change the world"), ("<sil> they 're a(2) science", "they're a science"),
    ("{SMACK} we think it 's worth it <sil>", "we think it's worth it"), ("you and the people", "you and the people"),
    ("this is science and this is the world", "this is science and this is the world"),
    ("people think {NOISE} ideas is worth it", "people think ideas is worth it"), ("<unk> change it", "zyx change it"),
    ("they 're you", "they're you"), ("it 's a change", "it's a change"), ("{UH} the science is worth it", "the science is worth it"),
    ("we change the world", "we change the world"), ("think this and change people", "think this and change people"),
)  # fmt: skip
TALKS = {
    "train": ["911Mothers_2010W", "AaronKoblin_2011", "AdamGrosser_2007", "AlGore_2006", "AlisaMiller_2008", "AmyTan_2008"],
    "dev": ["AlGore_2009", "BarrySchwartz_2005G"],
    "test": ["AimeeMullins_2009P", "BillGates_2010"],
}  # fmt: skip


def make(root: Path, sentences: int = 14) -> Path:
    """Writes TEDLIUM_release2 below a folder; returns the former."""
    top, draw, number = root / "TEDLIUM_release2", random.Random(2), 0
    for part, talks in TALKS.items():
        for talk in talks:
            number += 1
            lines, pieces, now = [], [], 2.5
            lines.append(f"{talk} 1 inter_segment_gap 0 {now} <o,,unknown> ignore_time_segment_in_scoring")
            for k in range(sentences):
                text, said = SENTENCES[k] if part != "train" and k < len(SENTENCES) else draw.choice(SENTENCES)
                if part != "train" and "<unk>" in text:
                    continue
                sound = speech(said, voice(number), RATE, seed=k)
                pieces.append((now, sound))
                end = round(now + len(sound) / RATE, 2)
                lines.append(f"{talk} 1 {talk} {now} {end} <o,f0,{'male' if number % 2 else 'female'}> {text}")
                now = round(end + 0.3, 2)
            lines.append(f"{talk} 1 inter_segment_gap {now} {now + 2} <o,,unknown> ignore_time_segment_in_scoring")
            write_audio(top / part / "sph" / f"{talk}.sph", timeline(pieces, RATE, now + 2.0, number), RATE)
            (top / part / "stm").mkdir(exist_ok=True)
            (top / part / "stm" / f"{talk}.stm").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (top / "TEDLIUM.152k.dic").write_text(DICTIONARY, encoding="utf-8")
    (top / "LM").mkdir()
    with gzip.open(top / "LM" / "news-commentary-v8.en.gz", "wt", encoding="utf-8") as out:
        out.writelines(f"{draw.choice(SENTENCES)[1].replace('zyx ', '')}\n" for _ in range(60))
    return top
