"""What a report is made from: the alignments, decodings and models below a directory, and the data they are about.

Stamps tell which data a step has read. Alignments of several parts of a corpus by one model (exp/gmm_ali/train and
exp/gmm_ali/test) are one system, whose name leaves the part out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from pipeline.artifacts.ali import HEADER
from pipeline.artifacts.corpus import has_cuts
from pipeline.artifacts.hyp import RECOGS
from pipeline.base import stamp
from pipeline.base.errors import DataError
from pipeline.experiments.claims import CLAIMS
from pipeline.experiments.report import CELL, ROWS

MODEL = "model.json"
REFERENCES = "conf/references.yaml"


@dataclass
class Sources:
    """Directories by what they hold.

    Attributes:
        exp: where they were looked for.
        alignments, decodings: name of a system -> its directories, one for each part.
        models: directories of trained models. results: directories with figures.
        data: data directories that these name, and those that were given.
        plots: pictures of the recipe's sweeps.
        labels: name -> label files or other alignments from elsewhere, which are shown beside these.
    """

    exp: Path
    alignments: dict[str, list[Path]] = field(default_factory=dict)
    decodings: dict[str, list[Path]] = field(default_factory=dict)
    models: list[Path] = field(default_factory=list)
    results: list[Path] = field(default_factory=list)
    data: list[Path] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)
    labels: dict[str, Path] = field(default_factory=dict)

    def inputs(self) -> dict[str, Path]:
        """All of them by name, for a stamp."""
        found = [d for group in (self.alignments, self.decodings) for dirs in group.values() for d in dirs]
        found += [*self.models, *self.results]
        named = {os.path.relpath(d, self.exp): d for d in found}
        recipe = self.exp.parent
        more = [p for p in (recipe / CLAIMS, recipe / REFERENCES, *self.plots) if p.is_file()]
        named |= {os.path.relpath(p, recipe): p for p in more}
        named |= {f"labels {name}": path for name, path in self.labels.items()}
        return {**named, **{f"data{i}": d for i, d in enumerate(self.data)}}


def find_sources(
    exp: Path,
    data: Sequence[Path] = (),
    skip: Sequence[str] = (),
    out: Path | None = None,
    labels: Sequence[Path] = (),
) -> Sources:
    """Looks through EXP.

    Args:
        data: further data directories, whose utterances are shown too.
        skip: patterns of paths below EXP that are left out.
        out: where the report will stand, which is no part of it.
        labels: times from elsewhere, see ``pipeline.tasks.tiers.tiers_of``; named as their files or folders are.
    Raises:
        DataError: there is nothing to report on.
    """
    found = Sources(exp)
    places = {d.resolve(): d for d in data}
    for directory in _directories(exp, exp, skip):
        if out is not None and directory.resolve() == out.resolve():
            continue
        used = _data_of(directory)
        part = used.name if used is not None else ""
        name = exp.resolve().name if directory == exp else directory.relative_to(exp).as_posix()
        for group, mark in ((found.alignments, HEADER), (found.decodings, RECOGS)):
            if (directory / mark).is_file():
                group.setdefault(_without_part(name, part), []).append(directory)
                if used is not None:
                    places.setdefault(used.resolve(), used)
        if (directory / MODEL).is_file():
            found.models.append(directory)
        if (directory / ROWS).is_file():
            found.results.append(directory)
    found.plots = sorted(exp.parent.glob("plots/*.svg")) if exp.name == "exp" else []
    found.data = [d for d in places.values() if has_cuts(d)]
    for place in labels:
        name = place.resolve().name
        found.labels[str(place) if name in {*found.alignments, *found.labels} else name] = place
    if not (found.alignments or found.decodings or found.results or found.models or found.data):
        raise DataError(f"{exp}: holds no alignment, decoding, model or {ROWS} to report on")
    return found


def _directories(at: Path, exp: Path, skip: Sequence[str]) -> Iterator[Path]:
    """Directories below EXP in the order of their names, without unfinished ones and cells of sweeps."""
    relative = at.relative_to(exp).as_posix()
    if at.name.endswith((".tmp", ".old")) or (at / CELL).is_file() or any(fnmatch(relative, p) for p in skip):
        return
    yield at
    for below in sorted(p for p in at.iterdir() if p.is_dir() and p.name != "log"):
        yield from _directories(below, exp, skip)


def _data_of(directory: Path) -> Path | None:
    """The data directory that a step has read, if its stamp names one that is still there."""
    if not (directory / stamp.STAMP).is_file():
        return None
    entry = stamp.read_stamp(directory).get("inputs", {}).get("data")
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        return None
    place = Path(os.path.normpath(directory / entry["path"]))
    return place if place.is_dir() else None


def _without_part(name: str, part: str) -> str:
    """exp/gmm_ali/test of data/mfcc/test is gmm_ali; decode_2gram_test is decode_2gram."""
    for tail in (f"/{part}", f"_{part}"):
        if part and name.endswith(tail) and name != tail:
            return name[: -len(tail)]
    return name
