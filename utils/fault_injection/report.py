"""What a campaign found, by kind of fault, for machines and for docs/reliability.md."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.base.files import atomic_write
from utils.fault_injection.kinds import KINDS

BEGIN, END = "<!-- counts -->\n", "<!-- end of counts -->\n"


def summary(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Counts by kind: trials, those that disturbed nothing, faults, those before the first change of a file, wrong."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        entry = found.setdefault(row["kind"], dict.fromkeys(("trials", "undisturbed", "faults", "idle", "wrong"), 0))
        entry["trials"] += 1
        entry["undisturbed"] += row["faults"] == 0
        entry["faults"] += row["faults"]
        entry["idle"] += row["idle"]
        entry["wrong"] += bool(row["wrong"])
    return {kind: found[kind] for kind in KINDS if kind in found}


def write_page(path: Path, counts: dict[str, dict[str, int]]) -> None:
    """Puts the counts between two marks of a page."""
    head = ("kind", "what happens", "trials", "not disturbed", "faults", "right", "wrong")
    rows = [" | ".join(["", *head, ""]).strip(), "|" + " --- |" * len(head)]
    for kind, entry in counts.items():
        right = entry["trials"] - entry["undisturbed"] - entry["wrong"]
        faults = f"{entry['faults']}" + (f" ({entry['idle']})" if entry["idle"] else "")
        what = " ".join((KINDS[kind].__doc__ or "").split())
        cells = [f"`{kind}`", what, entry["trials"], entry["undisturbed"], faults, right, entry["wrong"]]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    text = path.read_text(encoding="utf-8")
    marked = re.compile(f"(?<={re.escape(BEGIN)}).*?(?={re.escape(END)})", re.DOTALL)
    with atomic_write(path) as out:
        out.write(marked.sub(lambda _: "\n".join(rows) + "\n", text))
