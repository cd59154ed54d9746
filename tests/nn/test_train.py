"""The training loop: resuming, determinism, schedules, divergence."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from pipeline.artifacts.checkpoint import load_tensors, save_tensors
from pipeline.base.errors import ConfigError, DataError
from pipeline.feats.dataset import Dataset
from pipeline.nn.losses import CrossEntropy
from pipeline.nn.model import AcousticModel
from pipeline.nn.options import EncoderOptions, TrainOptions
from pipeline.nn.schedule import learning_rate, make_optimizer, set_rate
from pipeline.nn.step import lowest_entropy
from pipeline.nn.train import CHECKPOINT, DivergenceError, Loss, Task, clean_up, pick_device, train
from pipeline.nn.train_state import GROW_STEPS, TrainState, average, best_epochs, load_state, save_state

SMALL = EncoderOptions(encoder="blstm", layers=1, dim=6, dropout=0.2)
OPTIONS = TrainOptions(epochs=4, batch_frames=60, average=2, device="cpu")


class Interrupt(Exception):
    """Stands for kill -9."""


class Stopping(CrossEntropy):
    """Cross-entropy that stops the training at a given call."""

    def __init__(self, labels, stop_at):
        super().__init__(labels)
        self.left = stop_at

    def __call__(self, model, batch, done):
        self.left -= 1
        if self.left < 0:
            raise Interrupt
        return super().__call__(model, batch, done)


def make_data() -> tuple[Dataset, list[np.ndarray]]:
    """Twelve utterances whose label is the sign of the first feature."""
    rng = np.random.default_rng(0)
    lens = rng.integers(5, 20, 12)
    feats = torch.from_numpy(rng.standard_normal((int(lens.sum()), 4)).astype(np.float32)).split(lens.tolist())
    return Dataset.of(feats), [(own[:, 0] > 0).long().numpy() for own in feats]


def fresh_model() -> AcousticModel:
    torch.manual_seed(5)
    return AcousticModel(4, 2, SMALL)


def run(out, options=OPTIONS, criterion=None, dev=True, model=None):
    data, labels = make_data()
    model = model or fresh_model()
    task = Task(data, CrossEntropy(labels)) if dev else None
    history = train(model, Task(data, criterion or CrossEntropy(labels)), task, options, out)
    return model, history


def test_it_learns(tmp_path):
    _, history = run(
        tmp_path, dataclasses.replace(OPTIONS, epochs=30, learning_rate=0.02, time_masks=0, feature_masks=0)
    )
    assert history[-1]["dev_accuracy"] > 0.95 and history[-1]["dev_loss"] < 0.5 * history[0]["dev_loss"]
    assert list((tmp_path / "log" / "tensorboard").glob("events*"))


@pytest.mark.parametrize("optimizer", ["nadam", "adam", "adamw", "sgd"])
@pytest.mark.parametrize("stop_at", [0, 5, 11])
def test_resumed_is_bit_equal(tmp_path, monkeypatch, optimizer, stop_at):
    """Interrupted at once, inside an epoch (checkpoint after every batch) and in a later epoch."""
    schedule = {"adamw": "plateau", "adam": "tri_stage"}.get(optimizer, "one_cycle")
    options = dataclasses.replace(
        OPTIONS, optimizer=optimizer, schedule=schedule, accumulate=2 if optimizer == "adam" else 1
    )
    whole, history = run(tmp_path / "whole", options)
    monkeypatch.setattr("pipeline.nn.train.SAVE_SECONDS", 0.0 if stop_at == 5 else 300.0)
    with pytest.raises(Interrupt):
        run(tmp_path / "broken", options, Stopping(make_data()[1], stop_at))
    torch.manual_seed(99)
    resumed, again = run(tmp_path / "broken", options)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert [{k: v for k, v in h.items() if k != "seconds"} for h in again] == [
        {k: v for k, v in h.items() if k != "seconds"} for h in history
    ]


def test_accumulated_batches_are_one_large_batch(tmp_path):
    """All utterances at once, or one after the other with a single update: the same mean over frames."""
    plain = dict(epochs=2, time_masks=0, feature_masks=0, learning_rate=0.05, optimizer="adam")
    states = []
    for name, options in (("one", dict(batch_frames=10_000)), ("many", dict(batch_frames=1, accumulate=12))):
        model = fresh_model()
        model.encoder.network.dropout = 0.0
        run(tmp_path / name, dataclasses.replace(OPTIONS, **plain, **options), model=model)
        states.append(model.state_dict())
    first = fresh_model().state_dict()
    for name, tensor in states[0].items():
        assert torch.allclose(tensor, states[1][name], atol=1e-4), name
    assert any(not torch.allclose(states[0][name], first[name], atol=1e-2) for name in first)


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_learns_and_keeps_parameters_exact(tmp_path, precision):
    plain = dict(epochs=30, learning_rate=0.02, time_masks=0, feature_masks=0)
    options = dataclasses.replace(OPTIONS, **plain, precision=precision, device="cuda")
    model, history = run(tmp_path, options)
    assert history[-1]["dev_accuracy"] > 0.95 and all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_needs_a_gpu(tmp_path, precision):
    with pytest.raises(ConfigError, match=f"--precision {precision} is for GPUs"):
        run(tmp_path, dataclasses.replace(OPTIONS, precision=precision))


def test_posteriors_stay_in_32_bits():
    model = fresh_model()
    with torch.autocast("cpu", torch.bfloat16):
        encoded = torch.randn(1, 3, model.encoder.out_dim)
        assert model.output(encoded).dtype == torch.bfloat16 and model.log_posteriors(encoded).dtype == torch.float32


def test_scaled_losses_give_the_same_gradients(tmp_path, monkeypatch):
    """As in float16, whose scale is a power of two: the same bits, unless a gradient overflows."""
    options = dataclasses.replace(OPTIONS, time_masks=0, feature_masks=0)
    plain = run(tmp_path / "plain", options)[0].state_dict()
    monkeypatch.setattr("pipeline.nn.train.TrainState", lambda loss_scale: TrainState(loss_scale=1024.0))
    scaled = run(tmp_path / "scaled", options)[0].state_dict()
    assert all(torch.equal(plain[name], scaled[name]) for name in plain)


def test_the_scale_of_losses_follows_their_gradients():
    state = TrainState(loss_scale=4.0)
    assert state.adapt_scale(False) and state.adapt_scale(False) and state.loss_scale == 1.0
    assert not state.adapt_scale(False) and state.loss_scale == 1.0
    assert all(state.adapt_scale(True) for _ in range(GROW_STEPS)) and state.loss_scale == 2.0 and state.good_steps == 0


def test_tri_stage():
    options = TrainOptions(
        schedule="tri_stage", learning_rate=1.0, lr_rise=0.2, lr_start=0.1, lr_hold=0.3, lr_final=0.01
    )
    rates = [learning_rate(x, options) for x in (0.0, 0.1, 0.2, 0.5, 0.75, 1.0)]
    assert rates == pytest.approx([0.1, 0.55, 1.0, 1.0, 0.1, 0.01])


def test_global_random_numbers_are_left_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    run(tmp_path, model=_model_without_random_numbers())
    assert torch.equal(torch.rand(1), expected)


def _model_without_random_numbers() -> AcousticModel:
    with torch.random.fork_rng():
        return fresh_model()


def test_another_seed_is_another_training(tmp_path):
    a, _ = run(tmp_path / "a")
    b, _ = run(tmp_path / "b", dataclasses.replace(OPTIONS, seed=2))
    assert not torch.equal(a.output.weight, b.output.weight)


def test_final_model_is_the_mean_of_the_best_epochs(tmp_path):
    model, history = run(tmp_path)
    chosen = best_epochs(history, 2)
    mean = average([tmp_path / "epochs" / f"epoch-{e}.safetensors" for e in chosen])
    assert all(torch.equal(v, mean[k]) for k, v in model.state_dict().items())
    assert len(list((tmp_path / "epochs").iterdir())) == 2
    clean_up(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log"]


def test_best_epochs():
    history = [{"dev_loss": x} for x in (3.0, 1.0, 2.0, 1.5)]
    assert best_epochs(history, 2) == [2, 4] and best_epochs([{"loss": 1.0}] * 4, 2) == [3, 4]


def test_the_mean_of_priors_is_a_prior(tmp_path):
    probs = torch.tensor([[0.98, 0.01, 0.01], [0.02, 0.18, 0.8]])
    for n, row in enumerate(probs):
        save_tensors(tmp_path / str(n), {"log_prior": row.log(), "student.log_prior": row.log(), "w": row})
    mean = average([tmp_path / "0", tmp_path / "1"])
    for name in ("log_prior", "student.log_prior"):
        assert torch.allclose(mean[name].exp(), probs.mean(0))
    assert torch.allclose(mean["w"], probs.mean(0))
    same = average([tmp_path / "0"] * 3)
    assert torch.equal(same["log_prior"], probs[0].log())


def test_nan_is_named(tmp_path):
    class Nan(CrossEntropy):
        def __call__(self, model, batch, done):
            loss = super().__call__(model, batch, done)
            return Loss(loss.total * float("nan"), loss.frames)

    with pytest.raises(DivergenceError, match="NaN.*learning-rate"):
        run(tmp_path, criterion=Nan(make_data()[1]))


def test_a_dev_loss_that_is_no_number_ends_the_training(tmp_path):
    class Nan(CrossEntropy):
        def __call__(self, model, batch, done):
            loss = super().__call__(model, batch, done)
            return loss if model.training else Loss(loss.total * float("nan"), loss.frames)

    class Nothing(CrossEntropy):
        def __call__(self, model, batch, done):
            loss = super().__call__(model, batch, done)
            return loss if model.training else Loss(loss.total * 0.0, 0, len(batch.indices))

    data, labels = make_data()
    for kind, error, said in (
        (Nan, DivergenceError, "dev data is nan.*learning-rate"),
        (Nothing, DataError, "every utterance was left out"),
    ):
        with pytest.raises(error, match=said):
            train(
                fresh_model(),
                Task(data, CrossEntropy(labels)),
                Task(data, kind(labels)),
                OPTIONS,
                tmp_path / kind.__name__,
            )


def test_nan_gradients_are_skipped_up_to_a_point(tmp_path):
    class Bad(CrossEntropy):
        def __call__(self, model, batch, done):
            loss = super().__call__(model, batch, done)
            zero = model.output.bias.sum() * 0.0
            return Loss(loss.total + torch.sqrt(zero) if self.left > 0 else loss.total, loss.frames)

    for count, fails in ((1, False), (1000, True)):
        criterion = Bad(make_data()[1])
        criterion.left = count
        before = criterion.__class__.__call__

        def counted(self, model, batch, done, before=before):
            loss = before(self, model, batch, done)
            self.left -= 1
            return loss

        criterion.__class__ = type("Counted", (Bad,), {"__call__": counted})
        out = tmp_path / str(count)
        options = dataclasses.replace(OPTIONS, epochs=8)
        if fails:
            with pytest.raises(DivergenceError, match="gradient"):
                run(out, options, criterion)
        else:
            model, _ = run(out, options, criterion)
            assert all(torch.isfinite(v).all() for v in model.state_dict().values())


def test_trouble_ends_the_training(tmp_path):
    class Troubled(CrossEntropy):
        def diagnose(self, model, figures, done):
            return "all-loop" if done > 0.5 else None

    with pytest.raises(DivergenceError, match="epoch 3: all-loop"):
        run(tmp_path, criterion=Troubled(make_data()[1]))


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("model", float("nan"), "holds NaN or infinity"),
        ("exp_avg_sq", -1.0, "not a checkpoint of this training"),
        ("step", -3.0, "not a checkpoint of this training"),
        ("exp_avg", None, "do not have the same parts"),
    ],
)
def test_checkpoints_with_impossible_numbers_are_refused(tmp_path, name, value, message):
    """They would make the training fail later, or never."""
    model = fresh_model()
    optimizer = torch.optim.Adam(model.parameters())
    sum(p.square().sum() for p in model.parameters()).backward()
    optimizer.step()
    save_state(tmp_path, TrainState(), model, optimizer)
    assert load_state(tmp_path, model, optimizer) == TrainState()
    tensors = load_tensors(tmp_path / CHECKPOINT)
    key = next(k for k, t in tensors.items() if k.startswith("model.") == (name == "model") and (name in k.split(".")))
    if value is None:
        del tensors[key]
    else:
        tensors[key] = torch.full_like(tensors[key], value)
    save_tensors(tmp_path / CHECKPOINT, tensors, {"state": json.dumps(dataclasses.asdict(TrainState()))})
    with pytest.raises(DataError, match=message):
        load_state(tmp_path, model, optimizer)


def test_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"\x10\0\0\0\0\0\0\0 not json")
    model = fresh_model()
    with pytest.raises(DataError, match="train.ckpt"):
        load_state(tmp_path, model, torch.optim.Adam(model.parameters()))


def test_one_cycle_shape():
    options = TrainOptions(learning_rate=1.0, lr_start=0.1, lr_rise=0.3)
    rates = [learning_rate(d, options) for d in (0.0, 0.15, 0.3, 0.6, 0.9, 1.0)]
    assert rates == pytest.approx([0.1, 0.55, 1.0, 0.55, 0.1, 0.001])
    assert learning_rate(0.5, TrainOptions(learning_rate=1.0, schedule="plateau"), decays=2) == pytest.approx(0.25)
    assert learning_rate(0.0, TrainOptions(learning_rate=1.0, schedule="constant")) == 1.0


def test_the_rate_falls_after_an_epoch_that_is_no_best_one(tmp_path):
    """On a plateau, one whose dev loss is not below that of all epochs before; an equal one is not below."""

    class Scripted(CrossEntropy):
        def __call__(self, model, batch, done):
            loss = super().__call__(model, batch, done)
            value = (3.0, 1.0, 2.0, 1.0, 0.5, 0.4)[round(done * 6) - 1]
            return Loss(loss.total * 0.0 + value * loss.frames, loss.frames)

    data, labels = make_data()
    options = dataclasses.replace(OPTIONS, epochs=6, schedule="plateau", lr_decay=0.5, learning_rate=0.01)
    history = train(fresh_model(), Task(data, CrossEntropy(labels)), Task(data, Scripted(labels)), options, tmp_path)
    assert [h["dev_loss"] for h in history] == pytest.approx([3.0, 1.0, 2.0, 1.0, 0.5, 0.4])
    rates = [h["learning_rate"] / 0.01 for h in history]  # of an epoch's end, before its dev loss is known
    assert rates == pytest.approx([1.0, 1.0, 1.0, 0.5, 0.25, 0.25])


def test_device():
    assert pick_device("cpu") == "cpu"
    if not torch.cuda.is_available():
        assert pick_device("auto") == "cpu"
        with pytest.raises(ConfigError, match="cuda"):
            pick_device("cuda")


def test_parameters_with_a_rate_of_their_own():
    """Two equal parameters with equal gradients: Adam's first step is the learning rate, times the factor."""
    slow, fast = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = make_optimizer(
        [slow, fast], dataclasses.replace(OPTIONS, optimizer="adam", weight_decay=0.0), {fast: 10.0}
    )
    set_rate(optimizer, 1e-3)
    for parameter in (slow, fast):
        parameter.grad = torch.full((1,), 0.7)
    optimizer.step()
    assert 1 - float(slow) == pytest.approx(1e-3, rel=1e-3) and 1 - float(fast) == pytest.approx(1e-2, rel=1e-3)


@pytest.mark.parametrize("dev", [True, False])
def test_entropy_of_attention_is_told_and_resumed(tmp_path, monkeypatch, dev):
    """Of each layer after each epoch; a training with sigma-reparam that was interrupted is bit-equal as well."""

    def attentive() -> AcousticModel:
        torch.manual_seed(5)
        shape = dict(encoder="transformer", layers=2, dim=8, heads=2, norms="post", sigma_reparam=True)
        return AcousticModel(4, 2, EncoderOptions(**shape))

    whole, history = run(tmp_path / "whole", model=attentive(), dev=dev)
    for figures in history:
        found = [figures[f"attention_entropy_{layer}"] for layer in (1, 2)]
        assert all(0 < entropy < np.log(20) for entropy in found) and lowest_entropy(figures) == {
            "attention_entropy": min(found)
        }
    monkeypatch.setattr("pipeline.nn.train.SAVE_SECONDS", 0.0)
    with pytest.raises(Interrupt):
        run(tmp_path / "broken", criterion=Stopping(make_data()[1], 8), model=attentive(), dev=dev)
    resumed, again = run(tmp_path / "broken", model=attentive(), dev=dev)
    assert [h["loss"] for h in again] == [h["loss"] for h in history]
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in whole.state_dict().items())
    assert "attention_entropy_1" not in run(tmp_path / "blstm")[1][0] and lowest_entropy({"loss": 1.0}) == {}
