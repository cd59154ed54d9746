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
