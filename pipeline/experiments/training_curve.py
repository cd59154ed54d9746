"""Word and frame errors of a training over its time, in a table and in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.artifacts.model_meta import NetworkMeta, load_meta
from pipeline.base.errors import DataError
from pipeline.base.files import read_json
from pipeline.experiments.report import ROWS


class Point(NamedTuple):
    """A model after an epoch.

    Attributes:
        seconds: since the start of the training.
        wer: word error rate in percent.
        frame_error: frames whose most probable state is wrong, in percent of the dev data; None where it is not known.
    """

    seconds: float
    wer: float
    frame_error: float | None


def curve_of(model_dir: Path, decode_dirs: Sequence[Path]) -> list[Point]:
    """One point per epoch.

    Args:
        model_dir: a trained network; model.json knows its epochs.
        decode_dirs: decodings of the model after each epoch, in order, made by steps/decode.py with --id.
    """
    meta = load_meta(model_dir, NetworkMeta)
    epochs = meta.epochs
    if len(epochs) != len(decode_dirs):
        raise DataError(f"{model_dir} was trained in {len(epochs)} epochs; there are {len(decode_dirs)} decodings")
    points, total = [], 0.0
    for figures, decoded in zip(epochs, decode_dirs):
        # The ordinary loop counts the seconds of each epoch, the asynchronous one those since the start.
        total = figures["seconds"] if meta.optimisation is not None else total + figures["seconds"]
        error = figures.get("frame_error")
        if error is None and "dev_accuracy" in figures:
            error = 1.0 - figures["dev_accuracy"]
        points.append(Point(total, _wer(decoded), None if error is None else 100.0 * error))
    return points


def _wer(decoded: Path) -> float:
    rows = [row["value"] for row in read_json(decoded / ROWS) if row.get("metric") == "wer"]
    if len(rows) != 1:
        raise DataError(f"{decoded / ROWS}: {len(rows)} rows of word error rates, needed is one (steps/decode.py --id)")
    return float(rows[0])


def draw_curve(path: Path, curves: dict[str, Sequence[Point]]) -> None:
    """An SVG file: word error rates on the left axis (full lines), frame errors on the right one (dashed), over
    seconds.
    """
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "fullsum"
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    words = figure.add_subplot()
    frames: Any = words.twinx()
    for name, points in curves.items():
        seconds = [p.seconds for p in points]
        line = words.plot(seconds, [p.wer for p in points], "o-", label=name)[0]
        known = [(p.seconds, p.frame_error) for p in points if p.frame_error is not None]
        frames.plot([s for s, _ in known], [e for _, e in known], "s--", color=line.get_color(), alpha=0.6)
    words.set_xlabel("seconds")
    words.set_ylabel("WER % (full)")
    frames.set_ylabel("frame error % (dashed)")
    words.legend()
    words.grid(alpha=0.3)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
