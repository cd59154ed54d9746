"""Reports: data of the pages, names and texts that mean harm, order of the lists, what is missing or does not fit."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import re
import shutil
import struct
import zlib
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from pipeline.artifacts.ali import Segment
from pipeline.artifacts.hyp import Hypothesis
from pipeline.artifacts.model_dir import save_hmm
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import leaves
from pipeline.base.errors import DataError
from pipeline.base.files import write_json
from pipeline.experiments.claims import Claim, Verdict, write_claims
from pipeline.experiments.html import charts, sound
from pipeline.experiments.html.folder import write_report
from pipeline.experiments.html.listing import Entry, chosen, worst_first
from pipeline.experiments.html.markup import asset, file_name, inline_json
from pipeline.experiments.html.options import ReportOptions
from pipeline.experiments.html.sources import find_sources
from pipeline.experiments.html.utterances import compared, differences, word_errors
from pipeline.experiments.statistics import Effect
from pipeline.gmm.cluster import build_tree
from pipeline.gmm.options import TreeOptions
from steps.report import main
from tests.experiments.html_corpus import NAMES, RATE, SCRIPT, WORDS, make_exp, make_lang_of_corpus, save_alignment
from tests.gmm.test_tree import LANG, random_stats, some_questions

REFERENCES = "[{id: model, part: test, metric: wer, value: 12.5, source: a <b>book</b>}]"


class Reader(html.parser.HTMLParser):
    """The elements of a page, and the text of each script."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[tuple[dict, str]] = []
        self.links: list[str] = []
        self._open: dict | None = None
        self.words = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        self._open = found if tag == "script" else None
        if tag == "script":
            self.scripts.append((found, ""))
        self.links += [found[k] for k in ("href", "src") if k in found]

    def handle_endtag(self, tag):
        if tag == "script":
            self._open = None

    def handle_data(self, data):
        if self._open is not None:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        else:
            self.words += data

    def data(self) -> dict:
        return next(json.loads(text) for attrs, text in self.scripts if attrs.get("id") == "data")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """exp, data and the report."""
    place = tmp_path_factory.mktemp("report")
    exp, data = make_exp(place)
    out = place / "out"
    for name, content in (("conf/references.yaml", REFERENCES), ("plots/scales 1.svg", "<svg/>")):
        (exp.parent / name).parent.mkdir()
        (exp.parent / name).write_text(content)
    claim = Claim("<b>More</b> helps", "wer/test", better={"x": 1}, than={"x": 2})
    write_claims(exp.parent, [Verdict("sweep", claim, "supported", Effect(-1.5, 0.2, 5.0, 3, 0, 10.0, 0.01), 0.0123)])
    done = CliRunner().invoke(main, [str(exp), str(out), "--data", str(data), "--pages", "0"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return exp, data, out


def pages(out: Path) -> dict[str, Reader]:
    found = [Reader(p) for p in (out / "utterances").iterdir()]
    return {page.data()["id"]: page for page in found}


def listed(out: Path) -> dict:
    text = (out / "data" / "list.js").read_text(encoding="utf-8")
    inside = re.fullmatch(r"window\.FULLSUM_LIST = JSON\.parse\((.*)\);\n", text)
    assert inside and "<" not in text
    return json.loads(json.loads(inside[1]))


def test_every_utterance_has_a_page_whose_links_exist(made):
    _, _, out = made
    found = pages(out)
    assert sorted(found) == sorted(NAMES)
    assert len(list((out / "media").glob("*.flac"))) == len(NAMES)
    for page in [*(out / "utterances").iterdir(), out / "index.html"]:
        for link in Reader(page).links:
            if not link.startswith("#"):
                target = (page.parent / unquote(link.split("#")[0])).resolve()
                assert target.is_file() and target.is_relative_to(out.resolve()), (page, link)
    data = found["plain-1"].data()
    for place in (data["audio"], data["tiles"][0][0]):
        assert (out / "utterances" / place).is_file()


def test_names_and_texts_stay_text(made):
    """No id, word or phone adds an element to a page; all come back as they were."""
    _, _, out = made
    usual = None
    for name, page in pages(out).items():
        tags = [t for t in page.tags if t != "a"]
        usual = usual or tags
        assert tags == usual, name
        assert name in page.words and all(word in page.words for word in WORDS)
        data = page.data()
        assert data["text"] == " ".join(WORDS)
        assert {"<i>", "a", "b"} == set(data["tiers"][1]["label"])
    index = Reader(out / "index.html")
    assert index.tags.count("script") == 3 and not {"b", "i"} & set(index.tags)
    assert SCRIPT in index.words
    for path in out.rglob("*"):
        if path.suffix in (".html", ".js"):
            assert "window.harmed" not in path.read_text(encoding="utf-8").replace("window.harmed=1&lt;", "").replace(
                "window.harmed=1\\u003c", ""
            ).replace("window.harmed=1\\\\u003c", "")


def test_names_of_files():
    ids = [*NAMES, "a" * 300, "a" * 301, "x.", "x", "X", "con", "\ud800"]
    names = [file_name(i) for i in ids]
    assert len({n.lower() for n in names}) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,60}", n) for n in names)


def test_json_in_scripts():
    value = {"</script>": ["<!--", "&amp;", "\u2028", "\ud800", 'a"b\\']}
    raw = inline_json(value)
    assert json.loads(raw) == value and not set("<>&\u2028") & set(raw)
    raw.encode("utf-8")
    with pytest.raises(ValueError):
        inline_json(float("nan"))


def test_tiers_and_differences(made):
    _, _, out = made
    data = pages(out)[NAMES[1]].data()
    tiers = {(t["system"], t["kind"]): t for t in data["tiers"]}
    assert list(tiers) == [
        ("reference times", "word"),
        ("reference times", "phone"),
        *((s, k) for s in ("gmm_ali", "nhmm_ali") for k in ("word", "phone", "state")),
    ]
    late = tiers["nhmm_ali", "phone"]
    assert late["label"] == ["SIL", "a", "b", "b", "a", "<i>", "b", "SIL"]
    assert late["startDiff"] == [None, *[100] * 6, None] == late["endDiff"]
    assert late["start"][1] == pytest.approx(0.3) and "end" not in late and late["last"] == pytest.approx(1.6)
    assert tiers["gmm_ali", "phone"]["startDiff"] == [None, *[0] * 6, None]
    assert tiers["nhmm_ali", "word"]["startDiff"] == [100] * 3
    assert late["confidence"] == [0.75] * 8
    states = tiers["gmm_ali", "state"]
    assert states["label"][1:4] == ["0", "1", "2"] and states["start"][1] == pytest.approx(0.2)
    assert states["start"][4] == pytest.approx(0.4)
    (found,) = data["recognised"]
    assert found["system"] == "gmm/decode" and found["errors"] == 3
    assert [w[:2] for w in found["words"]][0] == [WORDS[0], WORDS[0]]


def test_the_list(made):
    _, _, out = made
    data = listed(out)
    assert sorted(data["id"]) == sorted(NAMES) and all(data["page"])
    assert data["systems"] == ["gmm_ali", "nhmm_ali"] and data["decodings"] == ["gmm/decode"]
    at = data["id"].index(NAMES[1])
    assert [column[at] for column in data["disagreement"]] == [0.0, 100.0]
    assert data["phones"][at] == "a b b a <i> b"
    assert data["errors"][0][at] == 3 and data["words"][at] == 3
    assert data["confidence"][data["confident"].index("nhmm_ali")][at] == pytest.approx(0.75)


def entry(name: str, far: float | None, sure: float | None, errors: int | None) -> Entry:
    return Entry(
        name,
        "",
        "",
        "",
        1.0,
        disagreement={} if far is None else {"x": 0.0, "y": far},
        confidence={} if sure is None else {"x": 1.0, "y": sure},
        errors={} if errors is None else {"d": (errors, 4)},
    )


def test_order_and_choice():
    rows = [entry(f"u{i}", *x) for i, x in enumerate([(1, 0.9, 0), (5, 0.8, 2), (None, 0.1, None), (5, None, 4)])]
    assert [e.name for e in worst_first(rows, "disagreement")] == ["u1", "u3", "u0"]
    assert [e.name for e in worst_first(rows, "confidence")] == ["u2", "u1", "u0"]
    assert [e.name for e in worst_first(rows, "errors")] == ["u3", "u1", "u0"]
    assert [e.name for e in chosen(rows, 3)] == ["u0", "u1", "u2"]  # the first, the furthest, the least sure
    assert chosen(rows, 0) == rows == chosen(rows, 9)
    many = [entry(f"u{i}", None, None, None) for i in range(9)]
    assert [e.name for e in chosen(many, 4)] == ["u0", "u1", "u2", "u3"]


def test_recognised_words_get_the_times_of_the_reference():
    spoken = [Segment("one", 0.1, 0.2), Segment("TWO", 0.3, 0.2), Segment("THREE", 0.6, 0.1), Segment("FOUR", 0.7, 0.1)]
    ref, hyp = ("ONE", "TWO", "THREE", "FOUR"), ("ONE", "*", "ZERO", "TWO", "THREE")
    words = compared(Hypothesis("u", "s", ref, hyp, (0.1, 0.2, 0.3, 0.4, 0.5)), spoken)
    assert [(w.ref, w.hyp) for w in words] == [
        ("ONE", "ONE"),
        ("", "*"),
        ("", "ZERO"),
        ("TWO", "TWO"),
        ("THREE", "THREE"),
        ("FOUR", ""),
    ]
    assert [w.start for w in words] == pytest.approx([0.1, 0.3, 0.3, 0.3, 0.6, 0.7])
    assert [w.end for w in words] == pytest.approx([0.3, 0.3, 0.3, 0.5, 0.7, 0.8])
    assert [w.confidence for w in words] == [0.1, 0.2, 0.3, 0.4, 0.5, None] and word_errors(words) == 3
    assert compared(Hypothesis("u", "s", ("A",), ("B",)), [])[0].start is None


def test_differences_are_of_equal_symbols():
    ours = [Segment("SIL", 0, 1), Segment("a", 1.0, 0.5), Segment("c", 1.5, 0.5), Segment("b", 2.0, 1.0)]
    found = differences(ours, [Segment("a", 0.9, 0.5), Segment("b", 2.02, 0.9)])
    assert found.starts == [None, pytest.approx(100), None, pytest.approx(-20)]
    assert found.mean() == pytest.approx((100 + 100 + 20 + 80) / 4)
    assert differences([], []).mean() is None


def test_long_recordings_are_compared_piece_by_piece():
    """Symbols that one side lacks shift nothing behind them."""
    reference = [Segment("abc"[i % 3], 0.1 * i, 0.1) for i in range(4000)]
    ours = [Segment(s.symbol, s.start + 0.01, 0.1) for i, s in enumerate(reference) if i % 500 != 7]
    found = differences(ours, reference)
    known = np.array([x for x in found.starts if x is not None])
    assert len(known) > 0.98 * len(ours) and np.median(known) == pytest.approx(10)
    assert (np.abs(known - 10) < 1e-6).mean() > 0.98


def decoded(png: bytes) -> np.ndarray:
    """(height, width) of a PNG of 4 bits a pixel."""
    width, height = struct.unpack(">II", png[16:24])
    data = b""
    at = 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        data += body if kind == b"IDAT" else b""
        at += 12 + length
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, -1)[:, 1:]
    return np.stack([rows >> 4, rows & 15], axis=2).reshape(height, -1)[:, :width]


def test_spectrogram_and_outline():
    t = np.arange(RATE) / RATE
    samples = np.concatenate([np.zeros(RATE), 0.5 * np.sin(2 * np.pi * 2000 * t)])
    (tile,) = sound.tiles(samples, RATE)
    image = decoded(tile.png)
    assert image.shape == (sound.ROWS, 400) and (tile.start, tile.end) == (0.0, 2.0)
    assert (image[:, :190] == 15).all()  # silence is white
    loudest = image[:, 300].argmin()
    assert abs((sound.ROWS - 1 - loudest) / sound.ROWS * RATE / 2 - 2000) < 100
    raw, step = sound.outline(samples, RATE)
    pairs = np.frombuffer(base64.b64decode(raw), np.int8).reshape(-1, 2)
    assert len(pairs) * step == pytest.approx(2.0) and not pairs[:999].any()
    assert pairs[1500:].max() == 127 and pairs[1500:].min() == -127


def test_long_sound_comes_in_tiles():
    """Joined, they are the same picture as in one piece, and of limited width."""
    samples = np.random.default_rng(1).normal(size=45 * 8000) * 0.1
    made = list(sound.tiles(samples, 8000))
    assert [(t.start, t.end) for t in made] == [(0, 20), (20, 40), (40, 45)]
    joined = np.concatenate([decoded(t.png) for t in made], axis=1)
    sound_of_middle = list(sound.tiles(samples[15 * 8000 : 25 * 8000], 8000))
    middle = decoded(sound_of_middle[0].png)
    assert (np.abs(joined[:, 3010:4990].astype(int) - middle[:, 10:1990]) <= 1).mean() > 0.99


@pytest.mark.parametrize(
    "form, rate, media",
    [
        ("flac", 16000, "audio/flac"),
        ("wav", 11025, "audio/wav"),
        ("opus", 16000, "audio/ogg"),
        ("opus", 11025, "audio/flac"),
    ],
)
def test_sound_keeps_its_times(form, rate, media):
    samples = np.zeros(2 * rate)
    samples[rate : rate + rate // 10] = 0.5 * np.sin(np.arange(rate // 10))
    content, kind = sound.encoded(samples, rate, form)
    assert kind == media
    back, new_rate = soundfile.read(io.BytesIO(content))
    back = back[:: new_rate // rate] if new_rate != rate else back
    loud = np.nonzero(np.abs(back) > 0.1)[0]
    assert abs(loud[0] / rate - 1.0) < 0.005 and abs(loud[-1] / rate - 1.1) < 0.005


def test_single_file_needs_no_other(made, tmp_path):
    exp, data, _ = made
    name = NAMES[4]
    args = [str(exp), str(tmp_path / "one"), "--data", str(data), "--single", name]
    assert CliRunner().invoke(main, args, catch_exceptions=False).exit_code == 0
    (page,) = (tmp_path / "one").glob("*.html")
    reader = Reader(page)
    assert not reader.links
    shown = reader.data()
    assert shown["id"] == name and shown["audio"].startswith("data:audio/flac;base64,")
    soundfile.read(io.BytesIO(base64.b64decode(shown["audio"].split(",")[1])))
    args[-1] = "nobody"
    args[1] += "x"
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 2


def test_missing_audio_is_said_and_the_rest_is_there(made, tmp_path):
    exp, data, _ = made
    shutil.copytree(data.parent, tmp_path / "data")
    cuts = tmp_path / "data" / "test" / "cuts.jsonl.gz"
    import gzip

    with gzip.open(cuts, "rt", encoding="utf-8") as f:
        text = f.read().replace(str(data.parent), str(tmp_path / "data"))
    with gzip.open(cuts, "wt", encoding="utf-8") as f:
        f.write(text)
    (tmp_path / "data" / "audio" / "0.wav").unlink()
    write_report(find_sources(exp, [tmp_path / "data" / "test"]), _new(tmp_path / "out"), ReportOptions(pages=0))
    page = pages(tmp_path / "out")[NAMES[0]]
    assert page.data()["audio"] is None and len(page.data()["tiers"]) == 8
    assert "No sound: utterance 'plain-1'" in page.words
    assert pages(tmp_path / "out")[NAMES[1]].data()["audio"]


def _new(path: Path) -> Path:
    path.mkdir()
    return path


def test_alignment_of_other_audio_is_named_and_left_out(tmp_path):
    exp, data = make_exp(tmp_path, NAMES[:3])
    save_alignment(exp / "other_ali", make_lang_of_corpus(), [*NAMES[:2], "stranger"], {}, seconds=2.5)
    write_report(find_sources(exp, [data]), _new(tmp_path / "out"), ReportOptions(pages=0))
    index = Reader(tmp_path / "out" / "index.html")
    assert "other_ali: 2 of 3 utterances are alignments of other audio" in index.words
    assert "(2.50 s aligned, 1.60 s of audio)" in index.words and "'stranger'" in index.words
    page = pages(tmp_path / "out")[NAMES[0]]
    assert "other_ali: an alignment of other audio" in page.words
    assert "other_ali" not in {t["system"] for t in page.data()["tiers"]}


def test_labels_from_elsewhere_stand_beside(tmp_path):
    exp, data = make_exp(tmp_path, NAMES[:3])
    (tmp_path / "by_hand.ctm").write_text(
        "".join(f"{name} 1 0.21 0.39 AB\n{name} 1 0.60 0.40 {SCRIPT}\n" for name in NAMES[:2])
        + f"{NAMES[2]} 1 1.0 2.0 AB\n"
    )
    sources = find_sources(exp, [data], labels=[tmp_path / "by_hand.ctm"])
    write_report(sources, _new(tmp_path / "out"), ReportOptions(pages=0))
    found = pages(tmp_path / "out")
    tiers = [t for t in found[NAMES[0]].data()["tiers"] if t["system"] == "by_hand.ctm"]
    assert [(t["kind"], t["label"], t["startDiff"]) for t in tiers] == [("word", ["AB", SCRIPT], [10, 0])]
    assert "by_hand.ctm: an alignment of other audio" in found[NAMES[2]].words
    assert (
        "by_hand.ctm: the labels of 1 of 3 utterances are of other audio" in Reader(tmp_path / "out/index.html").words
    )


def test_what_is_found(tmp_path):
    exp, data = make_exp(tmp_path, NAMES[:1])
    (exp / "fold1").mkdir()
    shutil.copytree(exp / "gmm_ali", exp / "fold1" / "gmm_ali")
    shutil.copytree(exp / "gmm_ali", exp / "unfinished.tmp")
    for part in ("test", "train"):  # one system over two parts
        shutil.copytree(exp / "gmm_ali", exp / "ctc_ali" / part)
        stamp = {"identity": "x", "id": "y", "inputs": {"data": {"path": f"../../../data/{part}", "id": "z"}}}
        (exp / "ctc_ali" / part / "stamp.json").write_text(json.dumps(stamp))
        (exp.parent / "data" / part).mkdir(parents=True)
    found = find_sources(exp, [data], ReportOptions().skip, exp / "gmm")
    assert sorted(found.alignments) == ["ctc_ali", "gmm_ali", "nhmm_ali"]
    assert [d.name for d in found.alignments["ctc_ali"]] == ["test", "train"]
    assert list(found.decodings) == ["gmm/decode"] and found.data == [data]
    with pytest.raises(DataError, match="holds no alignment"):
        find_sources(_new(tmp_path / "empty"))


def test_the_first_page_tells_the_figures(made):
    _, _, out = made
    words = re.sub(r"\s+", " ", Reader(out / "index.html").words)
    assert "33.00 [20.00, 50.00]" in words and "50.00 [" in words  # the row, and what was counted
    assert "Confusions" in words and "MANY" in words
    assert "not ours: a <b>book</b>" in words and "12.50" in words
    assert "<b>More</b> helpssupportedsweep-1.50[-2.01, -0.99]0.01233" in words
    assert (out / "plots" / "scales 1.svg").is_file()


def test_colours_have_contrast():
    """At least 4.5 to 1 for texts and 3 to 1 for lines and marks, in light and dark (WCAG 2.1, 1.4.3 and 1.4.11)."""
    style = asset("style.css")

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    for block in re.findall(r":root[^{]*\{([^}]*)\}", style)[:2]:
        colour = dict(re.findall(r"--(\w+): (#\w{6});", block))
        pairs = {(a, "page"): 4.5 for a in ("ink", "soft", "link", "bad")}
        pairs |= {(a, b): 4.5 for a in ("ink", "bad") for b in ("tier", "fill")}
        pairs |= {("ink", b): 4.5 for b in ("active", "doubt", "silence")} | {("soft", "silence"): 4.5}
        pairs |= {(a, "page"): 3.0 for a in ("focus", "wave", "cursor", "one", "two", "three", "four", "five", "six")}
        pairs |= {("mark", "tier"): 3.0}
        for (a, b), least in pairs.items():
            high, low = sorted((luminance(colour[a]), luminance(colour[b])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= least, (a, b, colour[a], colour[b])


def test_a_report_is_remade_when_there_is_more_to_show_but_nothing_else_is(tmp_path):
    exp, data = make_exp(tmp_path, NAMES[:2])
    out = exp / "report"
    args = [str(exp), str(out), "--data", str(data)]
    for more, systems in ((None, 3), (None, 3), ("new_ali", 4)):
        if more:
            save_alignment(exp / more, make_lang_of_corpus(), NAMES[:2], {})
        before = (out / "index.html").stat().st_mtime_ns if out.exists() else 0
        assert CliRunner().invoke(main, args, catch_exceptions=False).exit_code == 0
        assert (before == (out / "index.html").stat().st_mtime_ns) == (before > 0 and not more)
        (page, _) = pages(out).values()
        assert len({t["system"] for t in page.data()["tiers"]}) == systems
    made = json.loads((out / "stamp.json").read_text())
    (out / "stamp.json").write_text(json.dumps({**made, "command": "train_mono"}))
    assert CliRunner().invoke(main, [*args, "--pages", "1"]).exit_code == 2  # that of another step stays
    assert (out / "utterances").is_dir()


def test_trees_unfold_by_question(tmp_path):
    """Every leaf once, each question with what it gained; the same tree in a second model has no second page."""
    exp, data = make_exp(tmp_path, NAMES[:1])
    tree, facts = build_tree(random_stats(0), some_questions(0), LANG, TreeOptions(num_leaves=30, min_count=5.0))
    for name in ("tri", "tri_again"):
        save_hmm(exp / name, LANG.topo, tree, TransitionModel(tree, LANG.topo))
        for file, content in (("tree_stats.json", facts), ("model.json", {"kind": "gmm"})):
            write_json(exp / name / file, content)
    write_report(find_sources(exp, [data]), _new(tmp_path / "out"), ReportOptions())
    (page,) = (tmp_path / "out" / "trees").iterdir()
    reader = Reader(page)
    found = sorted(int(n) for n in re.findall(r"pdf (\d+)", reader.words))
    assert found == sorted(leaf.pdf for root in tree.roots for leaf in leaves(root.node))
    gains = [float(g.replace(",", "")) for g in re.findall(r"\? gain ([-\d,]+)", reader.words)]
    assert gains == [round(g) for root in facts["gains_per_root"] for g in root] and len(gains) > 10
    assert f"trees/{page.name}" in Reader(tmp_path / "out" / "index.html").links


def test_ticks_are_round():
    assert charts.ticks(0, 10) == [0, 2, 4, 6, 8, 10] and charts.ticks(3, 3) == [3]
    assert charts.ticks(-0.13, 0.07) == pytest.approx([-0.1, -0.05, 0.0, 0.05])
    text = charts.lines({"<a>": [(1, 2.0), (2, 1.0)], "b": [(1, 1.0)]}, "t<", "x", "y")
    assert "<a>" not in text and text.count("<polyline") == 2 and "NaN" not in text
