"""Auxiliary losses: their formulas, and where their gradients go."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.base.errors import ConfigError
from pipeline.e2e.auxiliary import (
    Auxiliary,
    ModelWithAuxHeads,
    branch_losses,
    check_layers,
    smoothed_cross_entropy,
    symmetric_kl,
)
from pipeline.e2e.criterion import EndToEndLoss, frame_losses, greedy_errors, states_loss
from pipeline.e2e.labels import AuxTargets, jitter
from pipeline.e2e.model import EndToEnd
from pipeline.e2e.options import TrainEndToEndOptions
from pipeline.e2e.transducer import Transducer
from pipeline.feats.dataset import Batch
from pipeline.nn.encoders import Hidden

SMALL = dict(
    encoder="tdnn",
    layers=3,
    dim=6,
    dropout=0.0,
    embedding_dim=5,
    decoder_dim=7,
    decoder_dropout=0.0,
    attention_heads=2,
    attention_dim=8,
    joint_dim=6,
    strides=(2,),
    device="cpu",
)
TARGETS = [np.array([3, 4, 3]), np.array([5, 5])]
AUX_TARGETS = AuxTargets(
    5,
    4,
    {
        1: [np.arange(13) % 5, np.arange(7) % 5],
        2: [np.arange(7) % 5, np.arange(4) % 5],
        3: [np.arange(7) % 5, np.arange(4) % 5],
    },
    [np.array([1, 2]), np.array([4])],
    [np.array([0, 3, 3, 4, 4, 3, 0]), np.array([0, 5, 5, 0])],
)


def make(**options) -> tuple[ModelWithAuxHeads, EndToEndLoss, Batch]:
    torch.manual_seed(0)
    o = TrainEndToEndOptions(**{**SMALL, **options})
    model = EndToEnd(4, 8, o)
    with_heads = ModelWithAuxHeads(model, Auxiliary(model, 5, 4, o)).train()
    feats = torch.randn(2, 13, 4)
    return with_heads, EndToEndLoss(TARGETS, o, AUX_TARGETS), Batch(np.arange(2), feats, torch.tensor([13, 7]))


def gradients(with_heads: ModelWithAuxHeads, value: torch.Tensor) -> dict[str, float]:
    """Largest gradient of each parameter; 0 where none arrives."""
    with_heads.zero_grad()
    value.backward()
    return {name: 0.0 if p.grad is None else float(p.grad.abs().max()) for name, p in with_heads.named_parameters()}


@pytest.mark.parametrize("m", [0.0, 0.5, 1.0])
def test_smoothing_is_its_formula(m):
    logits = torch.randn(2, 3)
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    expected = sum(
        -(1 - m) * math.log(row[k]) - m * sum(math.log(x) / 3 for x in row) for row, k in zip(p.tolist(), (1, 0))
    )
    assert float(smoothed_cross_entropy(logits, torch.tensor([1, 0]), m).sum()) == pytest.approx(expected, abs=1e-5)


def test_frames_without_a_label_get_no_gradient():
    """Those behind an end, and all of an utterance without an alignment."""
    x, head = torch.randn(3, 4, 5, requires_grad=True), torch.nn.Linear(5, 3)
    labels = [np.array([], dtype=np.int64), np.array([0, 2]), np.array([1, 1, 0, 2]), np.array([2])]
    sums, sizes = frame_losses(head, x, labels, np.array([1, 2, 0]), 0.3)
    sums.sum().backward()
    reached = x.grad.abs().sum(-1) > 0
    assert reached.tolist() == [[True, True, False, False], [True] * 4, [False] * 4]
    assert sizes.tolist() == [2, 4, 0]
    for n, row in enumerate(([0, 2], [1, 1, 0, 2], [])):
        alone = smoothed_cross_entropy(head(x[n, : len(row)]), torch.tensor(row, dtype=torch.int64), 0.3)
        assert torch.allclose(sums[n], alone.sum())
    none = frame_losses(head, x, labels, np.array([0, 0, 0]), 0.3)
    assert float(none[0].sum()) == 0.0 and int(none[1].sum()) == 0


def test_utterances_without_states_get_no_gradient():
    """CTC without labels would teach them blanks."""
    x, head = torch.randn(2, 6, 5, requires_grad=True), torch.nn.Linear(5, 4)
    hidden, states = Hidden(x, torch.tensor([6, 5]), 1), [np.array([], dtype=np.int64), np.array([1, 3])]
    loss = states_loss(head, hidden, states, np.array([0, 1]))
    loss.backward()
    assert (x.grad.abs().sum((1, 2)) > 0).tolist() == [False, True]
    alone = states_loss(head, Hidden(x[1:], torch.tensor([5]), 1), states, np.array([1]))
    assert torch.allclose(loss, alone)
    assert float(states_loss(head, hidden, states, np.array([0, 0]))) == 0.0


def test_divergence_is_symmetric_and_zero_for_equal_branches():
    torch.manual_seed(0)
    p, q = torch.randn(2, 3, 2, 5), torch.randn(2, 3, 2, 5)
    mask = torch.ones(2, 3, 2, dtype=torch.bool)
    mask[1, 2] = False
    a, b = p.log_softmax(-1), q.log_softmax(-1)
    kl = [
        (torch.nn.functional.kl_div(y, x, log_target=True, reduction="none").sum(-1) * mask).sum((1, 2))
        for x, y in ((a, b), (b, a))
    ]
    assert torch.allclose(symmetric_kl(p, q, mask), sum(kl), atol=1e-5)
    assert torch.allclose(symmetric_kl(p, q, mask), symmetric_kl(q, p, mask), atol=1e-6)
    assert float(symmetric_kl(p, p + 3.0, mask).sum()) == pytest.approx(0.0, abs=1e-5)
    changed = q.clone()
    changed[1, 2] += torch.randn(2, 5)
    assert torch.equal(symmetric_kl(p, q, mask), symmetric_kl(p, changed, mask))


def branch_terms(kl: bool) -> tuple[ModelWithAuxHeads, torch.Tensor, torch.Tensor]:
    with_heads, _, batch = make(model="transducer", aux_transducer_layers=(2,))
    encoded, lens, layers = with_heads.model.encode_layers(batch.feats, batch.lens, {2})
    tokens, token_lens = torch.tensor([[3, 4, 3], [5, 5, 0]]), torch.tensor([3, 2])
    predicted = with_heads.model.transducer.predict(tokens)
    logits = with_heads.model.transducer.logits(encoded, predicted)
    return with_heads, *branch_losses(with_heads, layers, logits, predicted, lens, tokens, token_lens, kl)


def test_divergence_counts_the_cells_behind_the_last_token():
    """By hand over all cells: T' frames of each utterance times its tokens and one."""
    with_heads, _, divergence = branch_terms(True)
    _, _, batch = make(model="transducer", aux_transducer_layers=(2,))
    encoded, lens, layers = with_heads.model.encode_layers(batch.feats, batch.lens, {2})
    net = with_heads.model.transducer
    predicted = net.predict(torch.tensor([[3, 4, 3], [5, 5, 0]]))
    x, _ = with_heads.auxiliary.joins["2"](layers[2].x, layers[2].lens)
    own, other = net.logits(encoded, predicted), net.logits(with_heads.auxiliary.branches["2"](x), predicted)
    for n, t, u in ((0, lens[0], 4), (1, lens[1], 3)):
        p, q = (z[n, :t, :u].flatten(0, 1).log_softmax(-1) for z in (own, other))
        assert float(divergence[n]) == pytest.approx(float(((p.exp() - q.exp()) * (p - q)).sum()), rel=1e-4)


@pytest.mark.parametrize("per", ["frame", "utterance"])
def test_branches_count_per_token_and_have_weights_of_their_own(per):
    """The sums of both terms, from branch_losses, and their share in the objective."""
    with_heads, loss, divergence = branch_terms(True)
    cells = torch.tensor([7 * 4, 4 * 3])
    expected = divergence.sum() / cells.sum() * 7 if per == "frame" else (divergence / cells).sum()
    options = dict(model="transducer", aux_transducer_layers=(2,), aux_transducer_weight=0.7, aux_kl_weight=0.2)
    _, criterion, batch = make(**options, aux_per=per)
    found = criterion(with_heads, batch, 0.0)
    assert found.frames == 7  # tokens and ends
    assert found.sums["aux_transducer"] == pytest.approx(float(loss.sum()), rel=1e-4)
    assert found.sums["aux_kl"] == pytest.approx(float(expected), rel=1e-4)
    rest = found.sums["transducer"] + found.sums["ctc"]
    assert float(found.total) == pytest.approx(rest + 0.7 * float(loss.sum()) + 0.2 * float(expected), rel=1e-4)


def test_weights_of_liu_et_al():
    """L = L_rnnt + 0.3 (L_rnnt,aux + L_KL) + 0.6 sum of (1 / T) sum_t CE, by hand for each utterance alone, added over
    utterances: what is trained is this sum, divided by a constant of the batch.
    """
    from pipeline.e2e.rnnt import rnnt_loss

    with_heads, criterion, batch = make(
        model="transducer",
        ctc=False,
        aux_per="utterance",
        aux_norm=False,
        aux_hidden=5,
        aux_smoothing=0.0,
        aux_transducer_layers=(2,),
        aux_transducer_weight=0.3,
        aux_kl_weight=0.3,
        aux_layers=(1, 3),
        aux_weight=0.6,
    )
    net, heads, total = with_heads.model.transducer, with_heads.auxiliary, 0.0
    for n, frames in ((0, 13), (1, 7)):
        feats, frames = batch.feats[n : n + 1, :frames], torch.tensor([frames])
        encoded, lens, layers = with_heads.model.encode_layers(feats, frames, {1, 2, 3})
        tokens = torch.from_numpy(TARGETS[n])[None]
        count, predicted = torch.tensor([tokens.shape[1]]), net.predict(tokens)
        logits = net.logits(encoded, predicted)
        other = net.logits(heads.branches["2"](heads.joins["2"](layers[2].x, layers[2].lens)[0]), predicted)
        p, q = logits.log_softmax(-1), other.log_softmax(-1)
        kl = ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()
        total += rnnt_loss(logits, lens, tokens, count).sum()
        total += 0.3 * (rnnt_loss(other, lens, tokens, count).sum() + kl)
        for number in (1, 3):
            rows = heads.frame[str(number)](layers[number].x[0]).log_softmax(-1)
            labels = torch.from_numpy(AUX_TARGETS.frame[number][n])
            total += 0.6 * -rows[torch.arange(len(labels)), labels].mean()
    assert float(criterion(with_heads, batch, 0.0).total) == pytest.approx(float(total), rel=1e-4)


def test_hidden_layers_and_norms_stand_where_the_options_say():
    """Liu et al. 2020: a hidden layer in the middle, a plain linear one at the top."""

    def kinds(**options) -> list[list[str]]:
        heads = make(model="ctc", aux_layers=(1, 3), **options)[0].auxiliary.frame
        return [[type(part).__name__ for part in heads[number]] for number in ("1", "3")]

    assert kinds(aux_hidden=5, aux_norm=False) == [["Linear", "ReLU", "Linear"], ["Linear"]]
    assert kinds(aux_top_hidden=5) == [["LayerNorm", "Linear"], ["LayerNorm", "Linear", "ReLU", "Linear"]]


def test_auxiliary_transducer_gives_nothing_to_predictor_and_joint():
    with_heads, loss, _ = branch_terms(False)
    got = gradients(with_heads, loss.sum())
    assert all(got[name] == 0 for name in got if name.startswith("model.transducer."))
    for part in ("auxiliary.branches.2.", "model.encoder.network.convs.0.", "model.encoder.network.convs.1."):
        assert all(got[name] > 0 for name in got if name.startswith(part)), part
    assert all(got[name] == 0 for name in got if name.startswith("model.encoder.network.convs.2."))


def test_divergence_moves_both_sides():
    with_heads, _, divergence = branch_terms(True)
    got = gradients(with_heads, divergence.sum())
    for part in ("auxiliary.branches.2.", "model.encoder.network.convs.2.", "model.transducer.output."):
        assert all(got[name] > 0 for name in got if name.startswith(part)), part


def test_equal_branch_has_the_loss_of_the_decoder():
    """A branch on the top layer without an MLP of its own is the decoder; it costs the same and diverges by nothing."""
    from pipeline.e2e.rnnt import rnnt_loss

    with_heads, _, batch = make(model="transducer", aux_transducer_layers=(3,))
    with_heads.auxiliary.branches["3"] = torch.nn.Identity()
    encoded, lens, layers = with_heads.model.encode_layers(batch.feats, batch.lens, {3})
    tokens, token_lens = torch.tensor([[3, 4, 3], [5, 5, 0]]), torch.tensor([3, 2])
    predicted = with_heads.model.transducer.predict(tokens)
    logits = with_heads.model.transducer.logits(encoded, predicted)
    loss, divergence = branch_losses(with_heads, layers, logits, predicted, lens, tokens, token_lens, True)
    assert torch.allclose(loss, rnnt_loss(logits, lens, tokens, token_lens), atol=1e-5)
    assert float(divergence.sum()) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    "options, part, layer",
    [
        (dict(aux_layers=(1,)), "frame.1", 1),
        (dict(aux_layers=(2,), aux_hidden=4), "frame.2", 2),
        (dict(aux_layers=(3,), aux_top_hidden=4), "frame.3", 3),
        (dict(aux_ctc_layers=(2,)), "ctc.2", 2),
        (dict(aux_token_weight=1.0), "token", 3),
    ],
    ids=str,
)
def test_supervision_reaches_its_layer_and_those_below(options, part, layer):
    with_heads, criterion, batch = make(model="ctc", **options)
    encoded, lens, layers = with_heads.model.encode_layers(batch.feats, batch.lens, with_heads.auxiliary.layers)
    terms = criterion._supervision(with_heads, layers, encoded, lens, batch.indices, 7)
    got = gradients(with_heads, sum(value for _, value in terms.values()))
    assert all(got[name] > 0 for name in got if name.startswith(f"auxiliary.{part}."))
    for number in (1, 2, 3):
        reached = got[f"model.encoder.network.convs.{number - 1}.weight"] > 0
        assert reached == (number <= layer), number


@pytest.mark.parametrize(
    "options",
    [
        dict(model="ctc"),
        dict(model="attention"),
        dict(model="transducer"),
        dict(model="attention", ctc=False),
        dict(model="transducer", rnnt="pruned"),
    ],
    ids=str,
)
def test_objective_is_the_weighted_sum_of_its_parts(options):
    with_heads, criterion, batch = make(ctc_weight=0.5, aux_layers=(1, 3), aux_weight=0.25, **options)
    loss = criterion(with_heads, batch, 0.0)
    weights = {"ctc": 1.0 if options["model"] == "ctc" else 0.5, "frame_1": 0.25, "frame_3": 0.25, "simple": 0.5}
    parts = {k: v for k, v in loss.sums.items() if not k.endswith("_errors")}
    assert float(loss.total) == pytest.approx(sum(weights.get(k, 1.0) * v for k, v in parts.items()), rel=1e-5)
    assert loss.frames == 7 and {"frame_1", "frame_3"} <= set(parts)
    got = gradients(with_heads, loss.total)
    assert all(value > 0 for name, value in got.items() if "joins" not in name), got


def test_dev_sees_neither_auxiliary_losses_nor_smoothing():
    with_heads, criterion, batch = make(model="attention", aux_layers=(1,), choose_by="loss")
    with_heads.eval()
    with torch.no_grad():
        loss = criterion(with_heads, batch, 1.0)
        encoded, lens = with_heads.model.encode(batch.feats, batch.lens, normalised=True)
        log_probs = with_heads.model.decoder(encoded, lens, torch.tensor([[3, 4, 3], [5, 5, 0]]))
    expected = -(log_probs[0, range(4), [3, 4, 3, 1]].sum() + log_probs[1, range(3), [5, 5, 1]].sum())
    assert loss.sums["attention"] == pytest.approx(float(expected), rel=1e-5)
    assert "frame_1" not in loss.sums
    criterion.options = TrainEndToEndOptions(**SMALL, choose_by="errors")
    with torch.no_grad():
        assert float(criterion(with_heads, batch, 1.0).total) == loss.sums["ctc_errors"]


def test_dev_loss_of_pruned_training_is_the_full_one_utterance_by_utterance(monkeypatch):
    """What full training sees of the same model, with one lattice at a time."""
    lattices = []
    logits = Transducer.logits
    monkeypatch.setattr(Transducer, "logits", lambda self, *args: lattices.append(out := logits(self, *args)) or out)
    losses, batch = [], make(model="ctc")[2]
    for rnnt in ("pruned", "full"):
        with_heads, criterion, _ = make(model="transducer", rnnt=rnnt, choose_by="loss")
        with_heads.eval()
        with torch.no_grad():
            losses.append(criterion(with_heads, batch, 1.0))
    assert losses[0].sums["transducer"] == pytest.approx(losses[1].sums["transducer"], rel=1e-5)
    assert losses[0].total == pytest.approx(float(losses[1].total), rel=1e-5) and losses[0].frames == 7
    assert [tuple(each.shape[:3]) for each in lattices] == [(1, 7, 4), (1, 4, 3), (2, 7, 4)]


def test_company_changes_no_loss():
    with_heads, criterion, batch = make(
        model="transducer", aux_layers=(1,), aux_transducer_layers=(2,), choose_by="loss"
    )
    with_heads.eval()
    with torch.no_grad():
        both = criterion(with_heads, batch, 1.0)
        alone = [
            criterion(with_heads, Batch(np.array([i]), batch.feats[i : i + 1, :n], torch.tensor([n])), 1.0)
            for i, n in ((0, 13), (1, 7))
        ]
    for name in ("ctc", "transducer"):
        assert both.sums[name] == pytest.approx(sum(a.sums[name] for a in alone), rel=1e-4)


def test_alternation_takes_one_or_the_other():
    with_heads, criterion, batch = make(model="ctc", aux_layers=(1,), aux_token_weight=1.0, aux_alternate=True)
    found = [{"frame_1", "tokens"} & set(criterion(with_heads, batch, 0.0).sums) for _ in range(20)]
    assert all(len(names) == 1 for names in found) and {"frame_1"} in found and {"tokens"} in found


def test_greedy_errors_by_hand():
    """Frames a a - a b b: tokens a a b; against a b c two edits."""
    best = torch.tensor([[3, 3, 0, 3, 4, 4]])
    log_probs = torch.nn.functional.one_hot(best, 6).float().log()
    assert greedy_errors(log_probs, torch.tensor([6]), [np.array([3, 4, 5])]) == 2
    assert greedy_errors(log_probs, torch.tensor([2]), [np.array([3])]) == 0


def test_jitter_moves_boundaries_as_far_as_it_says():
    labels = np.repeat(np.arange(200), 40)
    moved = jitter(labels, 5.0, np.random.default_rng(0))
    assert len(moved) == len(labels) and (np.diff(moved) >= 0).all()
    starts = np.array([np.flatnonzero(moved >= k)[0] for k in range(1, 200)])
    assert np.abs(starts - 40 * np.arange(1, 200)).mean() == pytest.approx(5.0, rel=0.15)
    assert np.array_equal(jitter(labels, 0.0, np.random.default_rng(0)), labels)


@pytest.mark.parametrize(
    "options, text",
    [
        (dict(aux_layers=(4,)), "no layer 4.*1 to 3"),
        (dict(aux_ctc_layers=(0,)), "no layer 0"),
        (dict(aux_layers=(1, 1)), "twice"),
        (dict(aux_transducer_layers=(1,)), "--model transducer"),
        (dict(aux_alternate=True, aux_layers=(1,)), "--aux-token-weight"),
        (dict(model="transducer", rnnt="pruned", aux_transducer_layers=(1,)), "full"),
        (dict(model="transducer", frames_per_step=2, aux_transducer_layers=(1,)), "--frames-per-step 1"),
    ],
    ids=str,
)
def test_impossible_auxiliary_losses_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        check_layers(TrainEndToEndOptions(**{**SMALL, **options}))
