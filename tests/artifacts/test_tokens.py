"""Tokens: round trips, the rule that words are spelt one by one, and every validator on broken input."""

from __future__ import annotations

import json

import pytest

from pipeline.artifacts.tokens import BLANK_ID, EOS_ID, UNK_ID, TokenOptions, Tokens, train_tokens
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.files import content_id, read_json

TEXT = ["THE LONG HOUSE", "FIVE ONE EIGHT TWO SIX", "þÆTTI ÖLL HÚSIN", "IT'S THE SIX LONG HOUSES", "ONE"]
SENTENCES = [line.split() for line in TEXT]
SIZES = {"char": 100, "bpe": 45, "unigram": 45}


@pytest.fixture(params=sorted(SIZES))
def tokens(request) -> Tokens:
    return train_tokens(SENTENCES, TokenOptions(unit=request.param, vocab_size=SIZES[request.param]))


def test_texts_come_back(tokens, tmp_path):
    assert tokens.pieces[:3] == ["<blk>", "<sos/eos>", "<unk>"]
    if tokens.unit == "bpe":
        assert len(tokens) == SIZES["bpe"]
    tokens.save(tmp_path / "a")
    again = Tokens.load(tmp_path / "a")
    assert (again.id, again.pieces, len(again)) == (tokens.id, tokens.pieces, len(tokens))
    for text in TEXT:
        ids = tokens.encode(text)
        assert min(ids) > UNK_ID
        assert again.encode(text) == ids
        assert tokens.decode([EOS_ID, *ids[:2], BLANK_ID, *ids[2:], EOS_ID]) == text
    again.save(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_text_is_its_words(tokens):
    starts = tokens.starts_word()
    for text in TEXT:
        ids = tokens.encode(text)
        assert ids == [i for word in text.split() for i in tokens.encode(word)]
        assert sum(starts[i] for i in ids) == len(text.split())
        assert starts[ids[0]]


def test_unknown_characters(tokens):
    ids = tokens.encode("ONE QUIZ")
    assert UNK_ID in ids and BLANK_ID not in ids
    assert "<unk>" in tokens.decode(ids)
    assert tokens.encode("") == [] and tokens.decode([]) == ""


def test_the_word_for_what_nobody_understood(tokens):
    """<unk> in transcripts is the unknown token, and no piece is made for it."""
    options = TokenOptions(unit=tokens.unit, vocab_size=SIZES[tokens.unit])
    assert train_tokens([["<unk>", *words] for words in SENTENCES] + [["<unk>"]], options).id == tokens.id
    assert tokens.encode("ONE <unk> ONE") == [*tokens.encode("ONE"), UNK_ID, *tokens.encode("ONE")]


def test_training_is_reproducible():
    for unit, size in SIZES.items():
        options = TokenOptions(unit=unit, vocab_size=size)
        assert train_tokens(SENTENCES, options).id == train_tokens(SENTENCES, options).id


@pytest.mark.parametrize("size", [8, 5000])
def test_impossible_sizes(size):
    with pytest.raises(ConfigError, match=f"no {size} tokens can be made of 5 sentences"):
        train_tokens(SENTENCES, TokenOptions(unit="bpe", vocab_size=size))


def test_the_mark_in_a_text():
    with pytest.raises(DataError, match="marks where words begin"):
        train_tokens([["A▁B"]], TokenOptions(unit="char"))


@pytest.mark.parametrize(
    "line, new, message",
    [
        (1, "<eps> 0", "tokens.txt:1: token 0 must be <blk>"),
        (3, "<unk> 7", "tokens.txt:3: expected a token and the id 2"),
        (3, "2", "tokens.txt:3: expected a token and the id 2"),
        (8, "B 7", "tokens.txt:8: token 'B' stands twice"),
        (8, "DD 7", "'DD' is no character"),
        (8, "X 7", "were changed after"),
        (4, "X 3", "'▁' is missing"),
    ],
)
def test_broken_tables(tmp_path, line, new, message):
    train_tokens([["ABCDE"]], TokenOptions(unit="char")).save(tmp_path)
    lines = (tmp_path / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert lines[7] == "D 7"
    lines[line - 1] = new
    (tmp_path / "tokens.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        Tokens.load(tmp_path)


def test_an_empty_table(tmp_path):
    train_tokens([["A"]], TokenOptions(unit="char")).save(tmp_path)
    (tmp_path / "tokens.txt").write_text("<blk> 0\n<sos/eos> 1\n<unk> 2\n")
    with pytest.raises(DataError, match="holds no tokens"):
        Tokens.load(tmp_path)


def test_broken_directories(tmp_path):
    bpe = train_tokens(SENTENCES, TokenOptions(unit="bpe", vocab_size=45))
    other = train_tokens(SENTENCES, TokenOptions(unit="unigram", vocab_size=45))
    bpe.save(tmp_path / "bpe")
    other.save(tmp_path / "other")
    model = (tmp_path / "bpe" / "bpe.model").read_bytes()
    (tmp_path / "bpe" / "bpe.model").write_bytes((tmp_path / "other" / "bpe.model").read_bytes())
    with pytest.raises(DataError, match="bpe.model has"):
        Tokens.load(tmp_path / "bpe")
    (tmp_path / "bpe" / "bpe.model").write_bytes(model[:-20])
    with pytest.raises(DataError, match="bpe.model"):
        Tokens.load(tmp_path / "bpe")
    (tmp_path / "bpe" / "bpe.model").write_bytes(b"")
    with pytest.raises(DataError, match="bpe.model is no sentencepiece model"):
        Tokens.load(tmp_path / "bpe")
    (tmp_path / "bpe" / "bpe.model").unlink()
    with pytest.raises(DataError, match="bpe.model: no such file"):
        Tokens.load(tmp_path / "bpe")
    facts = tmp_path / "other" / "tokens.json"
    facts.write_text(json.dumps({"unit": "words", "id": content_id([])}))
    with pytest.raises(DataError):
        Tokens.load(tmp_path / "other")
    facts.write_text("[]")
    with pytest.raises(DataError, match='needs "unit"'):
        Tokens.load(tmp_path / "other")


def test_language_models_over_tokens(tmp_path, run_script):
    from pathlib import Path

    from pipeline.artifacts.arpa import Arpa

    steps = Path(__file__).resolve().parents[2] / "steps"
    (tmp_path / "text").write_text("\n".join(TEXT) + "\n", encoding="utf-8")
    done = run_script(steps / "train_tokens.py", "text", "tokens", "--unit", "bpe", "--vocab-size", "45")
    assert done.returncode == 0, done.stderr
    done = run_script(steps / "train_lm.py", "text", "tokens", "lm", "--order", "2", "--dev", "text")
    assert done.returncode == 0, done.stderr
    tokens, arpa = Tokens.load(tmp_path / "tokens"), Arpa.load(tmp_path / "lm" / "lm.arpa")
    assert set(arpa.words()) <= set(tokens.pieces) and len(arpa.words()) > 20
    assert tokens.spell(["ONE"]) == [tokens.pieces[i] for i in tokens.encode("ONE")]
    assert run_script(steps / "train_tokens.py", "text", "other", "--vocab-size", "4000").returncode == 2
    # Without the sentences of another text, whatever blanks stand between its words.
    (tmp_path / "heard").write_text("\n".join(TEXT[1:]).replace(" ", "  ") + "\n", encoding="utf-8")
    for left_out, returned in (("heard", 0), ("text", 2)):
        done = run_script(
            steps / "train_lm.py", "text", "tokens", f"without_{left_out}", "--order", "1", "--leave-out", left_out
        )
        assert done.returncode == returned, done.stderr
    assert "has no sentence that" in done.stderr and not (tmp_path / "without_text").exists()
    facts = read_json(tmp_path / "without_heard" / "stamp.json")["facts"]
    assert facts["words"] == TEXT.count(TEXT[0]) * len(tokens.spell(TEXT[0].split()))
