"""A miniature language of Common Voice, as its archives unpack: tables with the published parts, clips as mp3."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from pathlib import Path

from tests.clones.speech import speech, voice, write_audio

RATE = 48000
RELEASE = "cv-corpus-17.0-2024-03-15"
COLUMNS = (
    "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale segment"
).split()
# Subjects, verbs, objects and adverbs.
WORDS = {
    "ro": (
        "Băiatul|Fata|Câinele|Profesorul|Vecina mea|Șoferul|Țăranul|Prietenul ei",
        "vede|cumpără|caută|găsește|vrea|păzește",
        "o casă|un măr|șapte cărți|o mașină roșie|două scaune|într-o zi pâinea|niște flori",
        "astăzi|mâine|în oraș|la fereastră|repede",
    ),
    "tr": (
        "Çocuk|Öğretmen|Köpek|Annem|İbrahim|Işık|Şoför|Yaşlı adam",
        "bugün|yarın|şehirde|hızlıca|evde",
        "kırmızı elmayı|üç kitabı|ılık suyu|bir çiçeği|güzel arabayı|ağacı",
        "görüyor|aldı|arıyor|buldu|istiyor|içti",
    ),
    "de": (
        "Der Junge|Die Lehrerin|Der Hund|Meine Nachbarin|Ein Bäcker|Frau Müller|Der König",
        "sieht|kauft|sucht|findet|möchte|öffnet",
        "ein Haus|drei Bücher|das rote Auto|die große Tür|zwei Äpfel|süße Brötchen",
        "heute|morgen|in der Stadt|am Fenster|schnell",
    ),
}
SIZES = {"train": (8, 7), "dev": (3, 4), "test": (3, 4)}  # speakers, clips of each


def make_language(
    root: Path, language: str = "ro", sizes: Mapping[str, tuple[int, int]] = SIZES, rate: int = RATE
) -> Path:
    """Write RELEASE/`language` below `root`; returns that folder.

    Among the training clips one row has no sentence, and one names a clip that is not there. Sentences are quoted as the
    tables have it (quotes are text there), end in marks, or have a dash. validated.tsv holds all parts and more.
    """
    top = root / RELEASE / language
    (top / "clips").mkdir(parents=True)
    draw = random.Random(5)
    lists = [options.split("|") for options in WORDS[language]]
    tables: dict[str, list[list[str]]] = {part: [] for part in sizes}
    number = 100
    for part, (num_speakers, num_clips) in sizes.items():
        for speaker in range(num_speakers):
            client = hashlib.sha512(f"{language} {part} {speaker}".encode()).hexdigest()
            for _ in range(num_clips):
                number += 1
                words = " ".join(draw.choice(options) for options in lists)
                sentence = draw.choice(("{}.", "{}!", '"{}."', "– {}", '"{}", da.' if language == "ro" else "{}?"))
                name = f"common_voice_{language}_{20_000_000 + number}.mp3"
                samples = speech(words, voice(number // 7, language), rate, seed=number)
                write_audio(top / "clips" / name, samples, rate)
                tables[part].append(_row(client, name, sentence.format(words), number, language))
    client = tables["train"][0][0]
    more = [_row(client, f"common_voice_{language}_{n}.mp3", "", n, language) for n in (1, 2)]
    more[1][3] = tables["train"][0][3]
    (top / "clips" / more[0][1]).write_bytes((top / "clips" / tables["train"][0][1]).read_bytes())
    tables["train"] += more
    others = [
        _row("f" * 128, f"common_voice_{language}_{n}.mp3", f"{' '.join(map(draw.choice, lists))}.", n, language)
        for n in range(300, 500)
    ]
    tables["validated"] = [row for part in sizes for row in tables[part]] + others
    tables["invalidated"], tables["other"] = [], []
    for table, rows in tables.items():
        lines = ["\t".join(row) + "\n" for row in (COLUMNS, *rows)]
        (top / f"{table}.tsv").write_text("".join(lines), encoding="utf-8")
    return top


def _row(client: str, path: str, sentence: str, number: int, language: str) -> list[str]:
    gender = ("male_masculine", "female_feminine", "")[number % 3]
    return [client, path, f"{number:064x}", sentence, "", "2", "0", "twenties", gender, "", "", language, ""]
