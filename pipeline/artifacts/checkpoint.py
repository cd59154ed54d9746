"""Model directories: tensors in safetensors, everything else in JSON, nothing that can run code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.base.errors import DataError, MismatchError
from pipeline.base.files import atomic_write, read_json, write_json

if TYPE_CHECKING:
    import torch

META, TENSORS = "model.json", "model.safetensors"


def save_model(directory: str | Path, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
    """Writes model.safetensors and model.json; each file is replaced as a whole or not at all.

    Args:
        tensors: any shapes and dtypes; moved to the CPU.
        meta: JSON facts. By convention "kind", "config", "lang_id", "tree_id", "frame_shift", "features".
    """
    d = Path(directory)
    d.mkdir(parents=True, exist_ok=True)
    save_tensors(d / TENSORS, tensors)
    write_json(d / META, meta)


def load_model(directory: str | Path, kind: str | None = None) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Reads a model directory.

    Args:
        kind: expected meta["kind"].
    Raises:
        DataError: a missing or damaged file. MismatchError: another kind of model.
    """
    d = Path(directory)
    meta = read_json(d / META)
    if kind is not None and meta.get("kind") != kind:
        raise MismatchError(f"{d} holds a model of kind {meta.get('kind')!r}, not {kind!r}")
    return load_tensors(d / TENSORS), meta


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
    except (SafetensorError, ValueError, OSError) as e:
        raise DataError(f"{path}: damaged safetensors file ({e})") from None


def check_same(what: str, first: str, first_dir: str | Path, second: str, second_dir: str | Path) -> None:
    """MismatchError naming both directories unless the two ids agree.

    Args:
        what: "lang", "tree" or "topo", for the message.
    """
    if first != second:
        raise MismatchError(f"{first_dir} and {second_dir} do not belong together: {what} ids {first} and {second}")
