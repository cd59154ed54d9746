"""What only training needs: outputs on layers of the encoder, and their losses. None of it is in the exported model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.base.errors import ConfigError
from pipeline.e2e.contrast import Contrast
from pipeline.e2e.model import EndToEnd
from pipeline.e2e.options import TrainEndToEndOptions
from pipeline.e2e.position import Position
from pipeline.e2e.rnnt import rnnt_loss
from pipeline.nn.encoders import Hidden, layer_factors
from pipeline.nn.frames import Subsample
from pipeline.nn.masks import mask_of
from pipeline.nn.normalised import Network


class Head(nn.Sequential):
    """A norm if wanted (layers of residual networks hand out sums of any size), a hidden layer if it has a width, and a
    linear one.
    """

    def __init__(self, in_dim: int, hidden: int, out_dim: int, norm: bool) -> None:
        first = [nn.LayerNorm(in_dim)] if norm else []
        middle = [nn.Linear(in_dim, hidden), nn.ReLU()] if hidden else []
        super().__init__(*first, *middle, nn.Linear(hidden or in_dim, out_dim))


class Auxiliary(nn.Module):
    """The auxiliary outputs of a training.

    Attributes:
        frame, ctc, branches: outputs by the number of their layer, as text.
        token: output at the top for tokens in time, or None.
        simple_am, simple_lm: the cheap joint network of a pruned RNN-T loss, or None.
        contrast, position: what this self-supervised loss learns beside the encoder, or None.
    """

    def __init__(self, model: EndToEnd, num_labels: int, num_states: int, options: TrainEndToEndOptions) -> None:
        """Args:
        num_labels: classes of the frame outputs. num_states: classes of the CTC outputs, without blank.
        """
        super().__init__()
        check_layers(options)
        dim, top = model.encoder.out_dim, options.layers

        def head(number: int, size: int, least: int = 0) -> Head:
            hidden = options.aux_hidden if number < top else options.aux_top_hidden
            return Head(dim, hidden or least, size, options.aux_norm)

        def heads(layers: tuple[int, ...], size: int, least: int = 0) -> nn.ModuleDict:
            return nn.ModuleDict({str(number): head(number, size, least) for number in layers})

        self.frame = heads(options.aux_layers, num_labels)
        self.ctc = heads(options.aux_ctc_layers, num_states + 1)
        self.token = head(top, model.vocab_size) if options.aux_token_weight else None
        self.branches = heads(options.aux_transducer_layers, dim, least=dim)
        factors = layer_factors(options)
        self.joins = nn.ModuleDict(
            {
                number: Subsample(model.encoder.subsampling // factors[int(number) - 1], "mean")
                for number in self.branches
            }
        )
        self.simple_am = self.simple_lm = None
        if model.transducer is not None and options.rnnt == "pruned":
            self.simple_am = nn.Linear(dim, model.vocab_size)
            self.simple_lm = nn.Linear(model.transducer.predictor.out_dim, model.vocab_size)
        self.contrast = None
        if options.self_supervised == "contrast":
            self.contrast = Contrast(dim, model.feature_dim, model.encoder.subsampling)
        self.position = Position(dim) if options.self_supervised == "position" else None

    @property
    def layers(self) -> set[int]:
        """Numbers of all layers that have an output."""
        return {int(number) for heads in (self.frame, self.ctc, self.branches) for number in heads}


class ModelWithAuxHeads(Network):
    """What the training loop trains: the model and its auxiliary outputs."""

    def __init__(self, model: EndToEnd, auxiliary: Auxiliary) -> None:
        super().__init__()
        self.model, self.auxiliary = model, auxiliary

    def normalise(self, feats: torch.Tensor) -> torch.Tensor:
        """See ``EndToEnd.normalise``."""
        return self.model.normalise(feats)


def check_layers(options: TrainEndToEndOptions) -> None:
    """ConfigError for a layer that the encoder does not have, or an auxiliary loss that does not go with the model."""
    for name in ("aux_layers", "aux_ctc_layers", "aux_transducer_layers"):
        layers, flag = getattr(options, name), f"--{name.replace('_', '-')}"
        wrong = [number for number in layers if not 1 <= number <= options.layers]
        if wrong:
            raise ConfigError(f"{flag}: there is no layer {wrong[0]}; the encoder has layers 1 to {options.layers}")
        if len(set(layers)) < len(layers):
            raise ConfigError(f"{flag}: a layer stands twice in {layers}")
    if options.aux_transducer_layers and (options.model != "transducer" or options.rnnt != "full"):
        raise ConfigError("--aux-transducer-layers needs --model transducer with --rnnt full")
    if options.aux_transducer_layers and options.frames_per_step > 1:
        raise ConfigError(
            "--aux-transducer-layers needs --frames-per-step 1: its layers have to run at the rate of the output"
        )
    if options.aux_soft and (options.aux_labels != "pdf" or options.aux_majority or options.ali_shift_ms):
        raise ConfigError("--aux-soft goes with neither --aux-labels phone, --aux-majority nor --ali-shift-ms")
    if options.aux_soft and not options.aux_layers:
        raise ConfigError("--aux-soft needs --aux-layers")
    if options.aux_alternate and not (options.aux_layers and options.aux_token_weight):
        raise ConfigError("--aux-alternate needs both --aux-layers and --aux-token-weight")
    if options.bag_share and options.model != "ctc":
        raise ConfigError(f"--bag-share needs --model ctc: the decoder of --model {options.model} learns an order")


def smoothed_cross_entropy(logits: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    """(1 - m) CE(label) + m CE(uniform) (Jiang et al. 2023), where CE(uniform) = - mean over classes of log p.

    Args:
        logits: (M, C), normalised or not. targets: (M,) int64, or (M, C) probabilities, whose cross-entropy is
            - sum_c q_c log p_c.
        smoothing: m.
    Returns:
        (M,).
    """
    return F.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=smoothing)


def symmetric_kl(logits: torch.Tensor, other: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """KL(P || Q) + KL(Q || P) = sum_v (p - q) (log p - log q), summed over the real cells (Liu et al. 2020).

    Args:
        logits, other: (N, T, U, V) of P and Q. mask: (N, T, U) bool.
    Returns:
        (N,).
    """
    p, q = logits[mask].log_softmax(-1), other[mask].log_softmax(-1)
    return sums_of(((p.exp() - q.exp()) * (p - q)).sum(-1), mask.sum((1, 2)).tolist())


def sums_of(values: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """(M,) values of utterances side by side, so many each -> (N,) their sums, always in the same order."""
    return torch.stack([x.sum() for x in values.split(list(sizes))])


def branch_losses(
    with_heads: ModelWithAuxHeads,
    layers: dict[int, Hidden],
    logits: torch.Tensor,
    predicted: torch.Tensor,
    lens: torch.Tensor,
    tokens: torch.Tensor,
    token_lens: torch.Tensor,
    with_kl: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """RNN-T losses of the branches, z_aux = joint(MLP(h_l), predictor), and their divergence from the decoder (Liu et
    al. 2020).

    Predictor and joint network get no gradient through a branch; the divergence moves the encoder and the decoder
    through the decoder's own output, and the layer through the branch's.

    Args:
        logits: (N, T', U + 1, V) of the decoder. predicted: (N, U + 1, Dp).
    Returns:
        (N,) losses and (N,) divergences summed over cells (0 unless with_kl), both summed over branches.
    """
    transducer = with_heads.model.transducer
    assert transducer is not None
    cells = mask_of(lens, logits.shape[1])[:, :, None] & mask_of(token_lens + 1, logits.shape[2])[:, None, :]
    total, divergence = logits.new_zeros(len(lens)), logits.new_zeros(len(lens))
    for number, branch in with_heads.auxiliary.branches.items():
        hidden = layers[int(number)]
        x, _ = with_heads.auxiliary.joins[number](hidden.x, hidden.lens)
        own = transducer.logits(branch(x), predicted.detach(), frozen=True)
        total = total + rnnt_loss(own, lens, tokens, token_lens)
        if with_kl:
            divergence = divergence + symmetric_kl(logits, own, cells)
    return total, divergence
