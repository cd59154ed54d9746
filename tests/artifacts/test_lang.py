"""Lang directories: construction, round trip, and refusal of tampered files."""

from __future__ import annotations

import json

import pytest

from pipeline.artifacts.lang import Lang, make_lang, position_of, without_position
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.topo import PhoneTopo, Topo
from pipeline.base.errors import DataError

LEXICON = Lexicon(
    [Pronunciation("A", ("AH",)), Pronunciation("A", ("EY",), 0.5), Pronunciation("CAT", ("K", "AE", "T"))]
)


def test_make_lang_orders_symbols():
    lang = make_lang(LEXICON, oov_word="<UNK>")
    assert list(lang.phones) == ["<eps>", "SIL", "SPN", "AE", "AH", "EY", "K", "T"]
    assert list(lang.words) == ["<eps>", "<UNK>", "A", "CAT"]
    assert lang.topo["SIL"].num_states == 1 and lang.topo["AH"].num_states == 3


def test_word_end_positions_mark_only_the_last_phone():
    lang = make_lang(LEXICON, position="word_end")
    assert lang.lexicon.by_word["CAT"][0].phones == ("K", "AE", "T_E")
    assert lang.base_phone("T_E") == "T" and lang.base_phone("K") == "K"
    assert make_lang(LEXICON).base_phone("T_E") == "T_E"


def test_full_positions_are_kaldi_s_four():
    lang = make_lang(LEXICON, position="full", oov_word="<UNK>")
    assert [e.phones for e in lang.lexicon.by_word["A"]] == [("AH_S",), ("EY_S",)]
    assert lang.lexicon.by_word["CAT"][0].phones == ("K_B", "AE_I", "T_E")
    assert lang.lexicon.by_word["<UNK>"][0].phones == ("SPN",)
    assert {p: lang.base_phone(p) for p in lang.phones} == lang.base_phones() | {"<eps>": "<eps>"}
    assert sorted(set(lang.base_phones().values())) == ["AE", "AH", "EY", "K", "SIL", "SPN", "T"]
    marked = ("K_B", "AE_I", "T_E", "AH_S", "SIL", "X_")
    assert [without_position(p, "full") for p in marked] == ["K", "AE", "T", "AH", "SIL", "X_"]
    assert [without_position(p, "word_end") for p in marked] == ["K_B", "AE_I", "T", "AH_S", "SIL", "X_"]
    assert [without_position(p, "none") for p in marked] == list(marked)


@pytest.mark.parametrize("position", ["none", "word_end", "full"])
@pytest.mark.parametrize("phones", [("K", "t_S"), ("a", "b")])
def test_names_of_phones_tell_the_position(position, phones):
    if position == "full" and "t_S" in phones:
        pytest.skip("make_lang refuses such names")
    lang = make_lang(Lexicon([Pronunciation("X", phones), Pronunciation("Y", phones[:1])]), "phone", position, "<UNK>")
    assert position_of(lang.phones) == position


@pytest.mark.parametrize("position, phone", [("word_end", "T_E"), ("full", "T_B"), ("full", "T_E")])
def test_phones_that_look_like_positions_are_refused(position, phone):
    with pytest.raises(DataError, match="position marker"):
        make_lang(Lexicon([Pronunciation("A", (phone,))]), position=position)


@pytest.mark.parametrize(
    "kwargs", [{}, {"position": "full"}, {"position": "word_end"}, {"oov_word": "<UNK>"}, {"silence_prob": 0.0}]
)
def test_round_trip(tmp_path, kwargs):
    lang = make_lang(LEXICON, **kwargs)
    lang.save(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    again = Lang.load(tmp_path)
    assert again.id == lang.id
    again.save(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_ids_differ_when_anything_differs():
    ids = {
        make_lang(LEXICON, **k).id
        for k in (
            {},
            {"silence_prob": 0.4},
            {"speech_states": 1},
            {"position": "word_end"},
            {"position": "full"},
            {"oov_word": "<UNK>"},
            {"unit": "grapheme"},
        )
    }
    assert len(ids) == 7


def test_transcripts():
    lang = make_lang(LEXICON)
    assert lang.word_ids("A CAT A", "x") == [1, 2, 1]
    with pytest.raises(DataError, match="cuts: u1: word 'DOG' is not in the lexicon"):
        lang.word_ids("A DOG", "cuts: u1")
    with pytest.raises(DataError, match="cuts: u1: the transcript is empty"):
        lang.word_ids("  ", "cuts: u1")
    with_oov = make_lang(LEXICON, oov_word="<UNK>")
    assert with_oov.word_ids("DOG", "x") == [with_oov.words.id("<UNK>")]


@pytest.mark.parametrize("phone", ["SIL", "SPN", "#1"])
def test_reserved_phones_are_refused(phone):
    with pytest.raises(DataError):
        make_lang(Lexicon([Pronunciation("X", (phone,))]))


def _edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    "name, old, new, message",
    [
        ("lexiconp.txt", "K AE T", "K AE TH", r"lexiconp.txt:3: phone 'TH' of word 'CAT' is not in phones.txt"),
        ("lexiconp.txt", "CAT", "DOG", r"lexiconp.txt:3: word 'DOG' is not in words.txt"),
        ("phones.txt", "SIL", "XIL", r"silence phone 'SIL' is missing"),
        ("words.txt", "CAT 2", "CAT 2\nDOG 3", r"word 'DOG' has no pronunciation"),
        ("topo.json", '"AH"', '"AX"', r"phone 'AH' has no topology"),
        ("lang.json", '"silence_prob": 0.5', '"silence_prob": 0.4', r"files were changed after the lang was made"),
    ],
)
def test_tampered_files_are_named(tmp_path, name, old, new, message):
    make_lang(LEXICON).save(tmp_path)
    _edit(tmp_path / name, old, new)
    with pytest.raises(DataError, match=message):
        Lang.load(tmp_path)


def test_topo_validates(tmp_path):
    with pytest.raises(DataError, match="outside"):
        Topo({"A": PhoneTopo((0,), 1.0)})
    with pytest.raises(DataError, match="one number >= 0 per state"):
        Topo({"A": PhoneTopo((), 0.5)})
    topo = Topo({"A": PhoneTopo((0, 0), 0.5), "B": PhoneTopo((0, 1), 0.5)})
    topo.save(tmp_path / "topo.json")
    assert Topo.load(tmp_path / "topo.json").id == topo.id
    data = json.loads((tmp_path / "topo.json").read_text())
    data["entries"][0]["phones"].append("B")
    (tmp_path / "topo.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match="'B' has two topologies"):
        Topo.load(tmp_path / "topo.json")
