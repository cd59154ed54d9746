"""What miniature clones of corpora are made of: synthetic speech in the formats of the originals, and their recipes run.

A clone is a small tree with the names, formats and quirks of a corpus, so that its recipe runs as it would on the
original. `tests/clones/<corpus>.py` has the generator, `test_<corpus>.py` beside it the tests; those that run the
recipe are marked `clone` and belong to `utils/test.sh --slow`.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

from pipeline.synth.espeak import Voice, say
from pipeline.synth.voices import TRAIN_VARIANTS

ROOT = Path(__file__).resolve().parents[2]
LEVEL = 0.08  # root mean square of the speech; full scale is 1
NOISE = 0.002
_FORMATS = {".sph": "NIST", ".wav": "WAV", ".flac": "FLAC", ".mp3": "MP3", ".ogg": "OGG"}


def voice(number: int, language: str = "en-us") -> Voice:
    """One of any number of speakers, who differ in timbre, pitch and speed."""
    draw = np.random.default_rng([7, number])
    variant = TRAIN_VARIANTS[number % len(TRAIN_VARIANTS)]
    pitch, span, rate = (int(draw.integers(*limits)) for limits in ((38, 63), (40, 66), (190, 231)))
    return Voice(f"speaker{number}", variant, pitch, span, rate, language)


@functools.lru_cache(maxsize=4096)
def _spoken(text: str, speaker: Voice, rate: int) -> np.ndarray:
    """Speech at a rate, float32 (T,), with its silence cut off."""
    from scipy.signal import resample_poly

    samples, own = say(text, speaker)
    loud = np.flatnonzero(samples)
    assert len(loud), f"espeak does not pronounce {text!r}"
    divisor = np.gcd(rate, own)
    sound = resample_poly(samples[loud[0] : loud[-1] + 1].astype(np.float64), rate // divisor, own // divisor)
    return (sound * LEVEL / np.sqrt(np.mean(sound**2))).astype(np.float32)


def noise(seconds: float, rate: int, seed: int) -> np.ndarray:
    """What a microphone hears of an empty room, float32 (T,)."""
    return np.random.default_rng(seed).normal(0, NOISE, round(seconds * rate)).astype(np.float32)


def speech(text: str, speaker: Voice, rate: int, seed: int = 0, edge: float = 0.15) -> np.ndarray:
    """A text spoken, with silence of `edge` seconds on either side and noise; float32 (T,), full scale being 1.

    Args:
        text: words, which espeak pronounces by the rules of the voice's language.
        rate: in Hz.
        seed: of the noise.
    """
    sound = np.pad(_spoken(text.lower(), speaker, rate), round(edge * rate))
    return sound + noise(len(sound) / rate, rate, seed)[: len(sound)]


def timeline(turns: Iterable[tuple[float, np.ndarray]], rate: int, seconds: float, seed: int = 0) -> np.ndarray:
    """One channel with pieces of speech at their times, in seconds, and noise in between; float32 (T,)."""
    sound = noise(seconds, rate, seed)
    for start, piece in turns:
        first = round(start * rate)
        assert first + len(piece) <= len(sound), (start, len(piece) / rate, seconds)
        sound[first : first + len(piece)] += piece
    return sound


def write_audio(path: Path, samples: np.ndarray, rate: int, subtype: str = "PCM_16") -> None:
    """Write float samples (T,) or (T, channels) in the format of the suffix: .sph (SPHERE), .wav, .flac, .mp3, .ogg.

    Args:
        subtype: of libsndfile: PCM_16, PCM_24, ULAW or ALAW; without meaning for .mp3 and .ogg.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = _FORMATS[path.suffix]
    coded = {"subtype": subtype} if kind in ("NIST", "WAV", "FLAC") else {}
    soundfile.write(str(path), samples, rate, format=kind, **coded)


def recipe_copy(name: str, work: Path, small: Mapping[str, Mapping[str, Any]], also: Sequence[str] = ()) -> Path:
    """The folder of a recipe in a checkout of its own below `work`, whose programs are this one's, with small models.

    Args:
        small: file of conf/ without its suffix -> options that are put in place of the recipe's, None removes one;
            beside those of SMALL, which are used for the files that the recipe has.
        also: other recipes whose stages it uses.
    """
    work.mkdir(parents=True, exist_ok=True)
    for folder in ("utils", "steps", "local", "pipeline"):
        (work / folder).symlink_to(ROOT / folder)
    for each in (name, *also):
        kept = shutil.ignore_patterns("data", "exp", "download", "RESULTS.md", "results.json", "__pycache__")
        shutil.copytree(ROOT / "egs" / each, work / "egs" / each, ignore=kept)
    recipe = work / "egs" / name
    for stem in dict.fromkeys([*SMALL, *small]):
        path = recipe / "conf" / f"{stem}.yaml"
        if not path.is_file():
            assert stem in SMALL, f"no {path}"
            continue
        changed = {**(yaml.safe_load(path.read_text(encoding="utf-8")) or {}), **SMALL.get(stem, {})}
        changed |= small.get(stem, {})
        path.write_text(yaml.safe_dump({k: v for k, v in changed.items() if v is not None}), encoding="utf-8")
    return recipe


def run(recipe: Path, *command: str | Path, expect: int = 0, timeout: float = 1500) -> str:
    """Run a command of a copied recipe, such as ./run.sh with options, in its folder; returns all that it printed."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    settings = {"PATH": path, "PYTHONPATH": str(recipe.parents[1]), "FULLSUM_ENV": "system", "OMP_NUM_THREADS": "1"}
    settings["GIT_DIR"] = os.devnull  # results need no revision here, and those of edited code would be refused
    done = subprocess.run(
        [str(part) for part in command],
        cwd=recipe,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == expect, f"exit code {done.returncode}:\n{done.stdout[-6000:]}"
    return done.stdout


def run_cell(recipe: Path, table: str, **cell: object) -> str:
    """One cell of a table of a copied recipe, with one seed; axes that are not given have their first value."""
    path = recipe / "conf" / "tables" / f"{table}.yaml"
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    for axis, values in loaded["axes"].items():
        chosen = cell.get(axis, next(iter(values)))
        loaded["axes"][axis] = {chosen: values[chosen]} if isinstance(values, dict) else [chosen]
    loaded = {key: loaded[key] for key in ("title", "axes", "commands", "columns")} | {"seeds": [1]}
    loaded["commands"] = [c for c in loaded["commands"] if isinstance(c, str) or _applies(c["when"], loaded["axes"])]
    path.write_text(yaml.safe_dump(loaded, sort_keys=False), encoding="utf-8")
    return run(recipe, "../../utils/tables.py", ".", table, "--parallel", "1")


def _applies(when: Mapping[str, object], axes: Mapping[str, Iterable[object]]) -> bool:
    return all(value in axes[axis] for axis, value in when.items())


_NETWORK: dict[str, Any] = {
    "encoder": "tdnn", "layers": 3, "dim": 48, "dropout": 0.0, "dilations": [1, 2, 2], "epochs": 4, "batch_frames": 1500,
    "learning_rate": 2e-3, "strides": None, "vgg": None, "heads": None, "accumulate": None, "precision": None,
}  # fmt: skip
_END_TO_END: dict[str, Any] = {
    **_NETWORK, "subsampling": 2, "embedding_dim": 16, "decoder_dim": 32, "attention_dim": 16, "aux_layers": None,
}  # fmt: skip
_GMM: dict[str, Any] = {"num_leaves": 150, "num_gauss": 300, "num_iters": 6, "grow_iters": 4, "realign_iters": [2, 4]}
# Models that a clone of some minutes of speech can train within seconds, by file of conf/.
SMALL: dict[str, dict[str, Any]] = {
    "mono": {"num_gauss": 150, "num_iters": 8, "grow_iters": 6, "realign_iters": [1, 2, 3, 5]},
    "tri1": _GMM,
    "tri2": _GMM,
    "tri3": _GMM,
    "tie": {"num_leaves": 60},
    "nhmm": _NETWORK,
    "viterbi": _NETWORK,
    "mmi": {"epochs": 1, "batch_frames": 1500},
    "e2e_ctc": _END_TO_END,
    "e2e_attention": _END_TO_END,
    "e2e_transducer": {**_END_TO_END, "joint_dim": 32},
    "tokens": {"vocab_size": 40},
    "lm": {"prune": None},
    "decode_mfcc": {"lm_weights": [8, 12], "word_penalties": [0.0]},
    "decode_fbank": {"lm_weights": [4, 8], "word_penalties": [0.0]},
    "decode_ctc": {"lm_weights": [0.5, 1.0], "word_penalties": [-2.0, 0.0]},
    "decode_e2e": {"beam": 3, "ctc_weights": [0.3], "length_bonuses": [0.0]},
    "decode_e2e_lm": {"beam": 3, "ctc_weights": [0.3], "lm_weights": [0.3], "length_bonuses": [0.0]},
}
