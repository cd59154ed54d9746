"""Pictures of sweeps: lines with error bars, or a map in colours; SVG files that are equal for equal data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.experiments.table_report import Measured
    from pipeline.experiments.tables import Cell, Plot


def draw(path: Path, plot: Plot, label: str, cells: Sequence[Cell], measured: Sequence[Measured]) -> bool:
    """Draws one column of a table.

    Args:
      path: the SVG file to write.
      plot: which axes of the table go where.
      label: name of the column with its unit.
      cells, measured: the cells of the table and what was measured in each.
    Returns:
      whether there was anything to draw.
    """
    import matplotlib

    # Without these the file would hold random ids, and fonts as the machine has them.
    matplotlib.rcParams["svg.hashsalt"] = "fullsum"
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib.figure import Figure

    points = [(cell, m) for cell, m in zip(cells, measured) if m.count]
    if not points:
        return False
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    (_map if plot.y else _lines)(figure, axes, plot, label, points)
    axes.set_xlabel(plot.x.replace("_", " "))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    return True


def _lines(_figure: Any, axes: Any, plot: Plot, label: str, points: list[tuple[Cell, Measured]]) -> None:
    """One line per value of the series axis; cells that differ in further axes are points of the same line."""
    values = list(dict.fromkeys(cell[plot.x] for cell, _ in points))
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    names = list(dict.fromkeys(cell[plot.series] if plot.series else None for cell, _ in points))
    for name in names:
        mine = [(c, m) for c, m in points if plot.series is None or c[plot.series] == name]
        x: list[Any] = [cell[plot.x] if numeric else values.index(cell[plot.x]) for cell, _ in mine]
        order = sorted(range(len(x)), key=lambda i: x[i])
        axes.errorbar(
            [x[i] for i in order],
            [mine[i][1].mean for i in order],
            yerr=[mine[i][1].spread or 0.0 for i in order],
            fmt="o-" if numeric else "o",
            capsize=3,
            label=None if name is None else f"{plot.series} {name}",
        )
    if plot.log_x and numeric:
        axes.set_xscale("log")
    if not numeric:
        axes.set_xticks(range(len(values)), [str(value) for value in values], rotation=20)
        axes.margins(x=0.1)
    if plot.series:
        axes.legend()
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)


def _map(figure: Any, axes: Any, plot: Plot, label: str, points: list[tuple[Cell, Measured]]) -> None:
    """Colours over two axes; cells that differ in further axes are averaged."""
    assert plot.y is not None, plot
    columns = list(dict.fromkeys(cell[plot.x] for cell, _ in points))
    lines = list(dict.fromkeys(cell[plot.y] for cell, _ in points))
    grid: list[list[float]] = []
    for value in lines:
        means = [[m.mean for c, m in points if c[plot.x] == column and c[plot.y] == value] for column in columns]
        grid.append([sum(found) / len(found) if found else float("nan") for found in means])
    known = [mean for line in grid for mean in line if mean == mean]
    scale = (
        "log" if known and min(known) > 0 and max(known) > 10 * min(known) else "linear"
    )  # a collapse hides all differences
    image = axes.imshow(grid, origin="lower", aspect="auto", norm=scale)
    axes.set_xticks(range(len(columns)), [str(value) for value in columns])
    axes.set_yticks(range(len(lines)), [str(value) for value in lines])
    for i, line in enumerate(grid):
        for j, mean in enumerate(line):
            if mean == mean:
                dark = image.norm(mean) < 0.6
                axes.text(j, i, f"{mean:.3g}", ha="center", va="center", color="white" if dark else "black", fontsize=8)
    axes.set_ylabel(str(plot.y).replace("_", " "))
    figure.colorbar(image, label=label)
