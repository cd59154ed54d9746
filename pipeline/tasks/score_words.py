"""Scores of recognised texts as a directory: counts, errors by word, words outside of a lexicon, another system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.artifacts.arpa import read_sentences
from pipeline.artifacts.hyp import load_hypotheses
from pipeline.artifacts.lang import Lang
from pipeline.base.files import atomic_write, write_json
from pipeline.tasks.score import compare, error_report, shown_interval, unknown_word_rows, wer_row


def write_scores(
    decoded: Path,
    out: Path,
    row_id: str | None = None,
    part: str = "test",
    against: Path | None = None,
    known: Path | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Writes wer.txt, errs.txt, score.json and, where they are asked for, results.json and compare.json.

    Args:
        decoded: a decoding directory or its texts, recogs.jsonl.gz.
        out: an existing directory.
        row_id: id of the rows of results.json; None: none are written. part: part of the data that they name.
        against: another decoding of the same data, of which compare.json says whether it is worse.
        known: lang directory or text whose words are known; the others are scored apart.
    Returns:
        facts for the stamp, and lines for the user.
    """
    hyps, name = load_hypotheses(decoded), row_id or decoded.name
    errors = list(error_report(hyps))
    for file, lines in (("errs.txt", errors), ("wer.txt", errors[:1])):
        with atomic_write(out / file) as f:
            f.writelines(line + "\n" for line in lines)
    row = wer_row(name, part, hyps)
    others = [] if known is None else unknown_word_rows(name, part, hyps, _words(known))
    kept = ("value", "low", "high", "counts")
    by_metric: dict[str, dict[str, Any]] = {other["metric"]: {key: other.get(key) for key in kept} for other in others}
    write_json(out / "score.json", {**{key: row.get(key) for key in kept}, **by_metric})
    if row_id is not None:
        write_json(out / "results.json", [row, *others])
    facts = {"wer": row["value"], "low": row.get("low"), "high": row.get("high")}
    facts |= {metric: other["value"] for metric, other in by_metric.items()}
    if against is not None:
        facts["compare"] = compare(load_hypotheses(against), hyps)
        write_json(out / "compare.json", facts["compare"])
    lines = [f"{errors[0]}  {shown_interval(facts['low'], facts['high'])}"]
    for metric, other in by_metric.items():
        what = "recognised" if metric == "oov_found" else "right where one was recognised"
        counts = f"{other['counts']['correct']} / {other['counts']['words']}"
        lines.append(f"words outside of {known}: {other['value']:.2f} % {what} [ {counts} ]")
    return facts, lines


def _words(known: Path) -> set[str]:
    if (known / "lang.json").is_file():
        return set(Lang.load(known).words)
    return {word for sentence in read_sentences(known) for word in sentence}
