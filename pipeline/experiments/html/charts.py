"""Small charts as SVG inside a page: its style gives the colours, in light and dark; lines differ in dashes, too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pipeline.experiments.html.markup import text

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 26, 36
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "12 4")
Point = tuple[float, float]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, roughly `about` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    size = 10 ** math.floor(math.log10(raw))
    step = next(s * size for s in (1, 2, 5, 10) if s * size >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


class _Plane:
    """The part of the plane that holds all points, and its place in the picture."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.x, self.y = ((min(v), max(v)) for v in zip(*points))
        self.x, self.y = (_wider(*self.x), _wider(*self.y))

    def at(self, point: Point) -> Point:
        x = LEFT + (point[0] - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (point[1] - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    def axes(self, x_label: str, y_label: str) -> str:
        out = []
        for value in ticks(*self.x):
            x = self.at((value, self.y[0]))[0]
            out.append(f'<line class="grid" x1="{x}" y1="{TOP}" x2="{x}" y2="{HEIGHT - BOTTOM}"/>')
            out.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 13}" text-anchor="middle">{value:g}</text>')
        for value in ticks(*self.y):
            y = self.at((self.x[0], value))[1]
            out.append(f'<line class="grid" x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}"/>')
            out.append(f'<text x="{LEFT - 5}" y="{y + 4}" text-anchor="end">{value:g}</text>')
        out.append(
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{text(x_label)}</text>'
        )
        out.append(f'<text x="4" y="{TOP - 10}">{text(y_label)}</text>')
        return "".join(out)


def _wider(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def lines(series: Mapping[str, Sequence[Point]], title: str, x_label: str, y_label: str) -> str:
    """A figure with one line for each series; up to six.

    Args:
        series: name -> (x, y) in the order of x; not all are empty.
    """
    plane = _Plane([p for points in series.values() for p in points])
    drawn = []
    for number, (name, points) in enumerate(series.items()):
        path = " ".join(f"{x},{y}" for x, y in map(plane.at, points))
        dash = DASHES[number % len(DASHES)]
        drawn.append(f'<polyline class="s{number % 6}" stroke-dasharray="{dash}" points="{path}"/>')
        if len(points) == 1:
            x, y = plane.at(points[0])
            drawn.append(f'<circle class="s{number % 6}" cx="{x}" cy="{y}" r="3"/>')
        at = WIDTH - RIGHT - 120
        key = TOP + 4 + 14 * number
        drawn.append(
            f'<line class="s{number % 6}" stroke-dasharray="{dash}" x1="{at}" x2="{at + 24}" y1="{key}" y2="{key}"/>'
        )
        drawn.append(f'<text class="key" x="{at + 28}" y="{key + 4}">{text(name)}</text>')
    last = ", ".join(f"{name} {points[-1][1]:.4g}" for name, points in series.items() if points)
    return _figure(
        plane.axes(x_label, y_label) + "".join(drawn), title, f"{y_label} over {x_label}; at the end: {last}"
    )


def scatter(points: Mapping[str, Point], title: str, x_label: str, y_label: str) -> str:
    """A figure with named points and the line on which both numbers are equal."""
    top = max(max(p) for p in points.values())
    plane = _Plane([(0.0, 0.0), (top, top)])
    (x1, y1), (x2, y2) = plane.at((0.0, 0.0)), plane.at((top, top))
    drawn = [f'<line class="grid" stroke-dasharray="4 3" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>']
    for name, point in points.items():
        x, y = plane.at(point)
        tip = f"{text(name)}: {point[0]:.0f}, {point[1]:.0f}"
        drawn.append(f'<g><title>{tip}</title><circle class="s0" cx="{x}" cy="{y}" r="2.5"/>')
        drawn.append(f'<text class="key" x="{x + 4}" y="{y + 3}">{text(name)}</text></g>')
    return _figure(
        plane.axes(x_label, y_label) + "".join(drawn), title, f"{y_label} against {x_label} of {len(points)} phones"
    )


def _figure(content: str, title: str, about: str) -> str:
    label = text(f"{title}: {about}")
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{content}</svg>'
        f"<figcaption>{text(title)}</figcaption></figure>"
    )
