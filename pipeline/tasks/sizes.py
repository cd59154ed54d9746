"""How large models are for an amount of speech, where nobody has tuned anything yet.

The figures are those that recipes here have been tuned to, or that Kaldi's recipes have, at their amounts of speech;
between two amounts they are interpolated along logarithms. Below the first amount mixtures shrink with the speech;
above the last one nothing grows.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts.index import load_index
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write

logger = logging.getLogger(__name__)

MODELS = "models.txt"

Points = tuple[tuple[float, float], ...]  # (hours of speech, value), by hours

# Monophones: egs/timit, its own 8 minutes; egs/an4; egs/timit, LibriSpeech's 3.5 h; egs/malromur has no more for 150 h.
MONO_GAUSS: Points = ((0.13, 600), (0.7, 1000), (3.5, 2000))
# Triphones on deltas: egs/an4; egs/librispeech (Kaldi's mini_librispeech).
TRI1_LEAVES: Points = ((0.7, 500), (3.5, 2000))
TRI1_GAUSS: Points = ((0.7, 2500), (3.5, 10_000))
# Triphones on LDA and MLLT: the same recipes; Kaldi's egs/librispeech at 100 h.
TRI2_LEAVES: Points = ((0.7, 500), (3.5, 2500), (100, 4200))
TRI2_GAUSS: Points = ((0.7, 2500), (3.5, 15_000), (100, 40_000))
# Networks: egs/yesno, egs/an4, egs/librispeech, egs/malromur (untuned). Epochs of the first as of egs/an4, since phones
# are more to learn than egs/yesno's two words.
NET_DIM: Points = ((0.1, 64), (0.7, 192), (3.5, 192), (150, 512))
NET_LAYERS: Points = ((0.1, 4), (0.7, 6), (3.5, 6), (150, 8))
NET_EPOCHS: Points = ((0.7, 24), (3.5, 10), (150, 8))
NET_BATCH: Points = ((0.1, 800), (0.7, 1500), (3.5, 4000), (150, 20_000))

TRIPHONES_FROM = 0.2  # hours below which contexts are seen too rarely
SAT_FROM = 0.5  # hours
SAT_SPEAKERS = 4
NETWORK_FROM = 0.3  # hours
BIGRAM_FROM, TRIGRAM_FROM = 1000, 20_000  # words of training text


@dataclass(frozen=True)
class Sizes:
    """What is trained, and how large.

    Attributes:
        models: of the recogniser, in the order of training, among mono, tri1, tri2, tri3 and hybrid.
        options: name of a file of options -> its values, as steps take them by --config.
    """

    models: tuple[str, ...]
    options: dict[str, dict[str, Any]]


def choose_sizes(hours: float, speakers: int, words: int) -> Sizes:
    """Sizes for a corpus; the module tells where they come from.

    Args:
        hours: of speech to train on.
        speakers: their number.
        words: running words of the transcripts.
    """
    models = ["mono"]
    if hours >= TRIPHONES_FROM:
        models += ["tri1", "tri2"]
    if hours >= SAT_FROM and speakers >= SAT_SPEAKERS:
        models.append("tri3")
    if hours >= NETWORK_FROM:
        models.append("hybrid")
    tri2 = {"num_leaves": rounded(hours, TRI2_LEAVES, 10), "num_gauss": rounded(hours, TRI2_GAUSS, 100)}
    net = {
        "encoder": "tdnn",
        "dim": rounded(hours, NET_DIM, 32),
        "layers": rounded(hours, NET_LAYERS, 1),
        "dropout": 0.2 if hours < 2 else 0.1,
        "epochs": rounded(hours, NET_EPOCHS, 1, shrink=False),
        "batch_frames": rounded(hours, NET_BATCH, 100, shrink=False),
    }
    return Sizes(
        tuple(models),
        {
            "mono": {"num_gauss": rounded(hours, MONO_GAUSS, 10)},
            "tri1": {"num_leaves": rounded(hours, TRI1_LEAVES, 10), "num_gauss": rounded(hours, TRI1_GAUSS, 100)},
            "tri2": tri2,
            "tri3": dict(tri2),
            "tie": {"num_leaves": tri2["num_leaves"]},
            "nhmm": dict(net),
            "viterbi": dict(net),
            "lm": {"order": 1} if words < BIGRAM_FROM else {"order": 2 if words < TRIGRAM_FROM else 3, "prune": 1e-7},
        },
    )


def aligner_sizes(hours: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the two monophone models of an aligner: with deltas, and the one without that refines its boundaries.

    As in egs/timit, where they set phones 12.5 ms off on the mean and Kaldi's triphones 16.1 ms; its settings but for
    the number of Gaussians are the same at 8 minutes and at 3.5 hours.
    """
    shared = {"num_gauss": rounded(hours, MONO_GAUSS, 10), "boost_silence": 1.5}
    few_iters = {"num_iters": 16, "grow_iters": 12, "realign_iters": (1, 2, 3, 4, 5, 6, 8, 10, 13)}
    return {**shared, "deltas": 1}, {**shared, "deltas": 0, **few_iters}


def rounded(hours: float, points: Points, step: int, shrink: bool = True) -> int:
    """Value at an amount of speech, a multiple of `step` and at least one.

    Args:
        shrink: below the first point the value falls in proportion to the hours, down to a third; else it stays.
    """
    return max(step, round(interpolated(hours, points, shrink) / step) * step)


def interpolated(hours: float, points: Points, shrink: bool) -> float:
    """Value on the straight lines through the points, both axes logarithmic."""
    assert hours > 0 and points == tuple(sorted(points)), (hours, points)
    first, last = points[0], points[-1]
    if hours <= first[0]:
        return first[1] * max(hours / first[0], 1 / 3) if shrink else first[1]
    if hours >= last[0]:
        return last[1]
    (x0, y0), (x1, y1) = next((a, b) for a, b in zip(points, points[1:]) if hours <= b[0])
    share = math.log(hours / x0) / math.log(x1 / x0)
    return y0 * (y1 / y0) ** share


def write_sizes(data: Path, out: Path) -> dict[str, Any]:
    """Writes a file of options for each step, and MODELS, for training on a data directory; returns facts."""
    index = load_index(data)
    hours, speakers = float(index.durations.sum()) / 3600, len(index.speaker_names)
    words = sum(len(index.text(i).split()) for i in range(len(index)))
    if not hours:
        raise DataError(f"{data}: no audio")
    chosen = choose_sizes(hours, speakers, words)
    for name, values in chosen.options.items():
        with atomic_write(out / f"{name}.yaml") as file:
            file.write(f"# For {hours:.2f} h of {speakers:,} speakers, {words:,} words; see pipeline/tasks/sizes.py.\n")
            file.writelines(f"{key}: {value}\n" for key, value in values.items())
    with atomic_write(out / MODELS) as file:
        file.write(" ".join(chosen.models) + "\n")
    logger.info("%.2f h of %d speakers: %s, sizes in %s", hours, speakers, ", ".join(chosen.models), out)
    return {"hours": round(hours, 4), "speakers": speakers, "words": words, "models": list(chosen.models)}
