"""A process under a limit of memory (`ulimit -v`, RLIMIT_AS), watched by the one that was started.

Where an allocation fails Python raises MemoryError, but native code may end the process: by SIGABRT (C++, LLVM), by
SIGSEGV (BLAS, compiled loops), the loader by exit code 127. Nothing within that process can tell of it, so whoever
waits for it does.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable

# How processes end that run short of memory in native code.
BY_SIGNALS = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP)
LOADER_FAILED = 127
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG = 1
_FROM_A_PROCESS = 0  # SI_USER; a terminal sends its signals to both processes itself

_watched = False


def how_ended(code: int) -> str:
    """How a process has ended, for people: `code` as of ``os.waitstatus_to_exitcode``, -N for signal N."""
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL; the machine may have been short of memory)"
    if crashed(code):
        return f"was ended by {_name(code)}, most likely for want of memory"
    return f"ended with exit code {code}" if code >= 0 else f"was ended by {_name(code)}"


def crashed(code: int) -> bool:
    """Whether native code has ended a process, as it does where memory is short, or has a bug."""
    return code == LOADER_FAILED or -code in BY_SIGNALS


def _name(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def watch_over(tell: Callable[[str], None]) -> int | None:
    """Under a limit of the address space: goes on in a child process, and tells if that crashes.

    Without a limit, and for the second time, does nothing. Else it returns in the child alone, which ends when its
    parent does. The parent hands signals on until the child has ended, and dies of the signal that this died of.

    Args:
        tell: what is done with the message.
    Returns:
        in the parent what it has to end with: the child's exit code, or 2 where native code has ended it; else None.
    """
    global _watched
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if _watched or limit == resource.RLIM_INFINITY or sys.platform != "linux" or threading.active_count() > 1:
        return None
    _watched = True
    libc = ctypes.CDLL(None)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*_PASSED_ON, signal.SIGCHLD))
    parent, child = os.getpid(), os.fork()
    if child == 0:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return None
    code = _wait(child)
    if crashed(code):
        tell(
            f"out of memory: the step {how_ended(code)} within the limit of {limit >> 20} MiB (ulimit -v); the same "
            "command resumes the work, with a higher limit, or smaller batches, in most steps --batch-frames"
        )
        code = 2
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (-code,))
        os.kill(parent, -code)
    return code


def _wait(child: int) -> int:
    """Waits for a child and hands signals on to it; how it ended, as ``os.waitstatus_to_exitcode`` says."""
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        got = signal.sigwaitinfo((*_PASSED_ON, signal.SIGCHLD))
        if got.si_signo != signal.SIGCHLD and got.si_code == _FROM_A_PROCESS:
            os.kill(child, got.si_signo)
