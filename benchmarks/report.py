#!/usr/bin/env python3
"""Time and size of a report, and how soon its pages answer in a browser.

Without EXP it makes corpora of its own (noise and tones with two alignments and a decoding): one of the size of AN4
with a page for every utterance, a long list, and one recording of an hour. "processor" are seconds of this process,
which other work on the machine hardly changes; "ready" is the time from opening a page until it answers, the least of
three, in headless Chromium, of several utterances that of the slowest page.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# Name -> utterances, seconds of each, pages.
CORPORA = {"as AN4": (1078, 3.0, 0), "long list": (50_000, 3.0, 20), "one hour": (1, 3600.0, 0)}
OPENED = 6  # pages of utterances


def make_corpus(base: Path, count: int, seconds: float) -> Path:
    """An exp directory about `count` utterances of one and the same sound."""
    from pipeline.artifacts.corpus import audio_recording, save_data_dir, utterance
    from tests.experiments.html_corpus import (
        WORDS,
        make_lang_of_corpus,
        save_alignment,
        save_audio,
        save_decoding,
        times,
    )

    names, (words, phones) = [f"utterance-{i:05d}" for i in range(count)], times()
    save_audio(base / "audio.wav", seconds)
    recordings = (audio_recording(name, base / "audio.wav") for name in names)
    cuts = (
        utterance(name, recording, " ".join(WORDS), f"s{i % 50}", words, phones)
        for i, (name, recording) in enumerate(zip(names, recordings))
    )
    save_data_dir(base / "data" / "test", list(cuts))
    lang, exp = make_lang_of_corpus(), base / "recipe" / "exp"
    save_alignment(exp / "gmm_ali", lang, names, {}, seconds)
    save_alignment(exp / "nhmm_ali", lang, names, dict.fromkeys(names[::3], 0.05), seconds)
    save_decoding(exp / "gmm" / "decode", names)
    return exp


def ready(browser: object, page: Path) -> float:
    """Milliseconds until a page answers, the least of three."""
    times = []
    for _ in range(3):
        tab = browser.new_page()  # type: ignore[attr-defined]  # of playwright, which not all machines have
        tab.goto(page.as_uri())
        while not tab.evaluate("window.fullsum && fullsum.ready"):
            time.sleep(0.02)
        times.append(tab.evaluate("fullsum.ready"))
        tab.close()
    return min(times)


def measured(exp: Path, data: list[Path], pages: int, browser: object) -> list[str]:
    """Cells of one row."""
    from pipeline.experiments.html.folder import write_report
    from pipeline.experiments.html.options import ReportOptions
    from pipeline.experiments.html.sources import find_sources

    with tempfile.TemporaryDirectory() as folder:
        out, start = Path(folder), time.process_time()
        facts = write_report(find_sources(exp, data, ReportOptions().skip), out, ReportOptions(pages=pages))
        seconds = time.process_time() - start
        size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 2**20
        cells = [f"{facts['utterances']:,}", f"{facts['pages']:,}", f"{seconds:.1f}", f"{size:.0f}"]
        if browser is None:
            return [*cells, "", ""]
        made = sorted((out / "utterances").iterdir())
        slowest = max(ready(browser, page) for page in made[:: max(len(made) // OPENED, 1)][:OPENED])
        return [*cells, f"{ready(browser, out / 'index.html'):.0f}", f"{slowest:.0f}"]


@click.command(help=__doc__)
@click.argument("exp", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
@click.option("--only", type=click.Choice(list(CORPORA)), help="One of its own corpora.")
@click.option("--pages", default=0, show_default=True, help="Pages of utterances of EXP; 0: all.")
def main(exp: Path | None, only: str | None, pages: int) -> None:
    """Prints a table."""
    from pipeline.experiments.results_page import markdown_table

    rows, browser, driver = [], None, None
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium:
        from playwright.sync_api import sync_playwright

        driver = sync_playwright().start()
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    if exp is not None:
        rows.append([exp.resolve().parent.name, *measured(exp, [], pages, browser)])
    for name, (count, seconds, some) in CORPORA.items() if exp is None else ():
        if only in (None, name):
            with tempfile.TemporaryDirectory() as base:
                place = make_corpus(Path(base), count, seconds)
                rows.append([name, *measured(place, [Path(base) / "data" / "test"], some, browser)])
    head = [
        "corpus",
        "utterances",
        "pages",
        "processor s",
        "MiB",
        "first page ready ms",
        "page of an utterance ready ms",
    ]
    click.echo(markdown_table(head, rows))
    if browser is not None and driver is not None:
        browser.close()
        driver.stop()


if __name__ == "__main__":
    main()
