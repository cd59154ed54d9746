"""A miniature Malromur: info.txt, and the recordings in folders of their class."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from tests.clones.speech import speech, voice, write_audio

RATE = 16000
WORDS = (
    "Hundurinn|Kötturinn|Stelpan|Strákurinn|Kennarinn|Mamma mín|Gamli maðurinn|Þú|Hún",
    "sér|finnur|kaupir|opnar|vill|málar",
    "rauða bílinn|þrjár bækur|húsið|stóra skipið|gul blóm|brauð, ost|ána",
    "í dag|á morgun|úti|hjá ömmu|fljótt",
)
SIZES = {"train": (8, 7), "dev": (2, 5), "test": (2, 5)}  # speakers, recordings of each


def make_malromur(root: Path, part_of: Callable[[str], str], sizes: dict[str, tuple[int, int]] = SIZES) -> Path:
    """Write info.txt, correct/ and incorrect/ below `root`; returns it.

    A name tells place, speaker and time; prompts hold commas and end in marks; one recording was refused by listeners,
    and one prompt has no words.

    Args:
        part_of: the recipe's rule from speakers to parts, by which their names are chosen.
    """
    draw, lines, number = random.Random(3), [], 0
    lists = [options.split("|") for options in WORDS]
    wanted = {part: count for part, (count, _) in sizes.items()}
    while any(wanted.values()):
        number += 1
        speaker = f"is_is-stud1_{number:03d}"
        part = part_of(speaker)
        if not wanted[part]:
            continue
        wanted[part] -= 1
        for take in range(sizes[part][1]):
            name = f"{speaker}-2012-03-{take + 1:02d}T14-0{take}-11.{number:06d}"
            words = " ".join(map(draw.choice, lists))
            kind = "correct" if lines else "incorrect"  # the first one
            samples = speech(words, voice(number, "is"), RATE, seed=number * 100 + take)
            write_audio(root / kind / f"{name}.wav", samples, RATE)
            seconds = f"{len(samples) / RATE:.2f}"
            lines.append(
                f"{name}, room, phone, {'female' if number % 2 else 'male'}, 2{take}, {words}., {seconds}, {kind}\n"
            )
    silent = f"{speaker}-2012-04-01T10-00-00.000000"
    write_audio(root / "correct" / f"{silent}.wav", samples, RATE)
    lines.append(f"{silent}, room, phone, male, 30, -, 1.00, correct\n")
    (root / "info.txt").write_text("".join(lines), encoding="utf-8")
    return root
