"""Model directories: tensors in safetensors, everything else in JSON, nothing that can run code."""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.model_meta import META, M, ModelMeta, load_meta
from pipeline.base.errors import ConfigError, DataError, MismatchError
from pipeline.base.files import atomic_write, parse_json, write_json
from pipeline.base.records import to_json

if TYPE_CHECKING:
    import torch

TENSORS = "model.safetensors"
# What building a network raises whose shape in model.json is damaged, or not that of the tensors.
OTHER_SHAPE = (ConfigError, KeyError, TypeError, ValueError, OverflowError, RuntimeError, MemoryError)
_DTYPES = {"I32": "<i4", "I64": "<i8", "F32": "<f4", "F64": "<f8", "U8": "u1"}


def save_model(directory: str | Path, tensors: dict[str, torch.Tensor], meta: ModelMeta) -> None:
    """Writes model.safetensors and model.json; each file is replaced as a whole or not at all.

    Args:
        tensors: any shapes and dtypes; moved to the CPU.
    """
    d = Path(directory)
    d.mkdir(parents=True, exist_ok=True)
    save_tensors(d / TENSORS, tensors)
    write_json(d / META, to_json(meta))


def load_model(directory: str | Path, *classes: type[M]) -> tuple[dict[str, torch.Tensor], M]:
    """Reads a model directory.

    Args:
        classes: the kinds of model that are expected.
    Raises:
        DataError: a missing or damaged file. MismatchError: another kind of model.
    """
    meta = load_meta(directory, *classes)
    tensors = load_tensors(Path(directory) / TENSORS)
    check_finite(tensors, Path(directory) / TENSORS)
    return tensors, meta


def save_tensors(path: str | Path, tensors: dict[str, torch.Tensor], meta: dict[str, str] | None = None) -> None:
    """One safetensors file, written atomically."""
    from safetensors.torch import save

    blob = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata=meta)
    with atomic_write(path, "wb") as f:
        f.write(blob)


def load_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Reads one safetensors file; DataError when it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    try:
        return load_file(str(path))
    except (SafetensorError, ValueError, OSError, AttributeError) as e:  # the last for dtypes that torch does not have
        raise DataError(f"{path}: damaged safetensors file ({e})") from None


def check_finite(tensors: dict[str, torch.Tensor], path: str | Path) -> None:
    """DataError for a tensor that holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise DataError(f"{path}: {name} holds NaN or infinity")


def map_arrays(path: str | Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a safetensors file, read-only and mapped into memory: what is never looked at is never read.

    Raises:
        DataError: a missing or damaged file.
    """
    p = Path(path)
    if not p.is_file():
        raise DataError(f"{p}: no such file")
    out = {}
    try:
        with p.open("rb") as f:
            mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        begin = 8 + int.from_bytes(mapped[:8], "little")
        for name, entry in parse_json(mapped[8:begin].decode(), f"{p}: damaged").items():
            if name != "__metadata__":
                first, end = entry["data_offsets"]
                dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), entry["shape"]
                count = math.prod(shape)
                if not (first >= 0 and end - first == count * dtype.itemsize and begin + end <= len(mapped)):
                    raise ValueError(f"array {name!r} reaches beyond the file")
                out[name] = np.frombuffer(mapped, dtype, count, begin + first).reshape(shape)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError) as e:
        raise DataError(f"{p}: damaged safetensors file ({e!r})") from None
    return out


def forget_pages(array: npt.NDArray[Any], sparse: bool = False) -> None:
    """Gives back the memory that holds what was read of the file of a mapped array; does nothing for other arrays.

    Args:
        sparse: from now on single elements are read, here and there, so that their neighbours need not be.
    """
    base: Any = array
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.obj if isinstance(base, memoryview) else base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
        if sparse:
            base.madvise(mmap.MADV_RANDOM)


def check_same(what: str, first: str, first_dir: str | Path, second: str, second_dir: str | Path) -> None:
    """MismatchError naming both directories unless the two ids agree.

    Args:
        what: "lang", "tree" or "topo", for the message.
    """
    if first != second:
        raise MismatchError(f"{first_dir} and {second_dir} do not belong together: {what} ids {first} and {second}")
