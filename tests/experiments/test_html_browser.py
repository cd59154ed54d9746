"""The pages of a report in a real browser: they load without errors or network, play, follow keys, sort and save."""

from __future__ import annotations

import io
import itertools
import json
import re
import shutil
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.ali import AliSet
from pipeline.experiments.html.folder import write_report
from pipeline.experiments.html.markup import file_name
from pipeline.experiments.html.options import ReportOptions
from pipeline.experiments.html.sources import find_sources
from pipeline.tasks.ali_import import import_times
from pipeline.tasks.tiers import LabelTiers
from tests.experiments.html_corpus import NAMES, WORDS, make_exp, make_lang_of_corpus, save_alignment, save_data
from tests.experiments.screenshots import ARGUMENTS, CHROMIUM, LIMIT, STORED, distance, make_report, taken

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"),
    pytest.mark.skipif(find_spec("playwright") is None, reason="no playwright (pip install 'fullsum[browser]')"),
]
MANY = [*NAMES, *(f"u{i:03d}" for i in range(60))]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with data/test, recipe/exp and the reports out and one."""
    base = tmp_path_factory.mktemp("browser")
    exp, data = make_exp(base, MANY)
    for name, options in (("out", ReportOptions(pages=8)), ("one", ReportOptions(single=NAMES[4]))):
        (base / name).mkdir()
        write_report(find_sources(exp, [data]), base / name, options)
    return base


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture
def tab(browser):
    """A page that fails the test when anything goes wrong in it or leaves the disk."""
    context = browser.new_context(
        viewport={"width": 1000, "height": 900}, accept_downloads=True, color_scheme="light", has_touch=True
    )
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on("requestfailed", lambda r: wrong.append(f"failed: {r.url}"))
    page.on("request", lambda r: None if re.match("(file|data|blob):", r.url) else wrong.append(r.url))
    yield page
    harmed = page.evaluate("window.harmed")
    context.close()
    assert not wrong and harmed is None


def until(tab, condition: str, seconds: float = 20.0) -> None:
    """Waits for a condition; not by what the page would have to evaluate itself, which its policy forbids."""
    end = time.monotonic() + seconds
    while not tab.evaluate(condition):
        assert time.monotonic() < end, condition
        tab.wait_for_timeout(20)


def listen(tab) -> None:
    """From now on window.heard tells when sound starts and stops: [event, seconds]."""
    until(tab, "window.fullsum && document.getElementById('audio').readyState > 2")
    tab.evaluate(
        """() => {
          const audio = document.getElementById("audio");
          window.heard = [];
          for (const event of ["play", "pause"]) audio.addEventListener(event, () => heard.push([event, audio.currentTime]));
        }"""
    )


def page_of(place: Path, name: str) -> str:
    return (place / "out" / "utterances" / f"{file_name(name)}.html").as_uri()


def spot(tab, system: str, kind: str, segment: int) -> tuple[float, float]:
    """Where the middle of a segment is in the window."""
    return tuple(
        tab.evaluate(
            """([system, kind, i]) => {
              const row = fullsum.picture.rows.find((r) => r.tier && r.tier.system === system && r.tier.kind === kind);
              const box = document.getElementById("view").getBoundingClientRect();
              return [box.left + fullsum.scale.x((row.tier.start[i] + row.tier.end[i]) / 2), box.top + row.y + row.height / 2];
            }""",
            [system, kind, segment],
        )
    )


def status(tab) -> str:
    return tab.inner_text("#status")


def test_pages_load_quickly_and_show_names_as_they_are(place, tab):
    ready = []
    for page in sorted((place / "out" / "utterances").iterdir()):
        tab.goto(page.as_uri())
        until(tab, "window.fullsum && document.getElementById('audio').readyState > 0")
        data = json.loads(tab.evaluate("document.getElementById('data').textContent"))
        assert tab.inner_text("h1") == tab.title() == data["id"]
        assert WORDS[1] in tab.inner_text("#text")
        assert abs(tab.evaluate("document.getElementById('audio').duration") - 1.6) < 0.01
        ready.append(tab.evaluate("fullsum.ready"))
    assert len(ready) == 8 and min(ready) < 1000  # the others may have had to share the processor


def test_a_click_plays_a_phone_and_stops_behind_it(place, tab):
    tab.goto(page_of(place, NAMES[1]))
    listen(tab)
    tab.mouse.click(*spot(tab, "nhmm_ali", "phone", 3))
    said = status(tab)
    assert said.startswith("nhmm_ali, phone b, 0.700 s to 0.900 s, 200 ms, confidence 0.75, starts 100 ms later"), said
    until(tab, "heard.length === 2")
    (start, begin), (stop, _) = tab.evaluate("heard")
    assert (start, stop) == ("play", "pause") and abs(begin - 0.7) < 0.05
    until(tab, "Math.abs(fullsum.cursor - 0.9) < 1e-6")
    tab.click("#play")  # the rest of the utterance, the cursor moving with it
    until(tab, "fullsum.cursor > 1.0")
    until(tab, "heard.length === 4")
    assert tab.inner_text("#play") == "Play"


def test_keys(place, tab):
    tab.goto(page_of(place, NAMES[1]))
    listen(tab)
    press = tab.keyboard.press
    press("ArrowRight")
    assert status(tab).startswith("reference times, word AB")
    press("ArrowDown")
    assert status(tab).startswith("reference times, phone a, 0.200 s")
    press("ArrowRight")
    assert status(tab).startswith("reference times, phone b, 0.400 s")
    press("Enter")
    until(tab, "heard.length === 2")
    press("Home")
    for _ in range(5):
        press("Shift+ArrowRight")
    assert np.allclose(tab.evaluate("fullsum.selection"), [0, 0.05])
    press(" ")
    until(tab, "heard.length === 4")
    assert tab.evaluate("heard[2][1]") < 0.05
    press("Escape")
    assert tab.evaluate("fullsum.selection") is None
    press("Home")
    press("d")
    assert "nhmm_ali, word AB at 0.300 s: 100 ms later than by reference times" in status(tab)
    whole = tab.evaluate("fullsum.scale.span")
    press("+")
    press("+")
    assert abs(tab.evaluate("fullsum.scale.span") - whole / 2.25) < 1e-6
    press("PageDown")
    assert tab.evaluate("fullsum.scale.start") > 0
    press("0")
    assert tab.evaluate("fullsum.scale.start") == 0
    press("?")
    assert tab.evaluate("document.getElementById('keys').open")
    before = tab.url
    press("n")
    tab.wait_for_url(lambda url: url != before)


def test_wheel_and_drag(place, tab):
    tab.goto(page_of(place, NAMES[0]))
    box = tab.locator("#view").bounding_box()
    tab.mouse.move(box["x"] + 500, box["y"] + 30)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 700, box["y"] + 30, steps=4)
    tab.mouse.up()
    low, high = tab.evaluate("fullsum.selection")
    assert 0.7 < low < 0.9 and 1.0 < high < 1.3 and "Selected" in status(tab)
    tab.keyboard.down("Control")
    tab.mouse.wheel(0, -300)
    tab.keyboard.up("Control")
    until(tab, "fullsum.scale.span < 1")
    tab.mouse.wheel(0, 100)
    until(tab, "fullsum.scale.start > 0")


def test_a_corrected_tier_is_saved_and_comes_back_as_an_alignment(place, tab, tmp_path):
    """A boundary that is dragged, one that is moved by keys, and a label; undone and done again."""
    name = NAMES[4]
    tab.goto(page_of(place, name))
    tab.select_option("#source", "gmm_ali")
    x, y = spot(tab, "corrected", "phone", 1)
    quarter = tab.evaluate("fullsum.scale.perSecond") * 0.1
    tab.mouse.move(x + quarter, y)
    tab.mouse.down()
    tab.mouse.move(x + quarter * 1.5, y, steps=5)
    tab.mouse.up()
    first = tab.evaluate("fullsum.correction.tiers[1].start[2]")
    assert abs(first - 0.45) < 0.005 and tab.evaluate("fullsum.correction.tiers[1].end[1]") == first
    tab.mouse.click(*spot(tab, "corrected", "phone", 3))
    for key in (".", ".", ","):
        tab.keyboard.press(key)
    # The boundary between two words belongs to both tiers.
    assert abs(tab.evaluate("fullsum.correction.tiers[1].start[3]") - 0.605) < 1e-6
    assert abs(tab.evaluate("fullsum.correction.tiers[0].start[1]") - 0.605) < 1e-6
    tab.keyboard.press("z")
    assert abs(tab.evaluate("fullsum.correction.tiers[0].start[1]") - 0.61) < 1e-6
    tab.fill("#label", "a")
    tab.press("#label", "Enter")
    with tab.expect_download() as saved:
        tab.click("#save")
    path = tmp_path / saved.value.suggested_filename
    saved.value.save_as(path)
    assert path.suffix == ".TextGrid" and not set('/\\<>"') & set(path.name)
    tiers = LabelTiers(path, 16000)
    assert list(tiers) == [name]
    assert [p.symbol for p in tiers[name].phones] == ["SIL", "a", "b", "a", "a", "<i>", "b", "SIL"]
    assert [w.symbol for w in tiers[name].words] == list(WORDS)
    assert import_times(place / "data" / "test", make_lang_of_corpus(), tmp_path / "ali", 0.005, path) == 1
    ali = AliSet.load(tmp_path / "ali")
    starts = [p.start for p in ali.phones(name)]
    assert np.allclose(starts, [0, 0.2, first, 0.61, 0.8, 1.0, 1.2, 1.4], atol=0.0026)
    assert np.allclose([w.start for w in ali.words(name)], [0.2, 0.61, 1.0], atol=0.0026)


def test_the_list_sorts_and_searches(place, tab):
    tab.goto((place / "out" / "index.html").as_uri())
    assert tab.evaluate("fullsum.ready") < 3000

    def ids() -> list[str]:
        return tab.locator("#list tbody tr td:first-child").all_inner_texts()

    assert len(ids()) == 50 and "68 of 68 utterances, page 1 of 2" in tab.inner_text("#found")
    tab.click("#later")
    assert len(ids()) == 18 and tab.is_disabled("#later")
    tab.click("#by-disagreement")
    assert ids()[:2] == [MANY[1], MANY[0]]
    assert tab.get_attribute("#list th[data-column=disagreement]", "aria-sort") == "descending"
    tab.click("#list th[data-column=id] button")
    assert ids() != sorted(MANY[:2]) and ids()[-1].startswith("u0")
    tab.click("#list th[data-column=id] button")
    assert ids()[0] == "u059"
    tab.fill("#search", "U05")
    tab.select_option("#search-in", "id")
    assert ids() == [f"u{i:03d}" for i in range(59, 49, -1)]
    tab.select_option("#search-in", "phones")
    for query, count in (("a <i>", 68), ("b b a", 68), ("b <i>", 0), ("<", 0)):
        tab.fill("#search", query)
        assert tab.inner_text("#found").startswith(f"{count} of 68"), query
    tab.select_option("#search-in", "text")
    tab.fill("#search", "</script>")
    assert tab.inner_text("#found").startswith("68 of 68")
    tab.check("#with-page")
    assert tab.inner_text("#found").startswith("8 of 68")
    tab.fill("#search", "")
    # Any table: by numbers, not by how they are written.
    table = tab.locator("#confusions + * + .scroll table")
    table.locator("th button", has_text="count").click()
    counts = [int(c) for c in table.locator("tbody tr td:last-child").all_inner_texts()]
    assert counts == sorted(counts) and len(counts) > 1
    tab.locator("#list a").first.click()
    until(tab, "window.fullsum && fullsum.picture")
    tab.click("#up")
    until(tab, "window.fullsum && fullsum.shown")


def test_light_dark_and_a_phone(place, tab):
    from PIL import Image

    tab.goto(page_of(place, NAMES[0]))
    background = "getComputedStyle(document.body).backgroundColor"
    pictures = []
    for colour in ("rgb(255, 255, 255)", "rgb(21, 24, 28)"):
        assert tab.evaluate(background) == colour
        tab.wait_for_timeout(300)
        shot = Image.open(io.BytesIO(tab.locator("#view").screenshot())).convert("L")
        pictures.append(np.asarray(shot, dtype=float)[10:195, 10:-10])
        tab.click("#theme")
    # Tones stand out against what is around them, in both; one is roughly the other turned round.
    assert all(p.std() > 30 for p in pictures)
    assert np.corrcoef(pictures[0].ravel(), pictures[1].ravel())[0, 1] < -0.8
    for url, height in itertools.product((page_of(place, NAMES[4]), (place / "out" / "index.html").as_uri()), (700,)):
        tab.set_viewport_size({"width": 360, "height": height})
        tab.goto(url)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360, url


def test_one_file_plays_by_itself(place, tab, tmp_path):
    (page,) = (place / "one").glob("*.html")
    moved = shutil.copy(page, tmp_path / "mailed.html")
    tab.goto(Path(moved).as_uri())
    assert tab.inner_text("h1") == NAMES[4]
    listen(tab)
    tab.mouse.click(*spot(tab, "gmm_ali", "word", 1))
    until(tab, "heard.length === 2")
    until(tab, "[...fullsum.picture.images.values()].every((i) => i.naturalWidth === 320)")


def test_fingers(place, tab):
    tab.goto(page_of(place, NAMES[0]))
    listen(tab)
    tab.touchscreen.tap(*spot(tab, "gmm_ali", "phone", 2))
    until(tab, "heard.length === 2")
    assert abs(tab.evaluate("heard[0][1]") - 0.4) < 0.05 and status(tab).startswith("gmm_ali, phone b")


def test_long_sound_is_shown_in_parts(tab, tmp_path):
    """The first 20 seconds to begin with; pictures come when they are in view."""
    data = save_data(tmp_path, ["long"], seconds=70.0)
    save_alignment(tmp_path / "exp" / "ali", make_lang_of_corpus(), ["long"], {}, seconds=70.0)
    out = tmp_path / "out"
    out.mkdir()
    write_report(find_sources(tmp_path / "exp", [data]), out, ReportOptions())
    (page,) = (out / "utterances").iterdir()
    tab.goto(page.as_uri())
    until(tab, "window.fullsum && document.getElementById('audio').readyState > 0")
    assert abs(tab.evaluate("fullsum.scale.span") - 20) < 1e-6
    loaded = "[...fullsum.picture.images.values()].filter((i) => i.naturalWidth).length"
    until(tab, f"{loaded} === 1")
    tab.keyboard.press("End")
    until(tab, f"{loaded} >= 2")
    assert abs(tab.evaluate("fullsum.scale.end") - 70) < 1e-6
    tab.keyboard.press("0")
    until(tab, f"{loaded} === 4")
    assert tab.is_disabled("#position")  # all is in view


def test_pages_look_as_in_the_stored_pictures(browser, tmp_path):
    """Gross changes are seen; what was meant is stored by `python -m tests.experiments.screenshots`."""
    report = make_report(tmp_path)
    far = {}
    for name, picture in taken(browser, report):
        (tmp_path / f"{name}.png").write_bytes(picture)
        far[name] = distance(picture, (STORED / f"{name}.png").read_bytes())
    assert max(far.values()) < LIMIT, f"{far}; the pages as they are now: {tmp_path}"

    def without_a_part(tab) -> None:
        tab.evaluate("document.querySelectorAll('#list tbody').forEach((e) => e.remove())")
        tab.evaluate("document.querySelector('#shown input')?.click()")  # the tiers of the first system

    for name, picture in taken(browser, report, without_a_part):
        assert distance(picture, (STORED / f"{name}.png").read_bytes()) > LIMIT, name


def test_pictures_in_the_repository_are_small():
    root = Path(__file__).resolve().parents[2]
    pictures = [*STORED.glob("*.png"), *root.glob("docs/images/*.png"), *root.glob("egs/*/*.png")]
    assert len(pictures) > 5 and all(p.stat().st_size < 300 * 1024 for p in pictures)
