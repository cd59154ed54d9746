"""What can go wrong through no fault of the code: every class here ends a step with exit code 2, and so does what
``of_environment`` knows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

# MemoryError's siblings: torch and others raise plain RuntimeErrors, and a thread needs memory of its own.
_OUT_OF_MEMORY = re.compile(
    r"DefaultCPUAllocator: can't allocate memory|CUDA out of memory|can't start new thread|[Cc]annot allocate memory"
    r"|Can't allocate memory|bad_alloc|bad allocation|failed to map segment"
)
# A GPU that is not there, gone, or taken by somebody. Illegal accesses and assertions of kernels are our own mistakes.
_NO_GPU = re.compile(
    r"No CUDA GPUs are available|Found no NVIDIA driver|not compiled with CUDA|CUDA driver .*is insufficient"
    r"|CUDA error: (invalid device ordinal|uncorrectable|hardware|unspecified launch failure|unknown error|GPU is lost"
    r"|no CUDA-capable device|all CUDA-capable devices are busy|CUDA-capable device\(s\) is/are busy"
    r"|the launch timed out|system not yet)"
)
# The user can mend these: a full disk or quota, a place where nothing may be written, a disk that fails, limits.
_USER_ERRNO = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE),
)


class PipelineError(Exception):
    """An error whose message tells the user what to change; anything else that is raised is a bug."""


class DataError(PipelineError):
    """The user's data is wrong. The message starts with where: ``lexicon.txt:17: word 'A' has no phones``."""


class MismatchError(DataError):
    """Two artifacts do not belong together (another topo, tree or lang); the message names both directories."""


class StaleError(PipelineError):
    """An output directory exists, made with other options or inputs than those given now."""


class ConfigError(PipelineError):
    """An option is unknown, missing, of the wrong type or out of its range."""


def of_environment(err: Exception, out: Path | None) -> str | None:
    """What to tell of an error that the machine has caused; None for any other one."""
    cause: BaseException | None = err
    while cause is not None:  # a library that could not be loaded for want of memory is told of by an error of its own
        said = str(cause)
        no_memory = isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
        if no_memory or _OUT_OF_MEMORY.search(said):
            return (
                f"out of memory ({said.splitlines()[0] if said else 'main memory'}); smaller batches need less, in "
                "most steps --batch-frames; the same command resumes the work"
            )
        cause = cause.__cause__ or cause.__context__
    said = str(err)
    if _NO_GPU.search(said):
        return f"the GPU failed ({said.splitlines()[0]}); the same command resumes the work, or --device cpu"
    if isinstance(err, OSError) and err.errno in _USER_ERRNO:
        place = os.fsdecode(err.filename) if isinstance(err.filename, (str, bytes)) else out or "output"
        return f"{place}: {err.strerror}; nothing was changed under the final name"
    return None


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Within the context a PipelineError gets `path` in front: what finds a contradiction may not know the file."""
    try:
        yield
    except PipelineError as err:
        raise type(err)(f"{path}: {err}") from None
