"""What a recipe has measured on a clone."""

from __future__ import annotations

import json
from pathlib import Path


def figures(recipe: Path) -> dict[tuple[str, str, str], float]:
    """(id, part, metric) -> value of the rows of results.json."""
    rows = json.loads((recipe / "results.json").read_text(encoding="utf-8"))
    return {(row["id"], row["part"], row["metric"]): row["value"] for row in rows}
