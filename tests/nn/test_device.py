"""``--device cuda`` without a GPU: every training, alignment and decoding, held to what the CPU gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.arpa import Arpa, train_unigram
from pipeline.artifacts.hyp import load_hypotheses
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import load_hmm
from pipeline.graph.decoding import build_decoding_graph
from pipeline.graph.options import DecodeOptions
from pipeline.nn.hybrid import train_viterbi
from pipeline.nn.model import load_acoustic_model, load_scorer
from pipeline.nn.nhmm import train_nhmm
from pipeline.nn.options import NhmmOptions, ViterbiOptions
from pipeline.nn.sequence_options import SequenceOptions
from pipeline.nn.sequence_training import Sources as SequenceSources
from pipeline.nn.sequence_training import train_sequence
from pipeline.tasks.align import AlignOptions, align
from pipeline.tasks.decode_parts import Sources, decode_directory
from tests.nn.conftest import WORDS
from tests.pretend_cuda import WrongPlaceError, pretend_cuda

pytestmark = pytest.mark.skipif(
    torch.__version__.startswith("1."), reason="the modes of torch 1 do not see properties of tensors"
)
TRAIN = dict(batch_frames=400, time_masks=0, feature_masks=0, epochs=2, learning_rate=5e-3)
TDNN = dict(encoder="tdnn", layers=1, dim=16, dilations=(1,))
ENCODERS = {
    "dnn": dict(layers=1, dim=16, window_left=2, window_right=2),
    "tdnn": dict(layers=1, dim=16, dilations=(1,)),
    "blstm": dict(layers=1, dim=8),
}


def assert_alike(a: Path, b: Path) -> None:
    """The losses of two trainings, by other backends of the engine: the optimizer makes more of each rounding."""
    ours, theirs = ([epoch["loss"] for epoch in load_acoustic_model(d)[2].epochs] for d in (a, b))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-2, abs=1e-4) and ours == pytest.approx(theirs, rel=0.05, abs=1e-3)


def test_the_pretended_gpu_refuses_what_a_gpu_refuses():
    layer = torch.nn.Linear(3, 2)
    with pretend_cuda() as gpu:
        there, here = torch.ones(2, 3, device="cuda"), torch.ones(2, 3)
        assert there.is_cuda and there.device == torch.device("cuda:0") and here.device == torch.device("cpu")
        for wrong in (
            lambda: there + here,
            lambda: layer(there),
            lambda: there.numpy(),
            lambda: torch.cat([here, there]),
            lambda: here[torch.ones(2, dtype=torch.int64, device="cuda")],
        ):
            with pytest.raises(WrongPlaceError):
                wrong()
        assert (there + here.cuda()).cpu().numpy().sum() == 12 and (there * 2.0)[torch.tensor([0])].is_cuda
        assert layer.to("cuda")(there).is_cuda and gpu.calls > 5
        with pytest.raises(WrongPlaceError):
            layer(here)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_neural_hmm(tones, tmp_path, encoder):
    options = dict(encoder=encoder, **ENCODERS[encoder], **TRAIN)
    train_nhmm(tones.data, tones.lang, tmp_path / "cpu", NhmmOptions(**options, device="cpu"))
    with pretend_cuda() as gpu:
        train_nhmm(tones.data, tones.lang, tmp_path / "gpu", NhmmOptions(**options, device="cuda"))
    assert gpu.calls > 100
    assert_alike(tmp_path / "gpu", tmp_path / "cpu")


@pytest.mark.slow
def test_from_alignment_to_words(tones, tmp_path):
    """Alignment with confidences, a hybrid network on it, MMI, decoding."""
    train_nhmm(tones.data, tones.lang, tmp_path / "nhmm", NhmmOptions(**TDNN, **(TRAIN | {"epochs": 6}), device="cpu"))
    train_unigram([list(WORDS)] * 3).save(tmp_path / "lm.arpa")
    lang = Lang.load(tones.lang)

    def chain(out: Path, device: str) -> None:
        scorer = load_scorer(tmp_path / "nhmm", device=device)
        align(scorer, lang, tones.data, out / "ali", AlignOptions(device=device, confidence=True), "nhmm")
        train_viterbi(tones.data, tones.lang, out / "ali", out / "ce", ViterbiOptions(**TDNN, **TRAIN, device=device))
        graph = build_decoding_graph(lang, Arpa.load(tmp_path / "lm.arpa"), load_hmm(out / "ce"))
        graph.save(out / "graph")
        sources = SequenceSources(tones.lang, out / "ce", out / "graph", tmp_path / "lm.arpa")
        mmi = SequenceOptions(epochs=1, batch_frames=400, acoustic_scale=0.5, device=device)
        train_sequence(tones.data, sources, out / "mmi", mmi)
        (out / "decoded").mkdir()
        decoding = Sources(out / "mmi", out / "graph", tones.data)
        decode_directory(decoding, out / "decoded", DecodeOptions(device=device), "mmi", "train")

    chain(tmp_path / "cpu", "cpu")
    with pretend_cuda() as gpu:
        chain(tmp_path / "gpu", "cuda")
    assert gpu.calls > 300
    for name in ("ce", "mmi"):
        assert_alike(tmp_path / "gpu" / name, tmp_path / "cpu" / name)
    ours, theirs = (AliSet.load(tmp_path / where / "ali") for where in ("gpu", "cpu"))
    assert all(np.array_equal(ours[cut].transition_ids, theirs[cut].transition_ids) for cut in tones.times)
    words = [load_hypotheses(tmp_path / where / "decoded") for where in ("gpu", "cpu")]
    assert words[0] == words[1]
