"""Compiled loops and numba's cache of their code: every process runs what is in the cache, and one writes to it.

Three things go wrong with plain ``numba.njit(cache=True)``:

- A process that compiles a loop runs other code than those that load it afterwards. Compiling brings the functions that
  the loop calls into the process as code of their own, which the linker then prefers to the loop's copies of them; the
  two were optimised in different surroundings, and under fastmath they differ in the last bits. Here a forked process
  compiles, so that the first run loads the code as all later ones do.
- The code of a loop in the cache has copies of the functions that it calls, under their common names, and the linker
  takes the copy that a process has loaded first. So the last bits of a sum depend on what the process has done before.
  Here a loop's copies are its own, with names that nobody else sees.
- numba finds a loop's code by the types of its arguments. Two processes that compile one loop for different types at
  once may give both the same file, so compiling takes a lock. It lies beside the cache, which belongs to one checkout,
  and an empty mark for every version that is there lets other processes load it without waiting for anyone.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numba
from llvmlite.binding import Linkage
from numba.core.codegen import CPUCodeLibrary
from numba.core.compiler_lock import global_compiler_lock

from pipeline.base.files import atomic_write, no_link

LOCK = "compiling.lock"
SOURCES = ".sources"  # ends the names of files with the digest of what code was made of
PYTHON_FUNCTION = "_ZN"  # how the names of compiled Python functions begin; numba's helpers are the same everywhere
_compiling = False  # whether this process is between the first look for a version and its end; under numba's lock


def cached_njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator for a loop that is compiled once per machine; options as of ``numba.njit``."""

    def decorate(function: Callable[..., Any]) -> Any:
        loop = numba.njit(cache=True, **options)(function)
        plain = loop.compile

        def compile_once(signature: Any) -> Any:
            global _compiling
            with global_compiler_lock:
                if _compiling:  # a function that the loop calls
                    return plain(signature)
                _compiling = True
                try:
                    with _own_copies():
                        _fill_cache(loop, functools.partial(plain, signature), str(signature))
                        return plain(signature)
                finally:
                    _compiling = False

        loop.compile = compile_once
        return loop

    return decorate


@contextlib.contextmanager
def _own_copies() -> Iterator[None]:
    """While this lasts, what is compiled keeps its copies of other functions to itself. numba has no option for it."""
    finalize = CPUCodeLibrary._finalize_final_module

    def finalize_with_own_copies(library: Any) -> None:
        module = library._final_module
        copies = [f.name for f in module.functions if not f.is_declaration and f.linkage == Linkage.linkonce_odr]
        if copies and library._shared_module is None:  # compiled here, not loaded
            # Loops that call this one get its code with common names, so that they have each function once.
            shared = module.clone()
            for function in shared.functions:
                if not function.is_declaration and function.linkage == Linkage.external:
                    function.linkage = Linkage.linkonce_odr
            library._shared_module = shared
            for name in copies:
                if name.startswith(PYTHON_FUNCTION):
                    module.get_function(name).linkage = Linkage.internal
        finalize(library)

    CPUCodeLibrary._finalize_final_module = finalize_with_own_copies
    try:
        yield
    finally:
        CPUCodeLibrary._finalize_final_module = finalize


def _fill_cache(loop: Any, compile_it: Callable[[], Any], signature: str) -> None:
    """Have a version of a loop in the cache. Where that fails, the caller meets the error when it compiles itself."""
    where, name = loop.stats.cache_path, loop.py_func.__qualname__
    if where is None:
        return
    source = Path(loop.py_func.__code__.co_filename)
    state = source.stat()  # numba gives up the code of a file that has changed; its marks must not outlive it
    key = repr((name, signature, state.st_mtime_ns, state.st_size, _machine()))
    mark = Path(where) / f"{source.stem}.{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.nbm"
    if mark.exists():
        return
    mark.parent.mkdir(parents=True, exist_ok=True)
    with open(mark.parent / LOCK, "w", opener=no_link) as lock:  # closed, here and in the child, it is free
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.exists() and _in_a_fork(compile_it):
            mark.touch()


def _in_a_fork(action: Callable[[], Any]) -> bool:
    """Runs an action in a copy of this process; whether it came to its end."""
    with warnings.catch_warnings():
        # Python warns of threads that may hold a lock at this moment. The compiler's is ours, and nothing else is used.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)  # no handlers, no flushing of what the parent has in its buffers
    return os.waitpid(child, 0)[1] == 0


@functools.cache
def _machine() -> tuple[str, str, str]:
    """What numba's cache tells apart beside types: its version and the processor, which share one home directory."""
    from llvmlite import binding

    return numba.__version__, binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()


def drop_stale_code(where: str | Path, stems: Iterable[str], sources: Iterable[str | Path]) -> None:
    """Drop compiled code of some modules that was made from other sources than there are now.

    numba looks at the file of a loop alone, not at those of the functions that the loop calls. Times of files tell
    little: clocks are set back, and copies of a checkout keep times. So a digest of the sources lies beside the code.

    Args:
        where: directory of the cache, a loop's ``stats.cache_path``.
        stems: names of the modules whose code goes.
        sources: files that it is made of.
    """
    stems, files = list(stems), [Path(source) for source in [*sources, __file__]]
    name = hashlib.sha256(repr((stems, [str(file) for file in files])).encode()).hexdigest()[:16]
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
    mark = Path(where) / f"{stems[0]}.{name}{SOURCES}"
    known = mark.read_text(encoding="ascii") if mark.is_file() else None
    if known == digest:
        return
    newest = max(file.stat().st_mtime for file in files)
    for stem in stems:
        for cached in Path(where).glob(f"{stem}.*.nb?"):
            with contextlib.suppress(OSError):  # another process was quicker
                if known is not None or cached.stat().st_mtime < newest:
                    cached.unlink()
    with contextlib.suppress(OSError):  # where nothing may be written there is no code of ours
        with atomic_write(mark) as out:
            out.write(digest)
