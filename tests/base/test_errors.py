"""The error classes and the exit codes they become."""

from __future__ import annotations

import errno
import threading

import pytest

from pipeline.base import cli
from pipeline.base.errors import ConfigError, DataError, MismatchError, PipelineError, StaleError


def test_hierarchy():
    """A mismatch is wrong data to whoever catches DataError; stale outputs and options are not."""
    assert issubclass(MismatchError, DataError)
    for other in (StaleError, ConfigError):
        assert issubclass(other, PipelineError) and not issubclass(other, DataError)


@pytest.mark.parametrize(
    "error, code",
    [
        (DataError("x"), 2),
        (MismatchError("x"), 2),
        (StaleError("x"), 2),
        (ConfigError("x"), 2),
        (OSError(errno.ENOSPC, "No space left on device"), 2),
        (OSError(errno.EACCES, "Permission denied", "out"), 2),
        (OSError(errno.EIO, "Input/output error"), 2),
        (OSError(errno.EMFILE, "Too many open files", "a.wav"), 2),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 2),
        (OSError(errno.ENOENT, "No such file or directory", "a.wav"), 1),
        (KeyboardInterrupt(), 130),
        (AssertionError("x"), 1),
        (ValueError("x"), 1),
        (MemoryError(), 2),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), 2),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 2),
        (RuntimeError("No CUDA GPUs are available"), 2),
        (RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"), 2),
        (AssertionError("Torch not compiled with CUDA enabled"), 2),
        (RuntimeError("CUDA error: invalid device ordinal\nCUDA kernel errors might be reported later"), 2),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), 2),
        (RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later"), 2),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), 1),
        (RuntimeError("can't start new thread"), 2),
        (ImportError("libx.so: failed to map segment from shared object: Cannot allocate memory"), 2),
        (RuntimeError("x"), 1),
    ],
)
def test_exit_codes(error, code):
    with pytest.raises(SystemExit) as exit_, cli.main_guard():
        raise error
    assert exit_.value.code == code


def test_message_on_stderr(capsys):
    with pytest.raises(SystemExit), cli.main_guard():
        raise DataError("lexicon.txt:17: word 'A' has no phones")
    out, err = capsys.readouterr()
    assert out == ""
    assert "ERROR lexicon.txt:17: word 'A' has no phones" in err
    assert "Traceback" not in err


def test_bug_shows_traceback(capsys):
    with pytest.raises(SystemExit), cli.main_guard():
        raise ZeroDivisionError("seven")
    assert "Traceback" in capsys.readouterr().err


def test_a_thread_that_the_machine_ends_is_told_in_a_line(capsys):
    def write() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", b"events.out")

    with cli.main_guard():
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    told = capsys.readouterr().err
    assert "WARNING events.out: No space left on device\n" in told and "Traceback" not in told


def test_want_of_memory_behind_another_error(caplog):
    """As llvmlite tells of its library, which could not be loaded."""
    with pytest.raises(SystemExit) as ended, cli.main_guard():
        try:
            raise OSError("libllvmlite.so: failed to map segment from shared object")
        except OSError as err:
            raise OSError("Could not find/load shared object file") from err
    assert ended.value.code == 2 and "out of memory (libllvmlite.so: failed to map" in caplog.text
