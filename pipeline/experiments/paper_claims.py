"""The page of what papers claim and what was found: docs/papers.yaml beside the verdicts of the recipes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pydantic
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.base.errors import DataError
from pipeline.base.files import read_yaml
from pipeline.experiments.claims import NOT_MEASURED, OUTCOMES, Verdict, read_claims
from pipeline.experiments.table_report import decimals_of
from pipeline.experiments.tables import load_table

STRICT = ConfigDict(extra="forbid")
HEAD = """# What the papers claim and what we found

Written by `utils/claims.py` from [papers.yaml](papers.yaml) and the claims.json of the recipes; not edited by hand.

Differences are of paired trainings, with seeds and, where rows have them, test speakers as random; p values are
adjusted for the number of claims of the recipe (Benjamini and Hochberg). *Undecided* says what difference would have
been noticed with a probability of 80 %. Figures are in the unit of the column: percent of words, or milliseconds (TSE).
"""


@dataclass(frozen=True, config=STRICT)
class PaperRow:
    """A row of a paper's table, or a sentence of it."""

    row: str = Field(description="What it says.")
    theirs: str = Field(description="The paper's figure.")
    claims: dict[str, list[str]] = Field(default_factory=dict, description="RECIPE/TABLE -> beginnings of claims.")
    seen: str = Field(default="", description="What a table without claims shows.")
    differs: str = Field(default="", description="How our setting is not the paper's.")
    not_run: str = Field(
        default="",
        description="Why it was not run, and what it would cost; said as long as none of its claims is measured.",
    )

    def __post_init__(self) -> None:
        if not (self.claims or self.seen or self.not_run):
            raise ValueError("a row needs claims, seen or not_run")


@dataclass(frozen=True, config=STRICT)
class Paper:
    """A paper with its rows."""

    paper: str = Field(description="Letter, subject and source.")
    rows: list[PaperRow] = Field(description="Its rows.")


def load_papers(path: Path) -> list[Paper]:
    """Reads docs/papers.yaml; every mistake is a DataError that names the place."""
    try:
        return pydantic.TypeAdapter(list[Paper]).validate_python(read_yaml(path))
    except pydantic.ValidationError as err:
        first = err.errors(include_url=False)[0]
        raise DataError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def page(papers: Sequence[Paper], recipes: Path) -> str:
    """Returns the Markdown of the page.

    Args:
        papers: what they claim.
        recipes: folder of the recipes, whose claims.json and conf/tables are read.
    Raises:
        DataError: a claim that no table has.
    """
    found = _Found(recipes)
    counts: Counter[str] = Counter()
    never = 0
    body = []
    for paper in papers:
        body.append(f"\n## {paper.paper}\n")
        for row in paper.rows:
            body.append(f"\n**{row.row}.** Paper: {row.theirs}.\n")
            outcomes = Counter[str]()
            for place, starts in row.claims.items():
                for start in starts:
                    verdict, line = found.line(place, start)
                    outcomes[verdict.outcome] += 1
                    body.append(f"\n- {line}")
            counts += outcomes
            body.append(f"\n- Seen: {row.seen}." if row.seen else "")
            body.append(f"\n- Not the paper's setting: {row.differs.strip()}." if row.differs else "")
            if set(outcomes) <= {NOT_MEASURED}:
                never += not row.seen
                body.append(f"\n- Not run: {row.not_run}." if row.not_run else "")
            body.append("\n")
    rows = [row for paper in papers for row in paper.rows]
    said = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome])
    counted = f"{len(rows)} rows, {never} of them not run; {sum(counts.values())} comparisons: {said}."
    return f"{HEAD}\n{counted}\n{''.join(body)}"


class _Found:
    """Verdicts of the recipes, read once each."""

    def __init__(self, recipes: Path) -> None:
        self._recipes = recipes
        self._verdicts: dict[str, list[Verdict]] = {}

    def line(self, place: str, start: str) -> tuple[Verdict, str]:
        """The verdict on the claim of RECIPE/TABLE that begins so, and a line about it."""
        recipe, _, name = place.partition("/")
        path = self._recipes / recipe / "conf" / "tables" / f"{name}.yaml"
        table = load_table(path)
        claims = [claim for claim in table.claims if claim.text.startswith(start)]
        if len({claim.text for claim in claims}) != 1:
            raise DataError(f"{path}: {len(claims)} claims begin with {start!r}")
        verdict = next((v for v in self._of(recipe) if v.table == name and v.claim == claims[0]), None)
        if verdict is None:
            verdict = Verdict(name, claims[0], NOT_MEASURED)
        digits = decimals_of(next(c for c in table.columns if c.key == claims[0].column))
        link = f"[{place}](../egs/{recipe}/RESULTS.md)"
        said = verdict.text(digits)
        if verdict.outcome != NOT_MEASURED and table.measured_with:
            said += f"; measured with earlier settings: {table.measured_with}"
        return verdict, f"{link}, {claims[0].text}: {said}"

    def _of(self, recipe: str) -> Sequence[Verdict]:
        if recipe not in self._verdicts:
            self._verdicts[recipe] = read_claims(self._recipes / recipe)
        return self._verdicts[recipe]
