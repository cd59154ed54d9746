"""Pseudo-labels across languages: the documented chain of steps, on tones with the same letters in other words.

What passes from step to step is tested, not how well a model of some minutes of training carries over.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import soundfile

from pipeline.artifacts.corpus import audio_recording, iter_cuts, save_data_dir, utterance
from pipeline.artifacts.hyp import load_hypotheses
from pipeline.artifacts.tokens import Tokens
from pipeline.e2e.model import load_end_to_end
from pipeline.e2e.training import train_end_to_end
from pipeline.feats.compute import compute_feats
from pipeline.feats.options import FeatureOptions
from tests.e2e.test_training import options_with, tokens  # noqa: F401
from tests.nn import conftest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ["AB", "BA", "AC", "CA", "BC", "CB"]
TARGET = ["ABC", "BAB", "CACB"]


def speak(out: Path, words: list[str], count: int, transcribed: bool, monkeypatch) -> dict[str, str]:
    """Utterances of three words each, with features in OUT/data, and what was said."""
    out.mkdir()
    monkeypatch.setattr(conftest, "WORDS", {word: tuple(word.lower()) for word in words})
    rng, cuts, said = np.random.default_rng(len(words)), [], {}
    for i in range(count):
        name = f"{out.name}{i:02d}"
        audio, spoken, _ = conftest.make_utterance(rng)
        soundfile.write(out / f"{name}.wav", audio, conftest.RATE)
        said[name] = " ".join(spoken)
        recording = audio_recording(name, out / f"{name}.wav")
        cuts.append(utterance(name, recording, said[name] if transcribed else "", f"spk{i % 3}"))
        if not transcribed:
            cuts[-1].supervisions[0].custom = {"untranscribed": True}
    save_data_dir(out / "local", cuts)
    (out / "data").mkdir()
    compute_feats(out / "local", out / "data", out / "data", FeatureOptions(type="fbank", dim=16))
    return said


def test_a_model_of_one_language_labels_another(tokens, tmp_path, monkeypatch, run_script):
    speak(tmp_path / "a", SOURCE, 48, True, monkeypatch)
    options = options_with(epochs=12, learning_rate=0.02, batch_frames=300)
    train_end_to_end(tmp_path / "a" / "data", tokens, tmp_path / "source", options)
    said = speak(tmp_path / "b", TARGET, 24, False, monkeypatch)
    (tmp_path / "lexicon.txt").write_text("".join(f"{word} {' '.join(word)}\n" for word in [*TARGET, "DAD"]))
    rng = np.random.default_rng(1)
    (tmp_path / "text.txt").write_text("".join(" ".join(rng.choice(TARGET, 3)) + "\n" for _ in range(50)))
    data, source, lang, hmm, heard = (tmp_path / name for name in ("b/data", "source", "lang", "hmm", "heard"))
    pseudo, target = tmp_path / "pseudo", tmp_path / "target_tokens"
    beam = ["--confidences", "--lattice-beam", "4", "--acoustic-scale", "0.8"]
    beam += ["--lm-weights", "0.5", "--word-penalties=-6"]
    shape = [
        "--model",
        "ctc",
        "--encoder",
        "tdnn",
        "--layers",
        "3",
        "--dim",
        "12",
        "--strides",
        "2",
        "--dilations",
        "1",
    ]
    told = ""
    for name, *words in (
        ("make_lang", tmp_path / "lexicon.txt", lang, "--tokens", tokens),
        ("train_lm", tmp_path / "text.txt", lang, tmp_path / "lm", "--order", "2"),
        ("export_e2e", source, tokens, lang, hmm),
        ("make_graph", lang, tmp_path / "lm", hmm, hmm / "graph"),
        ("decode", hmm, hmm / "graph", data, heard, *beam),
        ("pseudo_label", data, heard, pseudo, "--min-confidence", "0.3"),
        ("train_tokens", pseudo, target, "--unit", "char"),
        (
            "train_e2e",
            pseudo,
            target,
            tmp_path / "out",
            "--init-from",
            source,
            "--epochs",
            "1",
            *shape,
            "--device",
            "cpu",
        ),
    ):
        done = run_script(sys.executable, ROOT / "steps" / f"{name}.py", *words)
        assert done.returncode == 0, done.stderr
        told += done.stderr
    assert "1 of 4 words hold characters that no token has and were left out, for example DAD" in told
    found = {hyp.cut_id: hyp for hyp in load_hypotheses(heard)}
    assert found.keys() == said.keys() and {word for hyp in found.values() for word in hyp.hyp} <= set(TARGET)
    labels = {cut["id"]: cut["supervisions"][0]["text"] for _, cut in iter_cuts(pseudo)}
    sure = {name: hyp for name, hyp in found.items() if hyp.hyp and np.mean(hyp.confidence) >= 0.3}
    assert labels == {name: " ".join(hyp.hyp) for name, hyp in sure.items()}
    assert set(Tokens.load(target).pieces[3:]) == {"▁", *"".join(labels.values()).replace(" ", "")}
    assert load_end_to_end(tmp_path / "out")[1].tokens_id == Tokens.load(target).id
