"""A small corpus with names and texts that mean harm, aligned and recognised, for the tests of reports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from pipeline.artifacts.ali import AliHeader, AliWriter
from pipeline.artifacts.ali_source import Alignment
from pipeline.artifacts.corpus import Span, audio_recording, save_data_dir, utterance
from pipeline.artifacts.hyp import RECOGS, Hypothesis, save_hypotheses
from pipeline.artifacts.lang import Lang, make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree
from pipeline.base.files import write_json

RATE = 16000
SCRIPT = "</script><script>window.harmed=1</script>"
NAMES = ["plain-1", "a/b", "a_b", "../../up", f"\"'<b>&{SCRIPT}", "größe-日本語", "..", "A/B"]
WORDS = ("AB", SCRIPT, "ÄB{{data}}")
PRONUNCIATIONS = {"AB": ("a", "b"), SCRIPT: ("b", "a"), "ÄB{{data}}": ("<i>", "b")}


def make_lang_of_corpus() -> Lang:
    return make_lang(Lexicon([Pronunciation(word, phones) for word, phones in PRONUNCIATIONS.items()]))


def save_audio(path: Path, seconds: float, seed: int = 0) -> None:
    """Tones of 500 Hz and 2 kHz in turn, with some noise, each 0.2 s."""
    t = np.arange(int(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * np.where((t / 0.2).astype(int) % 2, 2000.0, 500.0) * t)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * tone + 0.01 * np.random.default_rng(seed).normal(size=len(t)), RATE)


def times() -> tuple[list[Span], list[Span]]:
    """Words and phones: three words of two phones of 0.2 s, after 0.2 s of silence."""
    phones = [p for word in WORDS for p in PRONUNCIATIONS[word]]
    return (
        [Span(word, 0.2 + 0.4 * i, 0.4) for i, word in enumerate(WORDS)],
        [Span(phone, 0.2 + 0.2 * i, 0.2) for i, phone in enumerate(phones)],
    )


def save_data(place: Path, names: list[str] = NAMES, seconds: float = 1.6) -> Path:
    """A data directory of utterances with gold times."""
    words, phones = times()
    cuts = []
    for number, name in enumerate(names):
        save_audio(place / f"audio/{number}.wav", seconds, number)
        recording = audio_recording(name, place / f"audio/{number}.wav")
        cuts.append(utterance(name, recording, " ".join(WORDS), f"s<{number % 2}>", words, phones))
    save_data_dir(place / "test", cuts)
    return place / "test"


def save_alignment(out: Path, lang: Lang, names: list[str], late: dict[str, float], seconds: float = 1.6) -> Path:
    """The gold times, with the boundaries of some utterances late by some seconds, confidence 0.5 for every other frame.

    Args:
        late: utterance -> seconds.
    """
    tree = monophone_tree(lang.phones, lang.topo)
    transitions = TransitionModel(tree, lang.topo)
    first = {int(p): i for i, p in enumerate(transitions.phone) if transitions.state[i] == 0}
    frames = round(100 * seconds)
    spoken = [p.symbol for p in times()[1]]
    with AliWriter(
        out, AliHeader(lang.topo.id, tree.id, lang.id, 0.01, 0.0, "model"), tree, lang.topo, transitions, lang.words
    ) as writer:
        for name in names:
            moved = round(100 * late.get(name, 0.0))
            bounds = [0, *(20 + 20 * i + moved for i in range(len(spoken) + 1)), frames]
            tids = []
            for phone, begin, end in zip(["SIL", *spoken, "SIL"], bounds, bounds[1:]):
                number = lang.phones.id(phone)
                states = int(transitions.num_states_of[number])
                state = (np.arange(end - begin) * states) // (end - begin)
                leaves = np.append(state[1:] != state[:-1], True)
                tids.append(2 * (first[number] + state) + leaves)
            words = [[lang.words.id(word), 20 + 40 * i + moved] for i, word in enumerate(WORDS)]
            confidence = np.where(np.arange(frames) % 2, 1.0, 0.5).astype(np.float16)
            path = np.concatenate(tids).astype(np.int32)
            writer.write(Alignment(name, path, 0.0, np.array(words, dtype=np.int32), confidence))
    return out


def save_decoding(out: Path, names: list[str]) -> Path:
    """Every other utterance is right; the others have one word missing, one wrong and one too many."""
    out.mkdir(parents=True)
    wrong = (WORDS[0], "WRONG", "TOO", "MANY")
    hyps = [
        Hypothesis(
            name, "s", WORDS, wrong if number % 2 else WORDS, tuple(0.9 for _ in (wrong if number % 2 else WORDS))
        )
        for number, name in enumerate(names)
    ]
    save_hypotheses(out / RECOGS, hyps)
    row = {"id": "model", "part": "test", "metric": "wer", "value": 33.0, "low": 20.0, "high": 50.0}
    write_json(out / "results.json", [row])
    return out


def make_exp(place: Path, names: list[str] = NAMES) -> tuple[Path, Path]:
    """An exp directory with two alignments and a decoding, and its data directory."""
    data, lang = save_data(place / "data", names), make_lang_of_corpus()
    exp = place / "recipe" / "exp"
    save_alignment(exp / "gmm_ali", lang, names, {})
    save_alignment(exp / "nhmm_ali", lang, names, dict(zip(names, (0.05, 0.1))))
    save_decoding(exp / "gmm" / "decode", names)
    return exp, data
