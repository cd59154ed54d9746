"""Pictures of a report's pages, and how far two of them are from each other.

`python -m tests.experiments.screenshots` makes those in tests/experiments/screenshots again.
"""

from __future__ import annotations

import base64
import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.experiments.html.folder import write_report
from pipeline.experiments.html.markup import file_name
from pipeline.experiments.html.options import ReportOptions
from pipeline.experiments.html.sources import find_sources
from tests.experiments.html_corpus import NAMES, make_exp

STORED = Path(__file__).with_suffix("")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
# Name -> page below the report, colour scheme, width and height, and what is pressed before the picture is taken.
SHOTS: dict[str, tuple[str, str, tuple[int, int], str]] = {
    "overview_light": ("index.html", "light", (1000, 800), ""),
    "overview_dark": ("index.html", "dark", (1000, 800), ""),
    "utterance_light": (f"utterances/{file_name(NAMES[1])}.html", "light", (1000, 800), "d"),
    "utterance_dark": (f"utterances/{file_name(NAMES[1])}.html", "dark", (1000, 800), "d"),
    "utterance_phone": (f"utterances/{file_name(NAMES[1])}.html", "light", (380, 800), ""),
}
BLOCK = 20  # pixels, a line of text
# Of distance(). Measured: at most 0.55 with other settings of the browser for drawing letters, at least 2.9 with one fault
# (a tier, the waveform, the spectrogram, the list, the buttons, the heading or the style missing; light in place of dark).
LIMIT = 1.5


def distance(first: bytes, second: bytes) -> float:
    """How far two PNG pictures are apart, from 0 to 255; infinite for other sizes.

    Each is averaged over blocks of 20 x 20 pixels, in which it hardly matters how letters are drawn, and the differences
    are averaged as their squares are, so that a part that is missing counts for more than as many small ones everywhere.
    """
    small = [_blocks(picture) for picture in (first, second)]
    if small[0].shape != small[1].shape:
        return float("inf")
    return float(np.sqrt(np.mean((small[0] - small[1]) ** 2)))


def _blocks(png: bytes) -> np.ndarray:
    """(height / 20, width / 20, 3) mean colours."""
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=float)
    height, width = (size // BLOCK for size in pixels.shape[:2])
    return pixels[: height * BLOCK, : width * BLOCK].reshape(height, BLOCK, width, BLOCK, 3).mean((1, 3))


def make_report(base: Path) -> Path:
    """The report that the pictures are of."""
    exp, data = make_exp(base, [*NAMES, *(f"u{i:03d}" for i in range(60))])
    out = base / "out"
    out.mkdir()
    write_report(find_sources(exp, [data]), out, ReportOptions(pages=8))
    return out


def _font() -> str:
    """URL of a font that every machine has, which comes with matplotlib: with others lines break elsewhere."""
    import matplotlib

    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return f"data:font/ttf;base64,{base64.b64encode(font.read_bytes()).decode()}"


def taken(browser: Any, report: Path, change: Callable[[Any], None] | None = None) -> Iterator[tuple[str, bytes]]:
    """Yields name and PNG of each picture.

    Args:
        browser: of playwright.
        change: is done to each page before.
    """
    for name, (page, scheme, (width, height), keys) in SHOTS.items():
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, bypass_csp=True)
        tab = context.new_page()
        tab.goto((report / page).as_uri())
        tab.evaluate(
            """async (source) => {
              document.fonts.add(await new FontFace("Shot", `url(${source})`).load());
              const style = document.createElement("style");
              style.textContent = "*, svg text { font-family: Shot !important; }";
              document.head.append(style);
              document.dispatchEvent(new Event("themechange"));
            }""",
            _font(),
        )
        tab.wait_for_timeout(500)  # the spectrogram's picture is drawn when it has come
        for key in keys:
            tab.keyboard.press(key)
        if change is not None:
            change(tab)
        tab.wait_for_timeout(200)
        yield name, tab.screenshot()
        context.close()


def main() -> None:
    from playwright.sync_api import sync_playwright

    STORED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as base, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for name, picture in taken(browser, make_report(Path(base))):
            (STORED / f"{name}.png").write_bytes(picture)
            sys.stdout.write(f"{name}.png: {len(picture) / 1024:.0f} KiB\n")
        browser.close()


if __name__ == "__main__":
    main()
