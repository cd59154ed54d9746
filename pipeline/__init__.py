"""From audio and transcripts to alignments, hybrid and end-to-end speech recognition, over one graph core."""
import os

__version__ = "0.1.0"


def _let_mkl_use_avx2() -> None:
    """On AMD processors the MKL of torch 1.13 (2020.0) falls back to SSE, which makes matrix products take 2.4 times as long.

    The variable is read at the first product; later versions of MKL ignore it.
    """
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as file:
            amd = "AuthenticAMD" in file.read(4096)
    except OSError:
        return
    if amd:
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")


_let_mkl_use_avx2()
