"""model.json of all kinds: what is saved comes back, files of the first version load, and every damaged field is named
with its file.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.features import FeatLoadOptions, FeatureFacts, FeatureKind
from pipeline.artifacts.model_meta import (
    META,
    SCORING,
    EndToEndMeta,
    ExportedMeta,
    GmmMeta,
    LmMeta,
    ModelMeta,
    NetworkMeta,
    Scales,
    TransitionShape,
    load_meta,
    model_kind,
)
from pipeline.base.errors import DataError, MismatchError
from pipeline.base.files import write_json
from pipeline.base.records import to_json
from pipeline.e2e.options import EndToEndOptions
from pipeline.nn.options import EncoderOptions

KIND = FeatureKind("mfcc", 13, 0.01, 0.025, 0.005, 16000, {"num_ceps": 13, "dither": 1.0, "low_freq": None})
FACTS = FeatureFacts("mfcc", 13, 0.01, 0.025, 0.005, 16000, 24, 4495, {"num_ceps": 13})
LOAD = FeatLoadOptions(deltas=2)
EPOCHS: list[dict[str, bool | int | float]] = [{"loss": 2.5, "skipped": 3}, {"loss": 1.0, "adapted": True}]
NETWORK = NetworkMeta(
    config={"encoder": "tdnn", "layers": 2, "dilations": [1, 2]},
    num_pdfs=139,
    feature_dim=39,
    features=KIND,
    feat_options=LOAD,
    scales=Scales(0.3, 0.3, 1 / 3),
    frame_shift=0.03,
    tree_id="t",
    topo_id="o",
    transition_model=TransitionShape("label", 128),
    criterion="full_sum",
    lang_id="l",
    epochs=EPOCHS,
)
END_TO_END = EndToEndMeta(
    config={"model": "ctc"},
    vocab_size=30,
    feature_dim=39,
    tokens_id="k",
    features=KIND,
    feat_options=LOAD,
    frame_shift=0.04,
    criterion="ctc",
    ali=None,
    epochs=EPOCHS,
)
ALL: list[ModelMeta] = [
    GmmMeta(
        lang_id="l",
        tree_id="t",
        topo_id="o",
        frame_shift=0.01,
        frame_offset=0.0,
        num_pdfs=139,
        num_gauss=1000,
        adapted=False,
        features=FACTS,
        feat_options=LOAD,
        config={"num_gauss": 1000, "realign_iters": [1, 2]},
        history=EPOCHS,
    ),
    NETWORK,
    END_TO_END,
    ExportedMeta(
        **{name: getattr(END_TO_END, name) for name in to_json(END_TO_END) if name != "kind"},
        head="ctc",
        lang_id="l",
        tree_id="t",
    ),
    LmMeta(vocab_size=30, tokens_id="k", config={"dim": 16}, epochs=EPOCHS),
]


def kind_of(meta: ModelMeta) -> str:
    return meta.kind


def changed(values: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy with another value at a place; the key is left out for ...."""
    out = copy.deepcopy(values)
    inner = out
    for name in place[:-1]:
        inner = inner[name]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return out


def places(values: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Every field, and those of the records in it."""
    for name, value in values.items():
        yield (name,)
        if name in ("features", "feat_options", "scales", "transition_model"):
            yield from ((name, inner) for inner in value)


def write(directory: Path, values: Any) -> Path:
    write_json(directory / META, values)
    return directory


@pytest.mark.parametrize("meta", ALL, ids=kind_of)
def test_saved_twice_is_equal_to_the_last_byte(meta, tmp_path):
    write(tmp_path / "a", to_json(meta))
    again = load_meta(tmp_path / "a", type(meta))
    write(tmp_path / "b", to_json(again))
    assert again == meta and model_kind(tmp_path / "a") == meta.kind
    assert (tmp_path / "a" / META).read_bytes() == (tmp_path / "b" / META).read_bytes()
    assert [type(v) for e in again.__dict__.get("epochs", []) for v in e.values()] in ([], [float, int, float, bool])


@pytest.mark.parametrize("meta", ALL, ids=kind_of)
def test_each_damaged_field_is_named(meta, tmp_path):
    values = to_json(meta)
    for place in places(values):
        if place == ("kind",):
            continue
        inner = values[place[0]] if len(place) == 1 else values[place[0]][place[1]]
        write(tmp_path, changed(values, place, 5 if isinstance(inner, (str, type(None))) else "?"))
        with pytest.raises(DataError, match=rf"{META}: {'.'.join(place)}"):
            load_meta(tmp_path, type(meta))


@pytest.mark.parametrize("meta", ALL, ids=kind_of)
def test_missing_and_unknown_keys(meta, tmp_path):
    values = to_json(meta)
    for place in places(values):
        if (place[0] in ("kind", "feat_options", "scales") and len(place) > 1) or place == ("kind",):
            continue
        write(tmp_path, changed(values, place, ...))
        with pytest.raises(DataError, match=rf"{META}: key '{'.'.join(place)}' is missing"):
            load_meta(tmp_path, type(meta))
    for place in (("new",), ("feat_options", "new"), ("features", "new")):
        if place[0] in values or len(place) == 1:
            write(tmp_path, changed(values, place, 1))
            with pytest.raises(DataError, match=rf"{META}: unknown key '{'.'.join(place)}'.*later version"):
                load_meta(tmp_path, type(meta))


@pytest.mark.parametrize(
    "place, value",
    [
        (("frame_shift",), 0.0),
        (("frame_shift",), float("nan")),
        (("features", "frame_shift"), -0.01),
        (("features", "dim"), 0),
        (("features", "dim"), 13.5),
        (("features", "window"), "0.025"),
        (("feat_options", "cmvn"), "all"),
        (("feat_options", "deltas"), 4),
        (("scales", "transition"), -1.0),
        (("scales", "prior"), float("inf")),
        (("num_pdfs",), 0),
        (("num_pdfs",), True),
        (("transition_model", "dim"), 0),
        (("epochs",), [{"loss": "low"}]),
        (("epochs",), [3.0]),
        (("optimisation",), "async"),
    ],
    ids=str,
)
def test_values_out_of_range(place, value, tmp_path):
    (tmp_path / META).write_text(json.dumps(changed(to_json(NETWORK), place, value)))
    with pytest.raises(DataError, match=rf"{META}: {'.'.join(place)}"):
        load_meta(tmp_path, NetworkMeta)


def test_frame_shift_of_mixtures_is_that_of_their_features(tmp_path):
    write(tmp_path, changed(to_json(ALL[0]), ("frame_shift",), 0.02))
    with pytest.raises(DataError, match=f"{META}: frame_shift 0.02 is not that of the features, 0.01"):
        load_meta(tmp_path, GmmMeta)


def test_files_that_are_no_model(tmp_path):
    for content in ("[]", "{}", '{"kind": 3}'):
        (tmp_path / META).write_text(content)
        with pytest.raises(DataError, match=f"{META}: names no kind of model"):
            load_meta(tmp_path, NetworkMeta)
    (tmp_path / META).write_text('{"kind": "nn",\n')
    with pytest.raises(DataError, match=f"{META}:2: not JSON"):
        load_meta(tmp_path, NetworkMeta)
    write(tmp_path, to_json(NETWORK))
    with pytest.raises(MismatchError, match="holds a model of kind 'nn', not 'gmm' or 'e2e'"):
        load_meta(tmp_path, GmmMeta, EndToEndMeta)
    assert load_meta(tmp_path, *SCORING) == NETWORK


# What the first version wrote for its default options: fields that were added since have defaults.
FIRST_ENCODER = {
    "encoder": "blstm",
    "layers": 3,
    "dim": 128,
    "dropout": 0.1,
    "subsampling": 1,
    "subsampling_by": "concat",
    "frames_per_step": 1,
    "kernel": 3,
    "dilations": [1, 1, 2, 2, 3, 3],
}
FIRST_END_TO_END = {
    **FIRST_ENCODER,
    "heads": 4,
    "conv_kernel": 15,
    "strides": [],
    "model": "attention",
    "ctc": True,
    "embedding_dim": 64,
    "decoder_layers": 1,
    "decoder_dim": 128,
    "decoder_dropout": 0.2,
    "attention_heads": 4,
    "attention_dim": 128,
    "location": True,
    "predictor": "lstm",
    "predictor_context": 2,
    "joint_dim": 128,
}


def test_networks_of_the_first_version_load(tmp_path):
    torch = pytest.importorskip("torch")
    from pipeline.artifacts.checkpoint import save_model
    from pipeline.artifacts.lang import make_lang
    from pipeline.artifacts.lexicon import Lexicon, Pronunciation
    from pipeline.artifacts.model_dir import save_hmm
    from pipeline.artifacts.transitions import TransitionModel
    from pipeline.artifacts.tree import monophone_tree
    from pipeline.e2e.model import EndToEnd, load_end_to_end
    from pipeline.nn.model import AcousticModel, load_acoustic_model

    lang = make_lang(Lexicon([Pronunciation("A", ("a",))]))
    tree = monophone_tree(lang.phones, lang.topo)
    save_hmm(tmp_path / "nn", lang.topo, tree, TransitionModel(tree, lang.topo))
    torch.manual_seed(0)
    network = AcousticModel(39, tree.num_pdfs, EncoderOptions())
    save_model(tmp_path / "nn", network.state_dict(), NETWORK)
    values = {
        **to_json(NETWORK),
        "config": FIRST_ENCODER,
        "num_pdfs": tree.num_pdfs,
        "transition_model": None,
        "frame_shift": 0.01,
        "ali": "exp/mono_ali",
    }
    write(tmp_path / "nn", values)
    again, _, meta = load_acoustic_model(tmp_path / "nn")
    assert again.options == EncoderOptions() and meta.ali == "exp/mono_ali"

    save_model(tmp_path / "e2e", EndToEnd(39, 30, EndToEndOptions()).state_dict(), END_TO_END)
    write(tmp_path / "e2e", {**to_json(END_TO_END), "config": FIRST_END_TO_END, "frame_shift": 0.01})
    assert load_end_to_end(tmp_path / "e2e")[0].options == EndToEndOptions()

    for directory, load in ((tmp_path / "nn", load_acoustic_model), (tmp_path / "e2e", load_end_to_end)):
        good = json.loads((directory / META).read_text())
        for place, value, message in (
            (("config", "layers"), "3", "config.layers: .* integer"),
            (("config", "layers"), 2, "does not describe the network of model.safetensors"),
            (("config", "new"), 2, "unknown key 'config.new'"),
            (("config", "encoder"), "rnn", "config.encoder"),
            (("frame_shift",), 0.02, "frame_shift: 0.02 is not 1 times that of the features, 0.01"),
            (("feature_dim",), 40, "does not describe the network of model.safetensors"),
        ):
            write(directory, changed(good, place, value))
            with pytest.raises(DataError, match=f"{META}: {message}"):
                load(directory)
    write(tmp_path / "nn", {**values, "transition_model": {"kind": "odd", "dim": 4}})
    with pytest.raises(DataError, match=META):
        load_acoustic_model(tmp_path / "nn")
