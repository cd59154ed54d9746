"""Training of an end-to-end model: data directory and tokens in, model directory out."""

from __future__ import annotations

import logging
import resource
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.artifacts.checkpoint import load_model
from pipeline.artifacts.features import FeatureFacts, FeatureKind
from pipeline.artifacts.model_meta import META, EndToEndMeta, NetworkMeta, model_kind
from pipeline.artifacts.tokens import UNK, UNK_ID, Tokens
from pipeline.base.errors import DataError, MismatchError
from pipeline.base.records import from_json
from pipeline.e2e.auxiliary import Auxiliary, ModelWithAuxHeads, check_layers
from pipeline.e2e.criterion import EndToEndLoss
from pipeline.e2e.in_turns import InTurns, check_self_supervision, in_turns
from pipeline.e2e.labels import make_aux_targets
from pipeline.e2e.model import EndToEnd, save_end_to_end
from pipeline.e2e.options import EndToEndOptions, TrainEndToEndOptions
from pipeline.e2e.pruned_rnnt import most_tokens
from pipeline.feats.dataset import Dataset
from pipeline.nn.distributed import World
from pipeline.nn.labels import Lazy
from pipeline.nn.options import EncoderOptions
from pipeline.nn.step import lowest_entropy
from pipeline.nn.train import Task, clean_up, pick_device, train

logger = logging.getLogger(__name__)

ENCODER = "encoder."
# What encoders must share beside the shapes of their weights for the weights to mean the same.
SAME_FRAMES = (
    "encoder",
    "levels",
    "subsampling",
    "subsampling_by",
    "frames_per_step",
    "strides",
    "vgg",
    "sigma_reparam",
)
SAME_WITHIN = {
    "blstm": (),
    "lc_blstm": ("chunk", "right_context"),
    "tdnn": ("dilations",),
    "tds": ("heads", "conv_right"),
    "transformer": ("heads", "attention", "positions", "norms"),
    "conformer": ("heads", "attention", "positions"),
    "dnn": ("window_left", "window_right"),
}


def train_end_to_end(
    data_dir: Path,
    tokens_dir: Path,
    out: Path,
    options: TrainEndToEndOptions,
    dev_dir: Path | None = None,
    ali_dir: Path | None = None,
    init_dir: Path | None = None,
    unlabelled_dir: Path | None = None,
) -> dict[str, Any]:
    """Trains a model and writes its directory; the auxiliary outputs stay behind.

    Args:
        data_dir: data directory with features.
        tokens_dir: tokens that the model writes, see ``pipeline.artifacts.tokens``.
        out: model directory to write; an interrupted training resumes from its checkpoint there.
        dev_dir: utterances for the choice of epochs.
        ali_dir: any alignment of the training data, for the auxiliary losses.
        init_dir: a hybrid or end-to-end model whose encoder is the first one here; of any corpus, tree or tokens.
        unlabelled_dir: speech for the self-supervised loss; transcripts are not read.
    Returns:
        facts for the stamp.
    """
    check_layers(options)
    check_self_supervision(options, unlabelled_dir is not None, dev_dir is not None)
    tokens, facts = Tokens.load(tokens_dir), FeatureFacts.load(data_dir)
    options = _with_policy(options, facts.dim)
    data, targets = learnable(data_dir, tokens, tokens_dir, facts, options)
    aux = make_aux_targets(ali_dir, data_dir, data, facts, tokens, options)
    dev = None
    if dev_dir is not None:
        facts.kind.check_same(FeatureFacts.load(dev_dir).kind, data_dir, dev_dir)
        dev_data, dev_targets = learnable(dev_dir, tokens, tokens_dir, facts, options)
        dev = Task(dev_data, EndToEndLoss(dev_targets, options))
    task = _with_turns(Task(data, EndToEndLoss(targets, options, aux)), data_dir, unlabelled_dir, facts, options)
    torch.manual_seed(options.seed)
    shape = EndToEndOptions(**{name: getattr(options, name) for name in asdict(EndToEndOptions())})
    model = EndToEnd(data.dim, len(tokens), shape)
    model.set_normalisation(*World.current().of_first(task.data.moments))
    with_heads = ModelWithAuxHeads(
        model, Auxiliary(model, aux.num_labels if aux else 0, aux.num_states if aux else 0, options)
    )
    if init_dir is not None:
        load_encoder(model, init_dir, facts.kind)
    history = train(with_heads, task, dev, options, out, facts.frame_shift)
    if World.current().rank:
        return {}
    peak = peak_memory(options.device)
    logger.info("peak memory %.0f MiB", peak)
    ali = None if ali_dir is None else str(ali_dir)
    save_end_to_end(out, model.cpu(), tokens.id, facts.kind, options.feat_options(), history, ali)
    clean_up(out)
    best = min(history, key=lambda h: h.get("dev_loss", h["loss"]))
    return {
        "utterances": len(data),
        "parameters": sum(p.numel() for p in model.parameters()),
        "auxiliary_parameters": sum(p.numel() for p in with_heads.auxiliary.parameters()),
        "peak_memory_mib": peak,
        "seconds_per_epoch": float(np.median([h["seconds"] for h in history])),
        **{k: v for k, v in best.items() if k.startswith("dev_") or k == "loss"},
        **lowest_entropy(history[-1]),
    }


def _with_turns(
    task: Task[EndToEndLoss],
    data_dir: Path,
    unlabelled_dir: Path | None,
    facts: FeatureFacts,
    options: TrainEndToEndOptions,
) -> Task[EndToEndLoss] | Task[InTurns]:
    """The task, or that of both losses where a self-supervised one is wanted."""
    if options.self_supervised == "none":
        return task
    unlabelled = None
    if unlabelled_dir is not None:
        facts.kind.check_same(FeatureFacts.load(unlabelled_dir).kind, data_dir, unlabelled_dir)
        unlabelled = short_enough(unlabelled_dir, facts.frame_shift, options)
    return in_turns(task, unlabelled, options, facts.frame_shift)


def load_encoder(model: EndToEnd, init_dir: Path, features: FeatureKind) -> None:
    """Copies the encoder of a model directory; further layers here stay as they are.

    Args:
        features: those that the model will see.
    Raises:
        MismatchError: that encoder has other features, another shape or another way to see its frames.
    """
    kind = model_kind(init_dir)
    if kind not in ("nn", "e2e"):
        raise DataError(f"{init_dir / META}: a model of kind {kind!r} has no encoder to begin with")
    record: type[NetworkMeta | EndToEndMeta] = NetworkMeta if kind == "nn" else EndToEndMeta
    tensors, meta = load_model(init_dir, record)
    options: type[EncoderOptions] = EncoderOptions if kind == "nn" else EndToEndOptions
    there, here = asdict(from_json(options, meta.config, init_dir / META, "config.")), asdict(model.options)
    pairs = {
        name: tuple(_first_layers(name, config[name], there["layers"]) for config in (there, here))
        for name in (*SAME_FRAMES, *SAME_WITHIN[model.options.encoder])
    }
    pairs.update(
        {
            f"features' {name}": (getattr(meta.features, name), getattr(features, name))
            for name in ("type", "frame_shift", "window")
        }
    )
    for name, (was, now) in pairs.items():
        if was != now:
            raise MismatchError(f"the encoder of {init_dir} does not fit: {name} is {was} there and {now} here")
    theirs = {k: v for k, v in tensors.items() if k.startswith(ENCODER)}
    mine = model.state_dict()
    for name, tensor in theirs.items():
        if name not in mine or mine[name].shape != tensor.shape:
            shape = tuple(mine[name].shape) if name in mine else "nothing"
            raise MismatchError(
                f"the encoder of {init_dir} does not fit the options: {name} is {tuple(tensor.shape)} there and "
                f"{shape} here; encoder, layers, dim, strides and features must be those of that model"
            )
    model.load_state_dict({**mine, **theirs})
    rest = sum(k.startswith(ENCODER) for k in mine) - len(theirs)
    logger.info(
        "encoder of %s taken over: %d tensors%s", init_dir, len(theirs), f", {rest} begin at random" if rest else ""
    )


def _first_layers(name: str, value: Any, layers: int) -> Any:
    """What an option says of the first layers: of dilations the last one counts for all further layers."""
    if not isinstance(value, (list, tuple)):
        return value
    return [*value, *[value[-1]] * layers][:layers] if name == "dilations" else list(value)


def peak_memory(device: str) -> float:
    """MiB that this process has held at most: on the GPU if it uses one, else in main memory."""
    if pick_device(device).startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _with_policy(options: TrainEndToEndOptions, dim: int) -> TrainEndToEndOptions:
    """Policy LD of Park et al. 2019: F = 27 of 80 features, mF = 2, T = 100 frames, p = 1, mT = 2."""
    if options.spec_augment == "custom":
        return options
    return replace(
        options,
        feature_masks=2,
        feature_mask_size=round(27 * dim / 80),
        time_masks=2,
        time_mask_seconds=1.0,
        time_mask_share=1.0,
    )


def learnable(
    data_dir: Path, tokens: Tokens, tokens_dir: Path, facts: FeatureFacts, options: TrainEndToEndOptions
) -> tuple[Dataset, Lazy[np.ndarray]]:
    """The utterances that can be learned, and their tokens.

    Raises:
        DataError: more than max_skipped of them are too long, too short for their tokens, or have characters without a
            token.
    """
    data = Dataset.open(data_dir, options.feat_options(), cache_mib=options.cache_mib)
    rows = _encoded(data, tokens)
    sizes, repeats, unknown = (np.zeros(len(data), dtype=np.int32) for _ in range(3))
    for i, row in enumerate(rows):
        sizes[i], repeats[i] = len(row), (row[1:] == row[:-1]).sum()
        unknown[i] = (row == UNK_ID).sum() > data.text(i).split().count(UNK)  # that word is meant
    frames = -(-data.lens // options.label_factor)
    limit = int(options.max_seconds / facts.frame_shift)
    pruned = options.model == "transducer" and options.rnnt == "pruned"
    keep = np.ones(len(data), dtype=bool)
    if unknown.mean() > options.max_skipped:
        first = int(np.argmax(unknown))
        raise DataError(
            f"{data_dir}: {unknown.sum():,} of {len(data):,} utterances have characters without a token in "
            f"{tokens_dir}, the first: {data.id(first)!r}, {data.text(first)!r}; were these tokens made for another "
            f"text?"
        )
    for bad, what, cure in (
        (
            data.lens > limit,
            f"longer than {options.max_seconds:g} s",
            "--max-seconds admits them at the cost of memory",
        ),
        (sizes == 0, "without text", "remove them"),
        (
            options.ctc & (frames < sizes + repeats),
            f"shorter than their tokens at {options.label_factor} feature frames per encoder frame",
            "fewer --strides, a lower --subsampling or longer tokens would admit them",
        ),
        (
            pruned & (sizes > most_tokens(frames, options.prune_range)),
            f"with more tokens than --prune-range {options.prune_range} lets their frames reach",
            "a larger one would admit them",
        ),
    ):
        keep &= ~bad
        _report(bad, data, f"{data_dir}: utterances {what}", cure, options.max_skipped)
    if not keep.any():
        raise DataError(f"{data_dir}: no utterance is left to train on")
    data = data.select(keep)
    return data, _encoded(data, tokens)


def short_enough(data_dir: Path, frame_shift: float, options: TrainEndToEndOptions) -> Dataset:
    """The utterances of up to --max-seconds, with or without transcripts; a warning names how many are longer.

    Raises:
        DataError: all are.
    """
    data = Dataset.open(data_dir, options.feat_options(), cache_mib=options.cache_mib)
    short = data.lens * frame_shift <= options.max_seconds
    if not short.any():
        raise DataError(f"{data_dir}: no utterance is shorter than {options.max_seconds:g} s (--max-seconds)")
    _report(~short, data, f"{data_dir}: utterances longer than {options.max_seconds:g} s (--max-seconds)")
    return data.select(short)


def _encoded(data: Dataset, tokens: Tokens) -> Lazy[np.ndarray]:
    """(U_n,) token ids of the transcripts."""
    return Lazy(len(data), lambda i: np.array(tokens.encode(data.text(i)), dtype=np.int64))


def _report(bad: np.ndarray, data: Dataset, what: str, cure: str = "", max_skipped: float = 1.0) -> None:
    if not bad.any():
        return
    text = f"{what}: {bad.sum():,} of {len(bad):,}, the first: {data.id(int(np.argmax(bad)))!r}"
    if bad.mean() > max_skipped:
        raise DataError(f"{text}; {cure}")
    logger.warning("%s; left out", text)
