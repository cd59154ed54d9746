"""Known times as alignments: they come back as they were, to half a frame."""

from __future__ import annotations

import pytest

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.corpus import Span, save_data_dir, utterance
from pipeline.artifacts.lang import make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.base.errors import DataError, MismatchError
from pipeline.graph.options import AliScoreOptions
from pipeline.tasks.ali_import import import_times
from pipeline.tasks.ali_score import score_alignment
from pipeline.tasks.tiers import AliTiers, GoldTiers

LANG = make_lang(Lexicon([Pronunciation("AB", ("a", "b")), Pronunciation("BA", ("b", "a"))]))
PHONES = [("a", 0.103, 0.05), ("b", 0.153, 0.012), ("b", 0.3, 0.1), ("a", 0.4, 0.2)]
WORDS = [("AB", 0.103, 0.062), ("BA", 0.3, 0.3)]


def save(directory, phones=PHONES, words=WORDS, samples=11200):
    import numpy as np
    import soundfile

    from pipeline.artifacts.corpus import audio_recording

    directory.mkdir()
    soundfile.write(directory / "u.wav", np.zeros(samples), 16000)
    cut = utterance(
        "u",
        audio_recording("u", directory / "u.wav"),
        "AB BA",
        "s",
        [Span(*w) for w in words],
        [Span(*p) for p in phones],
    )
    save_data_dir(directory / "data", [cut])
    return directory / "data"


@pytest.mark.parametrize("shift", [0.01, 0.005])
def test_times_come_back(tmp_path, shift):
    data = save(tmp_path / "d")
    assert import_times(data, LANG, tmp_path / "ali", shift) == 1
    ali = AliSet.load(tmp_path / "ali")
    spoken = [s for s in ali.phones("u") if s.symbol != "SIL"]
    assert [s.symbol for s in spoken] == [p[0] for p in PHONES]
    for found, (_, start, duration) in zip(spoken, PHONES):
        assert found.start == pytest.approx(start, abs=shift / 2 + 1e-6)
        assert found.end == pytest.approx(start + duration, abs=shift / 2 + 1e-6)
    for found, (word, start, duration) in zip(ali.words("u"), WORDS):
        assert found.symbol == word and found.start == pytest.approx(start, abs=shift / 2 + 1e-6)
        assert found.end == pytest.approx(start + duration, abs=shift / 2 + 1e-6)
    score = score_alignment(AliTiers(ali), GoldTiers(data), AliScoreOptions())
    assert score is not None
    pdfs = ali.pdf_ids("u")
    a = slice(round(0.4 / shift), round(0.6 / shift))
    assert len(set(pdfs[a].tolist())) == 3  # all three states, evenly
    assert sorted(pdfs[a].tolist()) == pdfs[a].tolist()


def test_what_is_missing(tmp_path):
    data = save(tmp_path / "d", phones=[("x", 0.1, 0.2)])
    with pytest.raises(DataError, match="u: phone 'x' is not in the lang"):
        import_times(data, LANG, tmp_path / "ali", 0.01)
    data = save(tmp_path / "e", phones=[])
    with pytest.raises(DataError, match="no phone has a time"):
        import_times(data, LANG, tmp_path / "ali", 0.01)


# What the page of an utterance saves, tests/experiments/test_html_browser.py.
SAVED = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 0.7
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "utterance-id"
        xmin = 0
        xmax = 0.7
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 0.7
            text = "NAME"
    item [2]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 0.7
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.1
            text = ""
        intervals [2]:
            xmin = 0.1
            xmax = 0.3
            text = "AB"
        intervals [3]:
            xmin = 0.3
            xmax = 0.7
            text = "BA"
    item [3]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 0.7
        intervals: size = 6
        intervals [1]:
            xmin = 0
            xmax = 0.1
            text = "SIL"
        intervals [2]:
            xmin = 0.1
            xmax = 0.2
            text = "a"
        intervals [3]:
            xmin = 0.2
            xmax = 0.3
            text = "b"
        intervals [4]:
            xmin = 0.3
            xmax = 0.5
            text = "b"
        intervals [5]:
            xmin = 0.5
            xmax = END
            text = "a"
        intervals [6]:
            xmin = END
            xmax = 0.7
            text = "SIL"
"""


def saved(place, name="u", end="0.6", all="0.7"):
    place.mkdir()
    (place / "some.TextGrid").write_text(SAVED.replace("NAME", name).replace("END", end).replace("0.7", all))
    return place


@pytest.mark.parametrize(
    "position, names", [("none", "a b b a"), ("word_end", "a b_E b a_E"), ("full", "a_B b_E b_B a_E")]
)
def test_labels_stand_in_for_gold_times(tmp_path, position, names):
    """A TextGrid with the id in a tier of its own, and phones without the markers of the lang."""
    entries = [Pronunciation("AB", ("a", "b")), Pronunciation("BA", ("b", "a"))]
    lang = make_lang(Lexicon(entries), position=position)
    data = save(tmp_path / "d", phones=[])
    assert import_times(data, lang, tmp_path / "ali", 0.01, saved(tmp_path / "labels")) == 1
    ali = AliSet.load(tmp_path / "ali")
    spoken = [s for s in ali.phones("u") if s.symbol != "SIL"]
    assert " ".join(s.symbol for s in spoken) == names
    assert [s.start for s in spoken] == pytest.approx([0.1, 0.2, 0.3, 0.5]) and spoken[-1].end == pytest.approx(0.6)
    assert [w.start for w in ali.words("u")] == pytest.approx([0.1, 0.3])


def test_labels_of_something_else(tmp_path):
    data = save(tmp_path / "d")
    with pytest.raises(DataError, match="stranger: no such utterance in"):
        import_times(data, LANG, tmp_path / "ali", 0.01, saved(tmp_path / "a", name="stranger"))
    longer = saved(tmp_path / "b", end="0.8", all="0.9")
    with pytest.raises(MismatchError, match="labels end at 0.90 s, .* at 0.70 s; they are of other audio"):
        import_times(data, LANG, tmp_path / "ali", 0.01, longer.joinpath("some.TextGrid"))


def test_labels_of_several_at_once_are_no_alignment(tmp_path):
    """One sequence of phones cannot hold what two speakers say at the same time."""
    from praatio import textgrid

    grid = textgrid.Textgrid(0.0, 0.7)
    for name, phones in (("ann - phones", [(0.1, 0.3, "a"), (0.3, 0.5, "b")]), ("bob - phones", [(0.4, 0.6, "a")])):
        grid.addTier(textgrid.IntervalTier(name, phones, 0.0, 0.7))
    grid.save(str(tmp_path / "u.TextGrid"), "long_textgrid", includeBlankSpaces=True)
    with pytest.raises(DataError, match=r"u.TextGrid: u: 'b' and 'a' overlap at 0.40 s"):
        import_times(save(tmp_path / "d"), LANG, tmp_path / "ali", 0.01, tmp_path / "u.TextGrid")


def test_a_phone_outside_all_words_has_no_place_in_one(tmp_path):
    lang = make_lang(Lexicon([Pronunciation("AB", ("a", "b")), Pronunciation("BA", ("b", "a"))]), position="word_end")
    data = save(tmp_path / "d", words=[("AB", 0.103, 0.062), ("BA", 0.45, 0.1)])
    with pytest.raises(DataError, match="u: phone 'b' at 0.30 s is in no word"):
        import_times(data, lang, tmp_path / "ali", 0.01)


def test_words_without_times_start_where_their_phones_do(tmp_path):
    data = save(tmp_path / "d", words=[])
    import_times(data, LANG, tmp_path / "ali", 0.01)
    assert [(w.symbol, w.start) for w in AliSet.load(tmp_path / "ali").words("u")] == [("AB", 0.1), ("BA", 0.3)]


def test_words_that_the_phones_do_not_spell_have_no_times(tmp_path, caplog):
    """And nothing is put at the beginning in their place."""
    data = save(tmp_path / "d", phones=[*PHONES[:2], ("b", 0.3, 0.3)], words=[])
    import_times(data, LANG, tmp_path / "ali", 0.01)
    ali = AliSet.load(tmp_path / "ali")
    assert ali.words("u") == [] and "1 of 1 utterances have no times of words" in caplog.text
    assert [p.symbol for p in ali.phones("u") if p.symbol != "SIL"] == ["a", "b", "b"]


def test_one_word_without_a_time_is_an_error(tmp_path):
    data = save(tmp_path / "d", words=WORDS[:1])
    with pytest.raises(DataError, match="u: 1 words have times, and the transcript has 2"):
        import_times(data, LANG, tmp_path / "ali", 0.01)


def test_phones_that_look_like_positions_keep_their_names(tmp_path):
    """Endings are taken off only where the lang has positions."""
    from pipeline.tasks.ali_formats import timed_cuts

    names = {"a": "t_S", "b": "x_E"}
    entries = [Pronunciation("AB", ("t_S", "x_E")), Pronunciation("BA", ("x_E", "t_S"))]
    data = save(tmp_path / "d", phones=[(names[p], *times) for p, *times in PHONES])
    import_times(data, make_lang(Lexicon(entries)), tmp_path / "ali", 0.01)
    ali = AliSet.load(tmp_path / "ali")
    (cut,) = timed_cuts(ali)
    wanted = [names[p] for p, *_ in PHONES]
    assert [p.symbol for p in cut.phones if p.symbol != "SIL"] == wanted
    assert [p.symbol for p in AliTiers(ali)["u"].phones if p.symbol != "SIL"] == wanted


@pytest.mark.parametrize("shift", [0.01, 0.005, 55 / 16000])
@pytest.mark.parametrize("samples", [16080, 16079, 16040, 16027, 16028])
def test_frames_are_those_of_features(tmp_path, shift, samples):
    """Halves of a shift count as lhotse counts them."""
    import numpy as np
    from lhotse import Fbank, FbankConfig

    data = save(tmp_path / "d", samples=samples)
    import_times(data, LANG, tmp_path / "ali", shift)
    extractor = Fbank(FbankConfig(frame_shift=shift, frame_length=0.025))
    features = extractor.extract(np.zeros((1, samples), dtype=np.float32), 16000)
    assert AliSet.load(tmp_path / "ali").num_frames("u") == len(features)


def test_phones_between_the_middles_of_frames_have_one_frame(tmp_path):
    """At 40 ms, b lies between two middles, and so does the word after it that is as short."""
    phones = [("a", 0.1, 0.045), ("b", 0.145, 0.013), ("b", 0.158, 0.012), ("a", 0.17, 0.2)]
    data = save(tmp_path / "d", phones=phones, words=[("AB", 0.1, 0.058), ("BA", 0.158, 0.212)])
    import_times(data, LANG, tmp_path / "ali", 0.04)
    ali = AliSet.load(tmp_path / "ali")
    names = ["SIL", "a", "b", "b", "a", "SIL"]
    assert [(p.symbol, round(p.start, 3), round(p.end, 3)) for p in ali.phones("u")] == list(
        zip(names, [0.0, 0.08, 0.16, 0.2, 0.24, 0.36], [0.08, 0.16, 0.2, 0.24, 0.36, 0.72])
    )
    assert [(w.symbol, round(w.start, 3)) for w in ali.words("u")] == [("AB", 0.08), ("BA", 0.2)]


def test_more_phones_than_frames_are_refused(tmp_path):
    data = save(tmp_path / "d")
    with pytest.raises(DataError, match="u: 4 frames of 200 ms are too few for 6 phones"):
        import_times(data, LANG, tmp_path / "ali", 0.2)
