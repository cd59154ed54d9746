"""Programs that others wrote: ffmpeg for what libsndfile does not read, and the commands of a corpus. Never a shell."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

ADVICE = "; ffmpeg, which may read it, is not installed"
_BLOCK = 1 << 16  # samples
_SHELL = set("><&;$`*?()")  # what only a shell understands


class Probed(NamedTuple):
    """Rate in Hz and number of channels of the first audio stream, and the seconds that the file says it has, or 0."""

    rate: int
    channels: int
    seconds: float


def ffmpeg() -> bool:
    """Whether ffmpeg and its ffprobe are there."""
    return shutil.which("ffmpeg") is not None and shutil.which("ffprobe") is not None


def probe(path: str) -> Probed | None:
    """What ffmpeg knows of a file; None if it is not there or knows nothing."""
    if not ffmpeg():
        return None
    shown = ["-select_streams", "a:0", "-show_entries", "stream=sample_rate,channels:format=duration", "-of", "json"]
    command = ["ffprobe", "-v", "error", *shown, f"file:{path}"]
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=True)
        told = json.loads(done.stdout)
        stream, seconds = told["streams"][0], told.get("format", {}).get("duration", 0)
        found = Probed(int(stream["sample_rate"]), int(stream["channels"]), float(seconds))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, IndexError, TypeError):
        return None
    return found if found.rate > 0 and found.channels > 0 else None


def decoded(path: str, channels: int) -> Iterator[npt.NDArray[Any]]:
    """Blocks (t, C) of float32 samples of a file, decoded by ffmpeg; an AudioProblem where it fails."""
    from pipeline.corpora.audio import AudioProblem

    form = ["-map", "0:a:0", "-ac", str(channels), "-f", "f32le", "-c:a", "pcm_f32le", "-"]
    command = ["ffmpeg", "-nostdin", "-v", "error", "-xerror", "-i", f"file:{path}", *form]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL)
        assert process.stdout is not None
        try:
            while raw := process.stdout.read(4 * channels * _BLOCK):
                whole = len(raw) // (4 * channels) * 4 * channels
                yield np.frombuffer(raw[:whole], dtype="<f4").reshape(-1, channels)
            failed = process.wait() != 0
        finally:
            process.stdout.close()
            process.kill()
            process.wait()
        if failed:
            errors.seek(0)
            text = errors.read().decode(errors="replace").strip().splitlines() or ["ffmpeg failed"]
            raise AudioProblem("damaged audio", f"{path}: damaged ({text[-1]})")


def run_pipe(command: str, output: Path) -> None:
    """Run ``program arguments | program arguments |`` without a shell and write what it prints to a file.

    Raises:
        ValueError: it needs a shell. RuntimeError: a program failed. OSError: a program is not there.
    """
    stages = pipe_stages(command)
    with contextlib.ExitStack() as stack, open(output, "wb") as target, tempfile.TemporaryFile() as errors:
        processes: list[subprocess.Popen[bytes]] = []
        source: Any = subprocess.DEVNULL
        for i, words in enumerate(stages):
            last = i == len(stages) - 1
            process = subprocess.Popen(words, stdin=source, stdout=target if last else subprocess.PIPE, stderr=errors)
            stack.callback(process.wait)
            stack.callback(process.kill)
            if source is not subprocess.DEVNULL:
                source.close()  # the program behind has it; the one before notices when that ends
            source = process.stdout
            processes.append(process)
        codes = [process.wait() for process in processes]
        # A program that writes to one that has read enough and ended well ends by this signal: nothing is wrong.
        codes[:-1] = [0 if code == -signal.SIGPIPE else code for code in codes[:-1]]
        if any(codes):
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            raise RuntimeError(f"exit status {next(filter(None, codes))}{f' ({said[-1]})' if said else ''}")


def pipe_stages(command: str) -> list[list[str]]:
    """Words of the programs of a pipe; ValueError for one that only a shell understands."""
    lexer = shlex.shlex(command.strip().removesuffix("|"), posix=True, punctuation_chars="|")
    lexer.whitespace_split = True
    lexer.commenters = ""
    stages: list[list[str]] = [[]]
    for word in lexer:
        if word == "|":
            stages.append([])
        elif set(word) <= {"|"} or (_SHELL & set(word) and not _quoted(command, word)):
            raise ValueError(f"{word!r} needs a shell, which is not used")
        else:
            stages[-1].append(word)
    if not all(stages):
        raise ValueError("a program is missing between two |")
    return stages


def _quoted(command: str, word: str) -> bool:
    """Whether a word with special characters stands in quotes, so that a shell would not have understood it either."""
    return any(f"{quote}{word}{quote}" in command for quote in "'\"") and not ("$" in word or "`" in word)
