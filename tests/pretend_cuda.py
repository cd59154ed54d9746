"""A GPU that is not there: the code for CUDA runs on the CPU, and what a GPU would refuse is refused.

Every tensor has a mark that says where it would be. What moves tensors or makes them on "cuda" sets the mark and leaves
the values on the CPU; ``device`` and ``is_cuda`` tell what the mark says; a function whose arguments are in both places
is an error, as with torch itself, and so is an array of what is on the GPU. So whole trainings run as they would with
``--device cuda``, data-dependent branches included, which neither meta nor fake tensors can do; their results must be
those of the CPU.

Not seen are: what runs in other threads, and gradients that autograd hands to functions of our own, which have no mark.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

from pipeline.hmm import backends

HOST, GPU = "cpu", "cuda"
MOVES = {"to", "cuda", "cpu"}
# Take lengths or batch sizes on the CPU beside data on the GPU, or copy from one to the other.
MIXED = {"lstm", "gru", "rnn_tanh", "_pack_padded_sequence", "_pad_packed_sequence", "ctc_loss"}
MIXED |= {"copy_", "__set__", "_has_compatible_shallow_copy_type"}
INDEXING = {"__getitem__", "__setitem__", "index", "index_put", "index_put_"}


class WrongPlaceError(RuntimeError):
    """What a GPU would refuse."""


def place(tensor: torch.Tensor) -> str | None:
    """Where a tensor would be; None: not known. Parameters that were not moved are where they were made."""
    return tensor.__dict__.get("place", HOST if isinstance(tensor, torch.nn.Parameter) else None)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors of arguments or results."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


def _is_gpu(device: Any) -> bool:
    return str(device).startswith("cuda")


class PretendCuda(TorchFunctionMode):
    """Follows the places of tensors.

    Attributes:
        calls: how many functions had something on the GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        owner = getattr(getattr(func, "__self__", None), "__name__", "")  # of a property: its name
        if name == "__get__" and owner in ("device", "is_cuda"):
            on_gpu = place(args[0]) == GPU
            return (torch.device("cuda", 0) if on_gpu else func(*args)) if owner == "device" else on_gpu
        if name in MOVES and args and isinstance(args[0], torch.Tensor):
            return self._move(func, name, args, kwargs)
        found = list(tensors_in((args, kwargs)))
        self._check(name, args, found)
        target = None
        if "device" in kwargs and kwargs["device"] is not None:
            target = GPU if _is_gpu(kwargs["device"]) else HOST
            kwargs["device"] = "cpu"
        out = func(*args, **kwargs)
        if name == "__set__" and owner == "data" and place(args[1]):
            args[0].__dict__["place"] = place(args[1])
        places = {place(tensor) for tensor in found} - {None}
        self.calls += GPU in places
        if target is None:
            target = GPU if GPU in places else HOST if HOST in places or not found else None
        if target is not None and name != "__set__":
            for tensor in tensors_in(out):
                if not any(tensor is known for known in found):
                    tensor.__dict__["place"] = target
        if name == "_pack_padded_sequence":
            out[1].__dict__["place"] = HOST  # the sizes of batches
        return out

    def _move(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
        source, target = args[0], place(args[0])
        if name != "to":
            target = GPU if name == "cuda" else HOST
            args, kwargs = args[:1], {}
        else:
            wanted = [a for a in (*args[1:], *kwargs.values()) if isinstance(a, (str, torch.device, torch.Tensor))]
            for device in wanted:
                where = place(device) if isinstance(device, torch.Tensor) else GPU if _is_gpu(device) else HOST
                target = where or target
            plain = [a if not isinstance(a, (str, torch.device)) else "cpu" for a in args[1:]]
            args = (source, *plain)
            kwargs = {key: "cpu" if key == "device" else value for key, value in kwargs.items()}
        out = torch.Tensor.cpu(source) if name != "to" else func(*args, **kwargs)
        if out is source and place(source) != target:
            out = source.detach().clone() if not source.requires_grad else source.clone()  # moving is copying
        if target is not None:
            out.__dict__["place"] = target
        return out

    def _check(self, name: str, args: Any, found: list[torch.Tensor]) -> None:
        if name in ("numpy", "__array__") and place(args[0]) == GPU:
            raise WrongPlaceError(f"{name}() of a tensor on the GPU")
        if name in MIXED:
            return
        if name in INDEXING and place(args[0]) == GPU:  # positions may be on the CPU, as may be a single value
            return
        here = {place(tensor) for tensor in found if tensor.dim()} - {None}
        if len(here) > 1:
            shapes = ", ".join(f"{tuple(tensor.shape)} on {place(tensor)}" for tensor in found)
            raise WrongPlaceError(f"{name}: {shapes}")


@contextlib.contextmanager
def pretend_cuda() -> Iterator[PretendCuda]:
    """While this lasts there seems to be one GPU, on which the engine runs in plain torch: Triton would want a real one."""
    choose = backends._module

    def without_triton(backend: str, device: str) -> backends.Engine:
        return choose("torch" if (backend, device) == ("auto", "cuda") else backend, device)

    state = torch.zeros(0, dtype=torch.uint8)
    patches = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_rng_state": lambda *_: state,
        "set_rng_state": lambda *_: None,
        "max_memory_allocated": lambda *_: 0,
        "reset_peak_memory_stats": lambda *_: None,
        "synchronize": lambda *_: None,
    }
    with contextlib.ExitStack() as stack:
        for name, stand_in in patches.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, stand_in))
        stack.enter_context(mock.patch.object(backends, "_module", without_triton))
        yield stack.enter_context(PretendCuda())
