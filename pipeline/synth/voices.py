"""The synthetic speakers: variants of espeak's voice with pitch and speed of their own; no two parts share one.

Only variants without echo are used, since an echo fills the silence by which the closure of a plosive is found, and
only those that sound the same in every process: the files of ``victor`` and ``sandro`` leave values unset that the library then reads.
"""

from __future__ import annotations

import random

from pipeline.synth.espeak import Voice

TRAIN_VARIANTS = (
    "m1 m4 m5 m6 m8 f1 klatt klatt3 belinda aunty Annie ed grandpa max Mike Alex boris norbert rob Tweaky Andrea "
    "steph robert Denis"
).split()
DEV_VARIANTS = "m3 Andy grandma paul klatt2 john".split()
TEST_VARIANTS = "m7 Mario shelby quincy Michael klatt6".split()
LARGE_TEST_VARIANTS = (
    "AnxiousAndy Gene Jacky Nguyen Reed adam anika antonio benjamin caleb david edward gustave ian iven kaukovalta "
    "klatt5 marcelo pedro steph2 travis zac iven3 edward2"
).split()


def make_voices(variants: list[str], prefix: str, seed: int) -> list[Voice]:
    """Returns one voice per variant, named ``<prefix><number>``, with pitch, range and rate drawn by ``seed``."""
    voices = []
    for i, variant in enumerate(variants):
        draw = random.Random(f"{seed} {variant}")
        voices.append(
            Voice(
                f"{prefix}{i + 1:02d}",
                variant,
                pitch=draw.randint(38, 62),
                range=draw.randint(40, 65),
                rate=draw.randint(165, 205),
            )
        )
    return voices


def draw_voices(number: int, prefix: str, seed: int) -> list[Voice]:
    """Draws voices that are no variants of espeak's, so that a test part may have as many speakers as it needs.

    Of each voice are drawn: the length of the vocal tract (all formants 0.75 to 1.27 of those of espeak's base voice), each
    formant's own deviation from it (8 % either way), its strength and width, a base pitch of 52 to 379 Hz with a range of a
    fifth to a half of it, flutter, voicing, strength of the consonants, and a speed as of the others. Vocal tract and
    pitch are of one draw with some noise, since short ones go with high pitch. With half of that spread the hybrid network
    of egs/tiny's stage 6 had 0.6 % of other such voices' words wrong, too few to compare systems; with this one 11.5 %.

    Returns:
        ``number`` voices, named ``<prefix><number>``; the first ones are the same whatever the number.
    """
    voices = []
    for i in range(number):
        draw = random.Random(f"{seed} drawn {i}")
        size = draw.random()  # 0: a long vocal tract and a low voice
        tract, tone = (min(max(size + draw.uniform(-0.15, 0.15), 0), 1) for _ in range(2))
        formants = 75 + 52 * tract
        pitch = 52 * (379 / 52) ** tone
        lines = [
            "language variant",
            f"name {prefix}{i + 1}",
            f"pitch {pitch:.0f} {pitch * draw.uniform(1.2, 1.5):.0f}",
            f"flutter {draw.randint(0, 4)}",
            f"voicing {draw.randint(85, 115)}",
            f"consonants {draw.randint(85, 115)} {draw.randint(85, 115)}",
        ]
        for formant in range(9):
            own = 1.0 if formant == 0 else draw.uniform(0.92, 1.08)
            lines.append(f"formant {formant} {formants * own:.0f} {draw.randint(88, 112)} {draw.randint(90, 120)}")
        voices.append(
            Voice(
                f"{prefix}{i + 1:03d}",
                f"{prefix}{i + 1}",
                range=draw.randint(40, 65),
                rate=draw.randint(165, 205),
                definition="\n".join(lines) + "\n",
            )
        )
    return voices
