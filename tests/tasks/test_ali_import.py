"""Known times as alignments: they come back as they were, to half a frame."""

from __future__ import annotations

import pytest

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.corpus import Span, save_data_dir, utterance
from pipeline.artifacts.lang import make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.base.errors import DataError
from pipeline.graph.options import AliScoreOptions
from pipeline.tasks.ali_import import import_times
from pipeline.tasks.ali_score import score_alignment
from pipeline.tasks.tiers import AliTiers, GoldTiers

LANG = make_lang(Lexicon([Pronunciation("AB", ("a", "b")), Pronunciation("BA", ("b", "a"))]))
PHONES = [("a", 0.103, 0.05), ("b", 0.153, 0.012), ("b", 0.3, 0.1), ("a", 0.4, 0.2)]
WORDS = [("AB", 0.103, 0.062), ("BA", 0.3, 0.3)]


def save(directory, phones=PHONES, words=WORDS):
    import numpy as np
    import soundfile

    from pipeline.artifacts.corpus import audio_recording

    directory.mkdir()
    soundfile.write(directory / "u.wav", np.zeros(11200), 16000)
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
