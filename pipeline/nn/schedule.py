"""Optimizers and learning rates; a rate is a function of the share of the training that is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from types import MappingProxyType

import torch

from pipeline.nn.options import TrainOptions

FINAL_PHASE = 0.1  # share of a one-cycle training in which the rate falls from its first value to almost 0


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter],
    options: TrainOptions,
    factors: Mapping[torch.nn.Parameter, float] = MappingProxyType({}),
    without_decay: Set[torch.nn.Parameter] = frozenset(),
) -> torch.optim.Optimizer:
    """Nadam (Dozat 2016), Adam, AdamW or plain SGD with the options' weight decay.

    Args:
        factors: of the learning rates of some parameters, see ``set_rate``.
        without_decay: parameters that weight decay leaves alone.
    """
    classes: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "nadam": torch.optim.NAdam,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
    }
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for parameter in parameters:
        decay = 0.0 if parameter in without_decay else options.weight_decay
        groups.setdefault((factors.get(parameter, 1.0), decay), []).append(parameter)
    return classes[options.optimizer](
        [
            {"params": members, "rate_factor": factor, "weight_decay": decay}
            for (factor, decay), members in groups.items()
        ],
        lr=options.learning_rate,
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """What a checkpoint needs: "<number of the parameter>.<name>"; nothing of plain SGD."""
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if value is not None  # SGD's momentum, of which it has none
    }


_NOT_NEGATIVE = ("step", "exp_avg_sq", "max_exp_avg_sq")


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Restores in place what ``optimizer_tensors`` gave; ValueError for what does not go with the parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    values: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        # Numbers of updates, and moments, of which no square is below 0.
        fits = tensor.shape in ((), parameters[int(index)].shape)
        if not fits or (key in _NOT_NEGATIVE and bool((tensor < 0).any())):
            raise ValueError(f"{name} of the optimizer")
        values.setdefault(int(index), {})[key] = tensor
    if len({frozenset(state) for state in values.values()}) > 1:
        raise ValueError("states of the optimizer that do not have the same parts")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": values})


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate, times the factor of each group."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]


def learning_rate(done: float, options: TrainOptions, decays: int = 0) -> float:
    """Learning rate after a share of the training.

    one_cycle: linear from lr_start * peak up to the peak at lr_rise, linear back to the same value at
    1 - FINAL_PHASE, then down to a hundredth of it (cf. Smith and Topin 2018; the shape of Mann et al. 2023).
    tri_stage: linear up to the peak at lr_rise, the peak for lr_hold, exponential down to lr_final * peak (Park et al.
        2019).

    Args:
        done: 0 .. 1.
        decays: plateau: how often the dev loss has not fallen.
    """
    assert 0.0 <= done <= 1.0, done
    peak, low = options.learning_rate, options.learning_rate * options.lr_start
    if options.schedule == "constant":
        return peak
    if options.schedule == "plateau":
        warm = min(done / 0.02, 1.0)
        return (low + (peak - low) * warm) * options.lr_decay**decays
    if options.schedule == "tri_stage":
        if done < options.lr_rise:
            return low + (peak - low) * done / options.lr_rise
        fall = max(1.0 - options.lr_rise - options.lr_hold, 1e-9)
        return peak * options.lr_final ** min(max(done - options.lr_rise - options.lr_hold, 0.0) / fall, 1.0)
    turn, end = min(options.lr_rise, 1.0 - FINAL_PHASE), 1.0 - FINAL_PHASE
    if done < turn:
        return low + (peak - low) * done / turn
    if done < end:
        return peak + (low - peak) * (done - turn) / (end - turn)
    return low * (1.0 - 0.99 * (done - end) / FINAL_PHASE)
