"""Searches with the real models, and the decoding step around them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from pipeline.artifacts.features import FeatLoadOptions, FeatureFacts
from pipeline.artifacts.hyp import load_hypotheses, load_nbest
from pipeline.artifacts.tokens import TokenOptions, Tokens, train_tokens
from pipeline.base.errors import ConfigError, DataError, MismatchError
from pipeline.e2e.model import EndToEnd, load_end_to_end, save_end_to_end
from pipeline.e2e.options import EndToEndOptions
from pipeline.e2e.rnnt import rnnt_loss
from pipeline.e2e.search.options import SearchOptions
from pipeline.e2e.search.results import Found, Weights
from pipeline.nn import windows
from pipeline.tasks.decode_e2e import (
    DecodedTokens,
    check_inputs,
    choose_method,
    choose_weights,
    decode,
    grid,
    latency,
    load_lm,
    read_weights,
    report,
    search,
    spool_of,
)
from pipeline.tasks.score import Errors
from tests.nn.conftest import tones  # noqa: F401

from .toys import ctc_log_prob

SMALL = dict(
    encoder="blstm",
    layers=1,
    dim=6,
    subsampling=3,
    embedding_dim=5,
    decoder_dim=7,
    attention_heads=2,
    attention_dim=8,
    joint_dim=6,
)
TOKENS = train_tokens([["AB", "CA", "BC"]], TokenOptions(unit="char"))
MODELS = {
    "ctc": {},
    "attention": {},
    "transducer": {},
    "stateless": dict(model="transducer", predictor="stateless", ctc=False),
}


def make(name: str, features: int = 4, **shape) -> EndToEnd:
    torch.manual_seed(0)
    model = EndToEnd(features, len(TOKENS), EndToEndOptions(**{"model": name, **SMALL, **MODELS[name], **shape})).eval()
    for parameter in model.parameters():  # away from uniform distributions
        parameter.data.mul_(2.0)
    return model


def encode(model: EndToEnd) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    with torch.no_grad():
        return model.encode(torch.randn(2, 14, 4), torch.tensor([14, 8]))


@torch.no_grad()
def test_attention_scores_are_those_of_teacher_forcing():
    model = make("attention")
    encoded, lens = encode(model)
    weights = Weights(ctc=0.3, length=0.5)
    found = search(model, encoded, lens, SearchOptions(beam=4, nbest=3), "attention", weights, None)
    for n in range(2):
        assert len(found[n]) == 3
        for f in found[n]:
            tokens = torch.tensor([f.tokens], dtype=torch.long)
            forced = model.decoder(encoded[n : n + 1], lens[n : n + 1], tokens)[0]
            attention = sum(float(forced[u, t]) for u, t in enumerate((*f.tokens, 1)))
            ctc = ctc_log_prob(model.ctc_log_probs(encoded)[n, : int(lens[n])], f.tokens)
            assert f.model == pytest.approx(0.7 * attention + 0.3 * ctc, abs=1e-3)
            assert f.total == pytest.approx(f.model + 0.5 * len(f.tokens), abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", ["transducer", "stateless"])
def test_transducer_scores_are_those_of_the_loss(name):
    model = make(name)
    encoded, lens = encode(model)
    options = SearchOptions(beam=300, nbest=3, max_symbols=6)
    found = search(model, encoded, lens, options, "transducer_beam", Weights(), None)
    for n in range(2):
        for f in found[n]:
            tokens = torch.tensor([f.tokens], dtype=torch.long)
            logits = model.transducer.logits(encoded[n : n + 1], model.transducer.predict(tokens))
            loss = rnnt_loss(logits, lens[n : n + 1], tokens, torch.tensor([len(f.tokens)]))
            # A beam can only miss paths.
            assert -float(loss) - 0.05 < f.model < -float(loss) + 1e-3


@torch.no_grad()
@pytest.mark.parametrize(
    "method, name",
    [
        ("ctc_greedy", "ctc"),
        ("ctc_prefix", "attention"),
        ("transducer_greedy", "stateless"),
        ("transducer_one", "transducer"),
    ],
)
def test_all_methods_run(method, name):
    model = make(name)
    encoded, lens = encode(model)
    found = search(model, encoded, lens, SearchOptions(beam=3), method, Weights(), None)
    assert len(found) == 2 and all(len(f) == 1 for f in found)


@torch.no_grad()
@pytest.mark.parametrize("context", [1, 2, 3])
def test_best_paths(context):
    """Against all paths with one token per frame, by recursion over frames and tokens; alone and in a batch."""
    model = make("stateless", predictor_context=context)
    encoded, lens = encode(model)
    encoded, lens = encoded[:, :4], lens.clamp(max=4)
    assert lens.tolist() == [4, 3]
    found = search(model, encoded, lens, SearchOptions(beam=200), "transducer_viterbi", Weights(), None)
    for n in range(2):
        paths = {(): 0.0}
        for t in range(int(lens[n])):
            new: dict = {}
            for tokens, score in paths.items():
                pred = model.transducer.predict(torch.tensor([tokens], dtype=torch.long))[:, -1]
                row = model.transducer.joint(encoded[n, t][None], pred)[0]
                new[tokens] = max(new.get(tokens, -1e9), score + float(row[0]))
                for token in range(3, len(TOKENS)):
                    new[(*tokens, token)] = max(new.get((*tokens, token), -1e9), score + float(row[token]))
            paths = new
        best = max(paths, key=paths.get)
        assert found[n][0].tokens == best and found[n][0].total == pytest.approx(paths[best], abs=1e-3)
        alone = encoded[n : n + 1, : int(lens[n])], lens[n : n + 1]
        for beam in (1, 3, 200):
            one = search(model, *alone, SearchOptions(beam=beam), "transducer_viterbi", Weights(), None)[0][0]
            both = search(model, encoded, lens, SearchOptions(beam=beam), "transducer_viterbi", Weights(), None)
            assert one.tokens == both[n][0].tokens and one.total == pytest.approx(both[n][0].total, abs=1e-5)
            assert one.total <= found[n][0].total + 1e-6


def test_methods_that_do_not_fit():
    assert [choose_method(make(n), SearchOptions()) for n in MODELS] == [
        "ctc_prefix",
        "attention",
        "transducer_beam",
        "transducer_beam",
    ]
    with pytest.raises(ConfigError, match="no CTC output"):
        choose_method(make("stateless"), SearchOptions(method="ctc_greedy"))
    with pytest.raises(ConfigError, match="the model has ctc"):
        choose_method(make("ctc"), SearchOptions(method="attention"))
    with pytest.raises(ConfigError, match="needs a stateless predictor"):
        choose_method(make("transducer"), SearchOptions(method="transducer_viterbi"))
    with pytest.raises(ConfigError, match="takes no language model"):
        grid("ctc_greedy", make("ctc"), SearchOptions(), True)


def test_weights_that_are_tried():
    options = SearchOptions(
        ctc_weights=(0.2, 0.4), lm_weights=(0.0, 0.5), length_bonuses=(0.0, 1.0), ilm_weights=(0.0, 0.1)
    )
    assert len(grid("attention", make("attention"), options, True)) == 8
    assert len(grid("attention", make("attention", ctc=False), options, False)) == 2
    assert len(grid("transducer_beam", make("transducer"), options, True)) == 8
    assert grid("ctc_greedy", make("ctc"), options, False) == [Weights()]
    errors = {
        Weights(lm=0.5): Errors(10, 1, 0, 0),
        Weights(lm=0.2): Errors(10, 0, 0, 1),
        Weights(): Errors(10, 2, 0, 0),
    }
    assert choose_weights(errors) == Weights(lm=0.2)
    with pytest.raises(ValueError, match="ctc_weights"):
        SearchOptions(ctc_weights=(1.5,))


def test_latency():
    assert latency(make("ctc"), 0.01) is None
    model = make("ctc", encoder="lc_blstm", chunk=8, right_context=4)
    assert latency(model, 0.01) == pytest.approx((8 + 4) * 3 * 0.01)
    behind_convolutions = make("ctc", encoder="lc_blstm", chunk=8, right_context=4, subsampling=1, vgg=(2, 2))
    assert latency(behind_convolutions, 0.01) == pytest.approx(((8 + 4) * 4 + 2 * 1 + 2 * 2) * 0.01)


def saved(directory: Path, data: Path) -> Path:
    kind = FeatureFacts.load(data).kind
    model = make("attention", features=kind.dim)
    save_end_to_end(directory / "model", model, TOKENS.id, kind, FeatLoadOptions(), [])
    TOKENS.save(directory / "tokens")
    return directory / "model"


def test_a_data_directory(tones, tmp_path):
    model, meta = load_end_to_end(saved(tmp_path, tones.data))
    options = SearchOptions(beam=2, nbest=2, max_length=0.3)
    weights = [Weights(ctc=0.3), Weights(ctc=0.3, length=1.0)]
    found = decode(model, meta, tones.data, options, "attention", weights)
    hyps, facts = report(found, TOKENS, tmp_path, options)
    assert load_hypotheses(tmp_path) == hyps and len(hyps) == 24
    assert [h.ref for h in hyps] == [found.refs[h.cut_id][1] for h in hyps]
    lists = load_nbest(tmp_path)
    assert [x.alternatives[0].words for x in lists] == [h.hyp for h in hyps]
    assert facts["real_time_factor"] > 0 and found.audio_seconds == pytest.approx(sum(_durations(tones.data)), abs=0.5)
    best = json.loads((tmp_path / "best.json").read_text())
    assert read_weights(tmp_path, "attention", False) == Weights(**best["weights"]) and len(best["tried"]) == 2
    assert min(t["wer"] for t in best["tried"]) == pytest.approx(facts["wer"], abs=1e-3)
    again = decode(model, meta, tones.data, options, "attention", [weights[1]])
    assert again.found[weights[1]] == found.found[weights[1]]
    other = dataclasses.replace(meta, features=dataclasses.replace(meta.features, dim=40))
    with pytest.raises(MismatchError, match="model and .* do not belong together: dim of their features is 40 and 16"):
        check_inputs(other, tmp_path / "model", TOKENS, tmp_path / "tokens", tones.data)


def test_long_recordings_pass_the_encoder_in_windows(tones, tmp_path, monkeypatch):
    """An encoder with attention needs the square of what it sees at once, to decode and to align."""
    from pipeline.e2e.scorer import EmittingScorer

    model, meta = load_end_to_end(saved(tmp_path, tones.data))
    seen: list[int] = []
    real = model.encode
    monkeypatch.setattr(model, "encode", lambda feats, lens: seen.append(feats.shape[1]) or real(feats, lens))
    for name, value in (("LONGEST", 60), ("WINDOW", 30), ("OVERLAP", 9)):
        monkeypatch.setattr(windows, name, value)
    found = decode(model, meta, tones.data, SearchOptions(method="ctc_greedy"), "ctc_greedy", [Weights()])
    assert len(found.spool.ids()) == 24 and max(seen) <= 60
    seen.clear()
    scorer = EmittingScorer.__new__(EmittingScorer)
    scorer.model, scorer.device, scorer.head = model, "cpu", "attention"
    _, lens = scorer.emission_frames(torch.randn(1, 200, 16), torch.tensor([200]), [[3, 4]])
    assert lens == [67] and max(seen) <= 60


def _durations(data: Path) -> list[float]:
    from pipeline.artifacts.corpus import iter_cuts

    return [cut["duration"] for _, cut in iter_cuts(data)]


def test_nbest_lists_hold_words_once():
    a, b = TOKENS.encode("AB"), TOKENS.encode("CA")
    found = [
        Found(tuple(a), -1.0, 0.0, -1.0),
        Found((*a[:1], 0, *a[1:]), -2.0, 0.0, -2.0),
        Found(tuple(b), -3.0, 0.0, -3.0),
    ]
    spool = spool_of([Weights()])
    spool.put("u", [found])
    decoded = DecodedTokens(spool, {"u": ("s", ("AB",))})
    lists = list(decoded.nbest_lists(Weights(), TOKENS))
    assert [a.words for a in lists[0].alternatives] == [("AB",), ("CA",)]
    assert lists[0].alternatives[0].acoustic == -1.0


def test_weights_of_another_kind(tmp_path):
    (tmp_path / "best.json").write_text(json.dumps({"lm_weight": 10, "word_penalty": 0.0}))
    with pytest.raises(DataError, match="names no weights of an end-to-end model"):
        read_weights(tmp_path, "attention", True)

    def write(weights):
        (tmp_path / "best.json").write_text(json.dumps({"weights": asdict(weights), "tried": [asdict(weights)]}))

    write(Weights(lm=0.5))
    assert read_weights(tmp_path, "attention", True) == Weights(lm=0.5)
    with pytest.raises(MismatchError, match="with a language model, but this one is without"):
        read_weights(tmp_path, "attention", False)
    write(Weights(length=1.0))
    with pytest.raises(MismatchError, match="without a language model, but this one is with"):
        read_weights(tmp_path, "attention", True)
    with pytest.raises(MismatchError, match="--method ctc_greedy takes none"):
        read_weights(tmp_path, "ctc_greedy", False)
    write(Weights(ilm=0.3))
    with pytest.raises(MismatchError, match="weights of a transducer"):
        read_weights(tmp_path, "attention", False)


def test_the_step(tones, tmp_path, run_script):
    from tests.conftest import ROOT

    saved(tmp_path, tones.data)
    command = [
        ROOT / "steps" / "decode_e2e.py",
        "model",
        "tokens",
        tones.data,
        "out",
        "--method",
        "ctc_greedy",
        "--id",
        "e2e",
        "--part",
        "dev",
    ]
    done = run_script(*command)
    assert done.returncode == 0, done.stderr
    assert "real-time factor" in done.stderr and "%WER" in (tmp_path / "out" / "wer.txt").read_text()
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(r["id"], r["part"], r["metric"]) for r in rows] == [("e2e", "dev", "wer"), ("e2e", "dev", "rtf")]
    assert rows[0]["low"] <= rows[0]["value"] <= rows[0]["high"]
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "lm.arpa").write_text(
        "\\data\\\nngram 1=3\n\n\\1-grams:\n-99 <s>\n-0.3 </s>\n-0.3 AB\n\n\\end\\\n"
    )
    search = ["--lm", "lm", "--beam", "2", "--max-length", "0.2"]
    done = run_script(*command[:4], "out2", *search, "--lm-weights", "0.3", "--length-bonuses", "0")
    assert done.returncode == 0, done.stderr
    done = run_script(*command[:4], "out3", *search, "--weights-from", "out2")
    assert done.returncode == 0, done.stderr
    done = run_script(*command[:4], "out4", *search, "--weights-from", "out")
    assert done.returncode == 2 and "without a language model, but this one is with" in done.stderr
    train_tokens([["XYZ"]], TokenOptions(unit="char")).save(tmp_path / "others")
    done = run_script(command[0], "model", "others", tones.data, "out5")
    assert done.returncode == 2 and "do not belong together: tokens" in done.stderr


def test_language_models_of_all_kinds(tmp_path):
    from pipeline.e2e.lm import NeuralLm, train_nn_lm
    from pipeline.e2e.search.fusion import WordNgramLm
    from pipeline.e2e.search.options import NnLmOptions

    TOKENS.save(tmp_path / "tokens")
    tokens = Tokens.load(tmp_path / "tokens")
    train_nn_lm([["AB", "CA"]], tokens, NnLmOptions(dim=4, layers=1, epochs=1), tmp_path / "nn")
    assert isinstance(load_lm(tmp_path / "nn", tokens, tmp_path / "tokens"), NeuralLm)
    (tmp_path / "a.arpa").write_text("\\data\\\nngram 1=3\n\n\\1-grams:\n-99 <s>\n-0.3 </s>\n-0.3 AB\n\n\\end\\\n")
    assert isinstance(load_lm(tmp_path / "a.arpa", tokens, tmp_path / "tokens"), WordNgramLm)
