"""Messages on a socket: a name, values as JSON, and tensors as raw bytes.

A frame is the length of its header (4 bytes, big-endian), the header, and the bytes of its tensors:

    {"name": "push", "values": [0.1, 7], "tensors": [["float32", [3, 4]], null]}

Everything is checked before memory is allocated for it, and nothing that arrives is ever run. Numbers in tensors have
the bytes in the order of the processor, which has to be the same on both sides (``transport`` compares it).
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.base.errors import PipelineError

LENGTH = struct.Struct(">I")
MAX_HEADER = 4 << 20  # bytes; the longest are those of batches of very many short utterances
MAX_DIMS, MAX_SIZE = 8, 1 << 48  # of a tensor, in whatever memory there may be
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
SMALL = 1 << 16  # bytes; smaller pieces are sent together
STALL_SECONDS = 120.0  # within a message; between messages a connection may rest
LINGER_SECONDS = 2.0
KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 120_000}


class TransportError(PipelineError):
    """A connection cannot be opened, or has been lost."""


class FrameError(TransportError):
    """What has arrived is not a message; what follows cannot be understood any more."""


@dataclass(frozen=True)
class Message:
    """A call or its answer.

    Attributes:
        name: what is called, or what kind of answer it is.
        values: what JSON can hold.
        tensors: of the types in DTYPES, on any device; None stands for a tensor that is missing.
    """

    name: str
    values: Any = None
    tensors: Sequence[torch.Tensor | None] = ()


Described = list[tuple[torch.dtype, list[int]] | None]


def pack(message: Message) -> Iterator[memoryview]:
    """The pieces of a frame.

    Raises:
        TypeError, ValueError: the message holds what cannot be sent.
    """
    described: list[Any] = []
    bodies = []
    for tensor in message.tensors:
        if tensor is None:
            described.append(None)
            continue
        if tensor.dtype not in NAMES or tensor.layout != torch.strided:
            raise TypeError(f"{message.name}: a tensor of type {tensor.dtype}, {tensor.layout} cannot be sent")
        described.append([NAMES[tensor.dtype], list(tensor.shape)])
        bodies.append(_bytes_of(tensor.detach().cpu().contiguous()))
    header = json.dumps(
        {"name": message.name, "values": message.values, "tensors": described}, separators=(",", ":")
    ).encode()
    if len(header) > MAX_HEADER:
        raise ValueError(f"{message.name}: {len(header)} bytes of values are too many for a message")
    yield memoryview(LENGTH.pack(len(header)) + header)
    yield from bodies


def unpack_header(data: bytes, limit: int) -> tuple[str, Any, Described]:
    """Name, values, and types and shapes of the tensors that a header announces.

    Args:
        limit: bytes that all tensors may have together.
    Raises:
        FrameError: it is no header, or announces what is not taken.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise FrameError(f"the header of a message is not JSON: {e}") from None
    if not isinstance(found, dict) or set(found) != {"name", "values", "tensors"}:
        raise FrameError("the header of a message lacks name, values or tensors, or has more")
    if not isinstance(found["name"], str) or not isinstance(found["tensors"], list):
        raise FrameError("the header of a message has a name or tensors of the wrong type")
    described: Described = []
    total = 0
    for entry in found["tensors"]:
        described.append(None if entry is None else _described(entry))
        if described[-1] is not None:
            total += _size(*described[-1])
        if total > limit:
            raise FrameError(f"a message with more than {limit} bytes of tensors is not taken")
    return found["name"], found["values"], described


def _described(entry: Any) -> tuple[torch.dtype, list[int]]:
    if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], list) and len(entry[1]) <= MAX_DIMS):
        raise FrameError("a tensor without type and shape")
    dtype, shape = entry
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FrameError(f"a tensor of type {str(dtype)[:40]!r} is not taken, only {', '.join(DTYPES)}")
    if not all(type(size) is int and 0 <= size < MAX_SIZE for size in shape):
        raise FrameError("a tensor with an impossible shape")
    if (
        _size(DTYPES[dtype], [max(size, 1) for size in shape]) > MAX_SIZE
    ):  # strides are of this order, even without data
        raise FrameError("a tensor with an impossible shape")
    return DTYPES[dtype], shape


def _size(dtype: torch.dtype, shape: Sequence[int]) -> int:
    """Bytes."""
    count = torch.finfo(dtype).bits // 8
    for size in shape:
        count *= size
    return count


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor of the CPU."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


class Wire:
    """A connected socket that carries messages; used by one thread at a time, except for ``shut``."""

    def __init__(self, sock: socket.socket, limit: int = 0, stall: float = STALL_SECONDS) -> None:
        """Args:
        limit: bytes of tensors that a message from the other side may have.
        stall: seconds after which a message is given up of which nothing more comes or can be sent.
        """
        self.limit, self.stall, self._sock = limit, stall, sock
        with contextlib.suppress(OSError):  # of a connection that is lost already, as the first message will show
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A computer that has lost its power says nothing: the kernel has to ask.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in KEEP_ALIVE.items():
                if hasattr(socket, name):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: Message) -> None:
        """Sends a message; TransportError when the other side is gone or takes nothing."""
        waiting = bytearray()
        for piece in pack(message):
            if len(piece) < SMALL:
                waiting += piece
            if len(piece) >= SMALL or len(waiting) >= SMALL:
                self.write(waiting)
                waiting = bytearray()
            if len(piece) >= SMALL:
                self.write(piece)
        self.write(waiting)

    def receive(self, seconds: float | None = None) -> Message | None:
        """The next message, None when the other side has closed the connection in between.

        Args:
            seconds: how long to wait for its beginning; None: for ever.
        Raises:
            FrameError: it is malformed or too large.
            TransportError: nothing has come in time, or the connection has been lost.
        """
        prefix = bytearray(LENGTH.size)
        if not self._some(memoryview(prefix)[:1], seconds):
            return None
        self.read_into(memoryview(prefix)[1:])
        (length,) = LENGTH.unpack(prefix)
        if length > MAX_HEADER:
            raise FrameError(f"a message with a header of {length} bytes is not taken")
        name, values, described = unpack_header(self.read(length), self.limit)
        tensors: list[torch.Tensor | None] = []
        for entry in described:
            tensor = None if entry is None else torch.empty(entry[1], dtype=entry[0])
            if tensor is not None:
                self.read_into(_bytes_of(tensor))
            tensors.append(tensor)
        return Message(name, values, tensors)

    def read(self, count: int, until: float | None = None) -> bytes:
        """So many bytes."""
        data = bytearray(count)
        self.read_into(memoryview(data), until)
        return bytes(data)

    def read_into(self, view: memoryview, until: float | None = None) -> None:
        """Fills a piece of memory; `until` bounds the whole on the clock of ``time.monotonic``."""
        while view:
            seconds = self.stall if until is None else min(self.stall, until - time.monotonic())
            count = self._some(view, seconds)
            if not count:
                raise TransportError("the other side has closed the connection in the middle of a message")
            view = view[count:]

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends all these bytes."""
        view = memoryview(data)
        try:
            self._sock.settimeout(self.stall)
            while view:
                view = view[self._sock.send(view) :]
        except TimeoutError:
            raise TransportError(f"the other side takes nothing for {self.stall:g} s") from None
        except OSError as e:
            raise TransportError(f"the connection is lost ({e})") from None

    def _some(self, view: memoryview, seconds: float | None) -> int:
        """Reads what there is, waiting for at least one byte; 0 at the end."""
        try:
            if seconds is not None and seconds <= 0:
                raise TimeoutError
            self._sock.settimeout(seconds)
            return self._sock.recv_into(view)
        except TimeoutError:
            raise TransportError("the other side has said nothing in time") from None
        except OSError as e:
            raise TransportError(f"the connection is lost ({e})") from None

    def linger(self) -> None:
        """Throws away what still comes for a moment, so that the last message arrives before the connection breaks."""
        until, scrap = time.monotonic() + LINGER_SECONDS, bytearray(1 << 20)
        with contextlib.suppress(OSError, TransportError):
            self._sock.shutdown(socket.SHUT_WR)
            while self._some(memoryview(scrap), until - time.monotonic()):
                pass

    def shut(self) -> None:
        """Ends the connection; a thread that waits in it gets an error or the end."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends the connection, once no other thread uses it."""
        self.shut()
        self._sock.close()
