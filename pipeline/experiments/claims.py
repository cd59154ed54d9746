"""Claims about the cells of a sweep: what is claimed, and what the measurements say of it.

Of one recipe all claims are judged together: p values are adjusted for their number (Benjamini and Hochberg 1995), so
that of those that are called supported one in twenty may be wrong. What is asked of differences and of equality is
adjusted apart. Before that p is multiplied by the number of looks (Bonferroni): two where seeds were added after
figures had been seen or some of the planned ones are to follow, and as many as there were parts where a claim is tested
again on one that was planned after the others had not decided it. Nothing is called equal without a margin that stands
in the table's file, and nothing is supported by less than three seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.base.errors import DataError
from pipeline.base.files import read_json, write_json
from pipeline.experiments.statistics import LEVEL, Effect, adjusted, level_of_next

CLAIMS = "claims.json"  # of a recipe, beside its results.json
LEAST_SEEDS = 3
LOOKS = 2  # at figures whose seeds were added after the first of them, or are to follow as planned
NOT_MEASURED, TOO_FEW, UNDECIDED = "not measured", "too few seeds", "undecided"
SUPPORTED, CONTRADICTED, EQUIVALENT = "supported", "contradicted", "equivalent"
OUTCOMES = (SUPPORTED, CONTRADICTED, EQUIVALENT, UNDECIDED, TOO_FEW, NOT_MEASURED)

Scalar = bool | int | float | str | None


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Claim:
    """That a column is better in one set of cells than in another, or that it is equal in both."""

    text: str = Field(description="The claim in words.")
    column: str = Field(description="Key of the column.")
    better: dict[str, Scalar] = Field(description="Axis -> value of the cells that should be better (or equal).")
    than: dict[str, Scalar] = Field(description="Axis -> value of the cells to compare with.")
    lower: bool = Field(default=True, description="Whether lower is better.")
    equal: bool = Field(default=False, description="Whether the two are claimed to be equal within the margin.")
    margin: float | None = Field(
        default=None, gt=0, description="Difference up to which two values count as equal, in the unit of the column."
    )
    relative_margin: float | None = Field(
        default=None, gt=0, lt=1, description="The same as a share of the second value, such as 0.03."
    )
    afterwards: bool = Field(
        default=False, description="Whether it was written down after figures of the table had been seen."
    )
    looks: int = Field(
        default=1,
        ge=1,
        description="How many parts it has been tested on with this one, planned after the others had not decided it.",
    )

    def __post_init__(self) -> None:
        if self.margin is not None and self.relative_margin is not None:
            raise ValueError("margin or relative_margin, not both")
        if self.equal and self.margin is None and self.relative_margin is None:
            raise ValueError("a claim of equality needs a margin")

    @property
    def decides(self) -> bool:
        """Whether it may decide what a paper says: not if it was written down afterwards, nor on the part on which
        settings were chosen.
        """
        return not (self.afterwards or self.column.endswith("/dev"))

    def same_as(self, other: Claim) -> bool:
        """Whether both compare the same, whatever the words."""
        mine, others = (dataclasses.replace(claim, text="", afterwards=False, looks=1) for claim in (self, other))
        return mine == others

    def width(self, reference: float) -> float | None:
        """The margin in the unit of the column; None: there is none."""
        return self.margin if self.relative_margin is None else self.relative_margin * abs(reference)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the measurements say of a claim.

    Attributes:
        table, claim: where it stands and what it says.
        outcome: one of OUTCOMES.
        effect: the difference, better minus than; None: nothing could be compared.
        p: of what decides, or of what is claimed where nothing does; adjusted for the number of claims of the recipe.
        level: p value below which the claim would have been decided before the adjustment.
        beyond_level: of a claim of equality, that of the test for a difference larger than its margin.
        added: seeds that were added after the first figures had been seen.
        edited: rows of the table were made by code with uncommitted changes.
        missing: planned seeds that have not been run yet.
    """

    table: str
    claim: Claim
    outcome: str
    effect: Effect | None = None
    p: float | None = None
    level: float = LEVEL
    added: int = 0
    edited: bool = False
    beyond_level: float = LEVEL
    missing: int = 0

    @property
    def noticeable(self) -> float:
        """The smallest true difference that a test like this one, so adjusted, notices with a probability of 80 %; 0
        where nothing was compared. Of a claim of equality it is one that is noticed to be larger than the margin.
        """
        if self.effect is None:
            return 0.0
        if not self.claim.equal:
            return self.effect.detectable(self.level)
        return self.effect.detectable(self.beyond_level) + (self.claim.width(self.effect.reference) or 0.0)

    def called(self, decimals: int) -> str:
        """The outcome, with the margin of an equivalence."""
        if self.outcome != EQUIVALENT or self.effect is None:
            return self.outcome
        return f"equivalent within {self.claim.width(self.effect.reference):.{decimals}f}"

    def text(self, decimals: int = 2) -> str:
        """In words, for docs/claims.md."""
        effect = self.effect
        if effect is None:
            return self.outcome if self.outcome == NOT_MEASURED else f"**{self.outcome}**"
        low, high = effect.interval
        decimals = digits_of(self, decimals)
        margin = self.claim.width(effect.reference)
        said = f"**{self.called(decimals)}**; difference {effect.mean:+.{decimals}f}"
        said += f" [{low:+.{decimals}f}, {high:+.{decimals}f}]"
        said += f" over {effect.seeds} seed{'s' * (effect.seeds > 1)}"
        said += f", {self.added} of them added after the first figures" if self.added else ""
        said += f" of {effect.seeds + self.missing} planned" if self.missing else ""
        said += f" and {effect.speakers} speakers" if effect.speakers else ""
        said += f", p {_probability(self.p)}" if self.p is not None else ""
        if self.outcome == UNDECIDED:
            size = self.noticeable
            said += f"; a difference of {size:.{decimals}f} would have been noticed"
            if effect.reference:
                said += f" ({100 * size / abs(effect.reference):.1f} % relative)"
            said += _needed(self, margin, decimals)
        said += "; written down after figures had been seen" * self.claim.afterwards
        if self.claim.looks > 1:
            said += f"; tested on {self.claim.looks} parts, this one planned after the others had not decided it"
        return said + "; made in part by code with uncommitted changes" * self.edited

    def row(self) -> dict[str, Any]:
        """For claims.json."""
        effect = None if self.effect is None else dataclasses.asdict(self.effect)
        claim = {key: value for key, value in dataclasses.asdict(self.claim).items() if value is not None}
        row = {"table": self.table, "claim": claim, "outcome": self.outcome, "effect": effect, "p": self.p}
        if self.claim.equal:
            row["beyond_level"] = self.beyond_level
        if self.missing:
            row["missing"] = self.missing
        return {**row, "level": self.level, "added": self.added, "edited": self.edited}

    @classmethod
    def of_row(cls, row: Any) -> Verdict:
        """From what ``row`` gives; KeyError, TypeError or ValueError for anything else."""
        effect = None if row["effect"] is None else Effect(**row["effect"])
        if row["outcome"] not in OUTCOMES:
            raise ValueError(f"{row['outcome']!r} is no outcome")
        claim = Claim(**row["claim"])
        beyond = float(row.get("beyond_level", row["level"])) if claim.equal else LEVEL  # older files lack it
        level, added, edited = float(row["level"]), int(row["added"]), bool(row["edited"])
        missing = int(row.get("missing", 0))
        return cls(str(row["table"]), claim, row["outcome"], effect, row["p"], level, added, edited, beyond, missing)


def digits_of(verdict: Verdict, decimals: int) -> int:
    """Digits after the point: more than `decimals` where what can be noticed or the error would be written as zero."""
    sizes = [verdict.noticeable, verdict.effect.error if verdict.effect else 0.0]
    while decimals < 4 and any(size > 0 and float(f"{size:.{decimals}f}") == 0 for size in sizes):
        decimals += 1
    return decimals


def _probability(p: float | None) -> str:
    return "< 0.001" if p is not None and p < 0.001 else f"= {p:.3f}"


def _needed(verdict: Verdict, margin: float | None, decimals: int) -> str:
    """How many seeds would decide."""
    effect, equal = verdict.effect, verdict.claim.equal
    assert effect is not None
    size = margin if margin is not None else abs(effect.mean)
    if float(f"{size:.{decimals}f}") == 0:
        return ""
    needed = effect.seeds_to_equal(size, verdict.level) if equal else effect.seeds_needed(size, verdict.level)
    of = f"equality within {size:.{decimals}f}" if equal else f"one of {size:.{decimals}f}"
    if needed is None:
        return f"; {of} needs " + ("a test set of more speakers" if effect.speakers else "over 100 seeds")
    return f"; {of} needs {needed} seeds" if needed > effect.seeds else ""


class Compared(NamedTuple):
    """A claim with what was measured of it; the fields are those of Verdict."""

    table: str
    claim: Claim
    effect: Effect | None
    added: int = 0
    edited: bool = False
    missing: int = 0


def judge(claims: Sequence[Compared]) -> list[Verdict]:
    """Returns a verdict on each claim of a recipe, with p values adjusted for their number."""
    tested = {
        i: (c.claim, c.effect, c.claim.width(c.effect.reference))
        for i, c in enumerate(claims)
        if c.effect is not None and c.effect.seeds >= LEAST_SEEDS
    }
    looks = {i: c.claim.looks * (LOOKS if c.added or c.missing else 1) for i, c in enumerate(claims)}
    differ = _Family({i: looks[i] * e.p for i, (claim, e, _) in tested.items() if not claim.equal})
    same = _Family(
        {i: looks[i] * e.p_equivalent(w) for i, (c, e, w) in tested.items() if w is not None and not c.equal}
    )
    equal = _Family({i: looks[i] * e.p_equivalent(w) for i, (c, e, w) in tested.items() if w is not None and c.equal})
    beyond = _Family({i: looks[i] * e.p_beyond(w) for i, (c, e, w) in tested.items() if w is not None and c.equal})
    verdicts = []
    for i, (table, claim, effect, added, edited, missing) in enumerate(claims):
        if effect is None or i not in tested:
            outcome = NOT_MEASURED if effect is None else TOO_FEW
            verdicts.append(Verdict(table, claim, outcome, effect, added=added, edited=edited, missing=missing))
            continue
        asked = equal if claim.equal else differ
        if claim.equal:
            outcome, decided = (CONTRADICTED, beyond) if i in beyond.decided else (SUPPORTED, equal)
        elif i in same.decided and i not in differ.decided:
            outcome, decided = EQUIVALENT, same
        else:
            outcome, decided = SUPPORTED if (effect.mean < 0) == claim.lower else CONTRADICTED, differ
        if i not in decided.decided:
            outcome, decided = UNDECIDED, asked
        level, further = asked.level / looks[i], beyond.level / looks[i] if claim.equal else LEVEL
        verdicts.append(Verdict(table, claim, outcome, effect, decided.p[i], level, added, edited, further, missing))
    return verdicts


class _Family:
    """Tests that are adjusted together.

    Attributes:
        p: adjusted, by number of the claim. decided: numbers of those below LEVEL.
        level: see ``level_of_next``.
    """

    def __init__(self, p_values: Mapping[int, float]) -> None:
        self.p = dict(zip(p_values, adjusted([min(p, 1.0) for p in p_values.values()])))
        self.decided = {i for i, p in self.p.items() if p < LEVEL}
        self.level = level_of_next(list(self.p.values()))


def write_claims(recipe: Path, verdicts: Sequence[Verdict]) -> None:
    """Writes RECIPE/claims.json: what was measured of the claims, one object each."""
    write_json(recipe / CLAIMS, [verdict.row() for verdict in verdicts if verdict.outcome != NOT_MEASURED])


def read_claims(recipe: Path) -> list[Verdict]:
    """Reads what write_claims wrote; an empty list without the file."""
    path = recipe / CLAIMS
    if not path.is_file():
        return []
    loaded = read_json(path)
    try:
        if not isinstance(loaded, list):
            raise TypeError("no list")
        return [Verdict.of_row(row) for row in loaded]
    except (KeyError, TypeError, ValueError) as err:
        raise DataError(f"{path}: not a list of verdicts: {err}") from None
