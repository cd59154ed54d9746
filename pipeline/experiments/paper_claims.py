"""The page of what papers claim and what was found: docs/papers.yaml beside the verdicts of the recipes."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pydantic
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.base.errors import DataError
from pipeline.base.files import read_json, read_yaml
from pipeline.experiments.claims import (
    CONTRADICTED,
    EQUIVALENT,
    NOT_MEASURED,
    OUTCOMES,
    SUPPORTED,
    TOO_FEW,
    UNDECIDED,
    Claim,
    Verdict,
    read_claims,
)
from pipeline.experiments.report import ROWS, Row
from pipeline.experiments.results_page import markdown_table
from pipeline.experiments.table_report import decimals_of
from pipeline.experiments.tables import Table, load_table, matches

STRICT = ConfigDict(extra="forbid")
HEAD = """# What the papers claim and what we found

Written by `utils/claims.py` from [papers.yaml](papers.yaml) and the claims.json of the recipes; not edited by hand.

Each row below is a row of a paper's table or a sentence of it. Each line under it is a comparison that stands in a
table's file (`egs/RECIPE/conf/tables/TABLE.yaml`) together with its seeds. A network is trained in two ways with the
same seeds; the difference is the first minus the second, in the unit of the column: percent of words (WER),
milliseconds (TSE, the mean error of phone starts and ends; utterances that have another number of them than the
reference are left out, as in paper A, and counted in the line; the two settings may leave out different ones, so small
differences can come from that), or what the table says. In brackets is its 95 % interval. How to read the rest:

- **supported**, **contradicted**: the difference is larger than chance explains, in the direction of the claim or
  against it (p below 0.05, after Benjamini and Hochberg's adjustment for all claims of the recipe).
- **equivalent**: any difference is smaller than a margin that stands in the table's file (two one-sided tests, adjusted
  in the same way). Of a claim that two settings are equal, supported means the same, and contradicted that the
  difference is larger than the margin.
- **undecided**: none of these. The interval is not adjusted, so it may leave zero out where few of many claims do. The
  difference that would have been noticed is the true one that such a test, adjusted as well, finds four times in five;
  smaller effects, such as those of the papers, may be there.
- **too few seeds**: less than three. **not measured**: the table's file is there and was not run with the present code.
- *and N speakers*: seeds and speakers both vary by chance, so the interval speaks of other speakers as well. WER is
  that of test speakers; TSE is that of the training speakers, so it speaks of others that are trained on. Without
  speakers the part is taken as it is, and the interval speaks of other seeds only. Where one alignment, network or
  teacher serves all seeds, its chance is not in the interval either.
- *written down after figures had been seen*: the others stood in the table's file before. Such a comparison decides no
  row below, nor does one on dev, where weights and some settings were chosen. Where *seeds were added after the first
  figures*, p is doubled, since the figures were looked at twice; so it is where only some of the *planned* seeds have
  been run, which are looked at again when the others have.
- *would speak against the paper*: a claim that contradicts the paper if it is supported.
"""
_PICTURE = re.compile(r"\s*!\[[^]]*\]\([^)]*\)")
HOLDS = {SUPPORTED: 1, CONTRADICTED: -1}  # outcomes that decide, and whether the claim holds
METRICS = {"wer": "WER", "tse_ms": "TSE"}
NO_FIGURE = (
    "not tried",
    "no figure",
)  # what `theirs` begins with where the paper only asks, or does not say what came out


@dataclass(frozen=True, config=STRICT)
class PaperRow:
    """A row of a paper's table, or a sentence of it."""

    row: str = Field(description="What it says.")
    theirs: str = Field(description="The paper's figure; 'not tried ..' or 'no figure ..' where it has none.")
    claims: dict[str, list[str]] = Field(default_factory=dict, description="RECIPE/TABLE -> beginnings of claims.")
    against: dict[str, list[str]] = Field(
        default_factory=dict, description="The same of claims that contradict the paper if they hold."
    )
    seen: str = Field(default="", description="What a table without claims shows.")
    differs: str = Field(default="", description="How our setting is not the paper's, beyond what `setting` says.")
    not_run: str = Field(default="", description="What was not run, why, and what it would cost.")

    def __post_init__(self) -> None:
        if not (self.claims or self.against or self.seen or self.not_run):
            raise ValueError("a row needs claims, against, seen or not_run")


@dataclass(frozen=True, config=STRICT)
class Paper:
    """A paper with its rows."""

    paper: str = Field(description="Letter, subject and source.")
    setting: str = Field(min_length=1, description="The paper's setting and how ours is not that, for all rows.")
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
        recipes: folder of the recipes, whose claims.json, results.json and conf/tables are read.
    Raises:
        DataError: a claim that no table has.
    """
    found = _Found(recipes)
    compared = [[found.lines(row) for row in paper.rows] for paper in papers]
    body = []
    for paper, lines in zip(papers, compared):
        body.append(f"## {paper.paper}\n\n{paper.setting.strip()}\n")
        body += [_section(row, mine) for row, mine in zip(paper.rows, lines)]
    return "\n".join([HEAD, _overview(papers, compared), *body, found.others(), found.settings()])


@dataclasses.dataclass(frozen=True)
class _Line:
    """A comparison of a row.

    Attributes:
        link: RECIPE/TABLE, and where its results stand.
        cost: what the runs of the table cost.
        measured: whether the table has any figures.
        verdict: on its claim.
        against: whether the claim contradicts the paper if it holds.
        text: the line about it.
    """

    link: str
    cost: str
    measured: bool
    verdict: Verdict
    against: bool
    text: str


def _section(row: PaperRow, lines: Sequence[_Line]) -> str:
    said = [f"**{row.row}.** Paper: {row.theirs}. Here: {_summary(row, lines)}.\n"]
    said += [f"- {line.text}" for line in lines if line.verdict.outcome != NOT_MEASURED]
    missing: dict[str, list[str]] = {}
    for line in lines:
        if line.verdict.outcome == NOT_MEASURED:
            missing.setdefault(f"{line.link} ({line.cost})", []).append(line.verdict.claim.text)
    said += [f"- Not measured, {place}: {'; '.join(claims)}." for place, claims in missing.items()]
    said += [f"- Seen, without a test: {row.seen.strip()}."] if row.seen else []
    said += [f"- Not the paper's setting: {row.differs.strip()}."] if row.differs else []
    said += [f"- Not run: {row.not_run.strip()}."] if row.not_run else []
    return "\n".join(said) + "\n"


def _summary(row: PaperRow, lines: Sequence[_Line]) -> str:
    """What the comparisons of a row come to, in a few words."""
    if not lines:
        return "seen, without a test" if row.seen else "not run"
    deciding = [line for line in lines if line.verdict.claim.decides]
    outcomes = [line.verdict.outcome for line in deciding]
    measured = sum(outcome not in (NOT_MEASURED, TOO_FEW) for outcome in outcomes)
    signs = _signs(deciding)
    if not measured:
        if TOO_FEW in outcomes:
            return "too few seeds"
        if any(line.verdict.outcome != NOT_MEASURED for line in lines):
            return "compared afterwards or on dev alone"
        return "run in part, not compared" if any(line.measured for line in lines) else "not run"
    if not signs:
        word = "no difference beyond the margin" if EQUIVALENT in outcomes else UNDECIDED
        return f"{word} ({_comparisons(measured)})"
    of = f"{len(signs)} of {_comparisons(measured)} decided"
    effects = [line.verdict.effect for line in deciding if line.verdict.outcome in HOLDS]
    if not any(effect is not None and effect.speakers for effect in effects):
        of += ", over seeds alone"
    others = sum(-sign in signs for sign in _signs([line for line in lines if not line.verdict.claim.decides]))
    if others:
        of += f"; {others} written down afterwards or on dev disagree{'s' * (others == 1)}"
    if row.theirs.startswith(NO_FIGURE):
        ways = Counter(SUPPORTED if sign > 0 else CONTRADICTED for sign in signs)
        return f"{', '.join(f'{count} {way}' for way, count in ways.items())} ({of})"
    word = "as in the paper" if min(signs) > 0 else "not as in the paper" if max(signs) < 0 else "mixed"
    if 2 * len(signs) < measured:
        return f"undecided for the most part, {word} in part ({of})"
    return f"{word} in part ({of})" if len(signs) < measured else f"{word} ({of})"


def _signs(lines: Sequence[_Line]) -> list[int]:
    """1 for each decided comparison that agrees with the paper, -1 for one that does not."""
    return [
        HOLDS[line.verdict.outcome] * (-1 if line.against else 1) for line in lines if line.verdict.outcome in HOLDS
    ]


def _comparisons(count: int) -> str:
    return f"{count} comparison{'s' * (count != 1)}"


def _overview(papers: Sequence[Paper], compared: Sequence[Sequence[Sequence[_Line]]]) -> str:
    """Counts, and a line for each row."""
    # Some comparisons stand in two rows.
    unique = {(line.link, line.verdict.claim.text): line for paper in compared for lines in paper for line in lines}
    counts = Counter(line.verdict.outcome for line in unique.values())
    late = sum(line.verdict.outcome in HOLDS and not line.verdict.claim.decides for line in unique.values())
    table, rows, never = [], 0, 0
    for paper, mine in zip(papers, compared):
        for row, lines in zip(paper.rows, mine):
            said = _summary(row, lines)
            rows += 1
            never += said == "not run"
            noticed = ", ".join(
                f"{METRICS.get(name, name)} {_percent(share)}" for name, share in _noticed(lines).items()
            )
            table.append([paper.paper.partition(":")[0], row.row, row.theirs, said, noticed])
    said = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome])
    head = ["paper", "row", "paper's figure", "here", "would have been noticed"]
    return (
        f"## In short\n\n{rows} rows, {never} of them not run; {sum(counts.values())} comparisons: {said}. "
        f"Of the decided ones {late} were written down afterwards or are on dev; whether a claim agrees with its paper "
        f"is said row by row.\n\n"
        f"{markdown_table(head, table)}\n"
        "Would have been noticed: the smallest relative difference that one of the undecided comparisons of this "
        "metric finds four times in five.\n"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.2g} %"


def _cost(table: Table) -> str:
    """What the runs of a table would cost."""
    runs = len(list(table.cells())) * len(table.all_seeds)
    if table.minutes is None:
        return f"{runs} runs"
    minutes, hours = table.minutes, runs * table.minutes / 60
    total = f"{hours:.0f} hours" if hours > 1.5 else f"{60 * hours:.0f} minutes"
    return f"{runs} runs of about {minutes:g} minute{'s' * (minutes != 1)}, {total} of one core"


def _noticed(lines: Sequence[_Line]) -> dict[str, float]:
    """Metric -> smallest relative difference that one of the undecided comparisons of it would have noticed."""
    least: dict[str, float] = {}
    for verdict in (line.verdict for line in lines):
        if not verdict.claim.decides or verdict.claim.equal:
            continue
        if verdict.outcome == UNDECIDED and verdict.effect is not None and verdict.effect.reference:
            metric = verdict.claim.column.partition("/")[0]
            share = verdict.noticeable / abs(verdict.effect.reference)
            least[metric] = min(share, least.get(metric, share))
    return least


class _Found:
    """Verdicts, tables and rows of the recipes, read once each."""

    def __init__(self, recipes: Path) -> None:
        self._recipes = recipes
        self._verdicts: dict[str, list[Verdict]] = {}
        self._named: list[tuple[str, Claim]] = []  # RECIPE/TABLE and claim
        self._tables: dict[str, Table] = {}
        self._rows: dict[str, list[Row]] = {}

    def lines(self, row: PaperRow) -> list[_Line]:
        """The comparisons of a row, those that speak against the paper last."""
        return [
            self._line(place, start, against)
            for claims, against in ((row.claims, False), (row.against, True))
            for place, starts in claims.items()
            for start in starts
        ]

    def _line(self, place: str, start: str, against: bool) -> _Line:
        recipe, _, name = place.partition("/")
        table = self._table(place)
        claims = [claim for claim in table.claims if claim.text == start]
        claims = claims or [claim for claim in table.claims if claim.text.startswith(start)]
        if len({claim.text for claim in claims}) != 1:
            raise DataError(f"{self._path(place)}: {len(claims)} claims begin with {start!r}")
        verdict = self._verdict(recipe, name, claims[0])
        self._named.append((place, claims[0]))
        link, said = self._said(place, verdict)
        said += "; would speak against the paper" * against
        cost, mine = _cost(table), self._mine(recipe, name)
        if mine:
            cells = list(table.cells())
            there = sum(any(row.get("cell") == cell for row in mine) for cell in cells)
            cost += f"; {there} of {len(cells)} cells have figures"
        return _Line(link, cost, bool(mine), verdict, against, said)

    def _said(self, place: str, verdict: Verdict) -> tuple[str, str]:
        """Link to the results of a table, and a line about a claim of it."""
        table = self._table(place)
        digits = decimals_of(next(c for c in table.columns if c.key == verdict.claim.column))
        link = f"[{place}](../egs/{place.partition('/')[0]}/RESULTS.md)"
        said = f"{link}, {verdict.claim.text}: {verdict.text(digits)}{self._skipped(place, table, verdict)}"
        return link, said + f"; measured with earlier settings: {table.measured_with}" * bool(table.measured_with)

    def _skipped(self, place: str, table: Table, verdict: Verdict) -> str:
        """How many utterances of either side a column of times leaves out."""
        metric, _, part = verdict.claim.column.partition("/")
        if metric != "tse_ms" or verdict.effect is None:
            return ""
        recipe, _, name = place.partition("/")
        said = []
        for wanted in (verdict.claim.better, verdict.claim.than):
            counts = [
                row["counts"]
                for row in self._mine(recipe, name)
                if row["metric"] == metric and row["part"] == part and matches(row.get("cell", {}), wanted)
            ]
            lost = [count["skipped"] + count["missing"] for count in counts if count]
            if lost:
                least, most = min(lost), max(lost)
                said.append(f"{least} to {most}" if least < most else f"{most}")
        return f"; utterances left out: {' and '.join(said)}" if said and set(said) != {"0"} else ""

    def others(self) -> str:
        """What was measured of the same recipes and stands in no row; what tables claim no more is left out."""
        said = []
        for recipe, verdicts in sorted(self._verdicts.items()):
            for verdict in verdicts:
                place = f"{recipe}/{verdict.table}"
                if (place, verdict.claim) not in self._named and verdict.claim in self._table(place).claims:
                    said.append(f"- {self._said(place, verdict)[1]}")
        about = "What else was compared in the recipes above, so that nothing is left out for how it came out."
        return f"## Other comparisons\n\n{about}\n\n" + "\n".join(said or ["None."]) + "\n"

    def settings(self) -> str:
        """What the tables are that the lines speak of, with the size of their test parts."""
        said = [
            "## The tables\n\nNetworks, training and test parts of each table that is named above. Rows, commands and "
            "commits stand in the recipe's results.json, the whole table in its RESULTS.md.\n"
        ]
        for place, table in sorted(self._tables.items()):
            recipe, _, name = place.partition("/")
            seeds = ", ".join(map(str, table.all_seeds))
            parts = self._parts(recipe, name)
            tested = f" Scored on {parts}." if parts else " Not run."
            about = _PICTURE.sub("", table.about).strip()  # they stand in the recipe's RESULTS.md
            said.append(f"- **{place}**, {table.title}: {about} Seeds {seeds}.{tested}")
        return "\n".join(said) + "\n"

    def _mine(self, recipe: str, name: str) -> list[Row]:
        """The rows of a table."""
        if recipe not in self._rows:
            path = self._recipes / recipe / ROWS
            self._rows[recipe] = read_json(path) if path.is_file() else []
        return [row for row in self._rows[recipe] if row.get("table") == name]

    def _parts(self, recipe: str, name: str) -> str:
        """Words of the parts whose word errors were counted; "nothing but alignments" where none were."""
        mine = self._mine(recipe, name)
        words = {row["part"]: row["counts"]["words"] for row in mine if (row.get("counts") or {}).get("words")}
        if mine and not words:
            return "alignments only"
        return ", ".join(f"{part} ({count:,} words)" for part, count in sorted(words.items()))

    def _path(self, place: str) -> Path:
        recipe, _, name = place.partition("/")
        return self._recipes / recipe / "conf" / "tables" / f"{name}.yaml"

    def _table(self, place: str) -> Table:
        if place not in self._tables:
            self._tables[place] = load_table(self._path(place))
        return self._tables[place]

    def _verdict(self, recipe: str, name: str, claim: Claim) -> Verdict:
        if recipe not in self._verdicts:
            self._verdicts[recipe] = read_claims(self._recipes / recipe)
        found = (v for v in self._verdicts[recipe] if v.table == name and v.claim == claim)
        return next(found, Verdict(name, claim, NOT_MEASURED))
