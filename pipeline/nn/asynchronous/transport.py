"""Calls between processes over TCP, for those that know a secret: a server that answers, and clients that ask.

Both sides of a new connection prove that they know the secret, by HMAC-SHA256 over random numbers of both, so that
nothing that was overheard can be used again. After that, messages (``wire``) are neither signed nor encrypted: this
keeps out whoever can connect, not whoever can change what others send.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch

from pipeline.base import errors
from pipeline.base.errors import PipelineError
from pipeline.nn.asynchronous.wire import STALL_SECONDS, FrameError, Message, TransportError, Wire

logger = logging.getLogger(__name__)

MAGIC = f"fullsum 1 {sys.byteorder}".encode()  # program, version of the protocol, order of bytes
HELLO = struct.Struct("16s32s32s")  # MAGIC, random number, name
PROOF_BYTES = 32
REFUSED = bytes(PROOF_BYTES)
HANDSHAKE_SECONDS = 10.0  # of a server; a client waits longer, since others may be before it
CONNECT_SECONDS = 60.0
STRANGERS = 64  # connections that may be without proof at the same time
CLOSE_SECONDS = 5.0
ANSWER, FAILURE = "answer", "failure"
ERRORS: dict[str, type[PipelineError]] = {
    c.__name__: c for c in (PipelineError, errors.DataError, errors.MismatchError, errors.ConfigError)
}
Error = TypeVar("Error", bound=type[PipelineError])

Method = Callable[[Any, Sequence[torch.Tensor | None]], tuple[Any, Sequence[torch.Tensor | None]]]
"""values, tensors -> values, tensors"""


def travels(error: Error) -> Error:
    """Decorates a class of errors that callers get as such; of others they get the base class that is known."""
    ERRORS[error.__name__] = error
    return error


class SecretError(TransportError):
    """The two sides do not know the same secret."""


class RemoteError(RuntimeError):
    """The other side could not answer a call, through a mistake in the code of one of the two."""


def listen(host: str, port: int) -> socket.socket:
    """Listens at a port, 0 for any free one; with an empty host on all interfaces. Raises OSError."""
    if host or not socket.has_dualstack_ipv6():
        return socket.create_server((host, port), backlog=1024)
    return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)


class Client:
    """A connection to a server; calls may come from several threads and are made one after the other."""

    def __init__(
        self,
        address: tuple[str, int],
        name: str,
        server: str,
        secret: bytes,
        limit: int,
        stall: float = STALL_SECONDS,
    ) -> None:
        """Args:
            name: of this side.
            server: name of the other side.
            limit: bytes of tensors that an answer may have.
            stall: see ``Wire``.
        Raises:
            SecretError: the server does not know the secret, or does not believe that this side does.
            TransportError: it cannot be reached, or is none.
        """
        self.server = server
        self._lock = threading.Lock()
        until = time.monotonic() + CONNECT_SECONDS
        where = f"{server} at {address[0]}:{address[1]}"
        try:
            sock = socket.create_connection(address, CONNECT_SECONDS)
        except OSError as e:
            raise TransportError(f"{where} cannot be reached: {e}") from None
        self._wire = Wire(sock, limit, stall)
        try:
            _introduce(self._wire, name, server, secret, until)
        except TransportError as e:
            self._wire.close()
            raise type(e)(f"{where}: {e}") from None
        except BaseException:
            self._wire.close()
            raise
        self.waiting = False

    def call(
        self,
        name: str,
        values: Any = None,
        tensors: Sequence[torch.Tensor | None] = (),
        seconds: float | None = None,
    ) -> Message:
        """Calls a method of the server and returns its answer; see ``send`` and ``collect``."""
        with self._lock:
            self.send(name, values, tensors)
            return self.collect(seconds)

    def send(self, name: str, values: Any = None, tensors: Sequence[torch.Tensor | None] = ()) -> None:
        """Begins a call, whose answer must be collected before the next one."""
        assert not self.waiting, (name, self.server)
        with self._or_close():
            self._wire.send(Message(name, values, tensors))
        self.waiting = True

    def collect(self, seconds: float | None = None) -> Message:
        """The answer of the call that has been begun.

        Args:
            seconds: how long to wait; None: for ever.
        Raises:
            TransportError: the connection is lost, and this client of no more use.
            PipelineError: as raised by the method.
            RemoteError: there is no such method, or it has failed in another way.
        """
        with self._or_close():
            answer = self._wire.receive(seconds)
            if answer is None:
                raise TransportError("the connection has been closed")
            if answer.name == FAILURE:
                kind, text = map(str, answer.values)
        self.waiting = False
        if answer.name == ANSWER:
            return answer
        if kind in ERRORS:
            raise ERRORS[kind](text)
        raise RemoteError(f"{self.server}: {text}")

    @contextlib.contextmanager
    def _or_close(self) -> Iterator[None]:
        """What has been interrupted leaves half a message behind."""
        try:
            yield
        except TransportError as e:
            self.close()
            raise type(e)(f"{self.server}: {e}") from None
        except BaseException:
            self.close()
            raise

    def shut(self) -> None:
        """Ends the connection, also for a thread that waits for an answer."""
        self._wire.shut()

    def close(self) -> None:
        """Ends the connection, once no other thread uses it."""
        self._wire.close()
        self.waiting = False


class Server:
    """Answers calls, each connection in a thread of its own.

    A message that cannot be understood ends its connection, after an answer that says why; anything else that is wrong
    with a call is its answer.
    """

    def __init__(
        self,
        listener: socket.socket,
        name: str,
        secret: bytes,
        methods: Callable[[str], Mapping[str, Method]],
        limit: int,
        handshake_seconds: float = HANDSHAKE_SECONDS,
        stall: float = STALL_SECONDS,
    ) -> None:
        """Args:
        listener: see ``listen``.
        name: of this side.
        methods: name of a client -> what it may call.
        limit: bytes of tensors that a call may have.
        handshake_seconds: after which a connection without proof is closed.
        stall: see ``Wire``.
        """
        self._listener, self._name, self._secret, self._methods = listener, name, secret, methods
        self._limit, self._stall, self._handshake_seconds = limit, stall, handshake_seconds
        self._slots = threading.Semaphore(STRANGERS)
        self._state = threading.Condition()
        self._open: set[Wire] = set()
        self._busy, self._closing = 0, False
        threading.Thread(target=self._accept, name=f"{name}:accept", daemon=True).start()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Answers the calls that are being worked on, but waits no longer than this, and ends all connections."""
        with self._state:
            self._closing = True
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts; closing does not
            self._listener.close()
            self._state.wait_for(lambda: not self._busy, seconds)
            for wire in self._open:
                wire.shut()

    def _accept(self) -> None:
        while True:
            self._slots.acquire()
            try:
                sock, address = self._listener.accept()
                threading.Thread(
                    target=self._serve, args=(sock, str(address[0])), name=f"{self._name}:{address[0]}", daemon=True
                ).start()
            except (OSError, RuntimeError) as e:  # no more files, no more threads
                self._slots.release()
                if self._closing:
                    return
                logger.warning("%s: a connection could not be accepted: %s", self._name, e)
                time.sleep(0.1)

    def _serve(self, sock: socket.socket, address: str) -> None:
        peer, wire = address, Wire(sock, self._limit, self._stall)
        try:
            try:
                peer = _admit(wire, self._name, self._secret, time.monotonic() + self._handshake_seconds)
            finally:
                self._slots.release()
            with self._state:
                if self._closing:
                    return
                self._open.add(wire)
            self._answer_all(wire, peer, self._methods(peer))
        except TransportError as e:
            if not self._closing:
                logger.warning("%s: connection of %s: %s", self._name, peer, e)
        finally:
            with self._state:
                self._open.discard(wire)
                wire.close()

    def _answer_all(self, wire: Wire, peer: str, methods: Mapping[str, Method]) -> None:
        while True:
            try:
                call = wire.receive()
            except FrameError as e:
                wire.send(Message(FAILURE, ["", f"{peer} has sent what is no message: {e}"]))
                wire.linger()
                raise
            if call is None:
                return
            with self._state:
                self._busy += 1
            try:
                self._send(wire, peer, call.name, self._answer(peer, methods, call))
            finally:
                with self._state:
                    self._busy -= 1
                    self._state.notify_all()

    def _send(self, wire: Wire, peer: str, call: str, answer: Message) -> None:
        try:
            wire.send(answer)
        except (TypeError, ValueError) as e:  # before anything has been sent
            logger.exception("%s: the answer to %s of %s cannot be sent", self._name, call, peer)
            wire.send(Message(FAILURE, ["", f"{call} of {peer} has an answer that cannot be sent: {e}"]))

    def _answer(self, peer: str, methods: Mapping[str, Method], call: Message) -> Message:
        method = methods.get(call.name)
        if method is None:
            return Message(FAILURE, ["", f"{peer} cannot call {call.name[:40]!r}"])
        try:
            values, tensors = method(call.values, call.tensors)
        except PipelineError as e:
            kind = next((c.__name__ for c in type(e).__mro__ if ERRORS.get(c.__name__) is c), PipelineError.__name__)
            return Message(FAILURE, [kind, str(e)])
        except Exception as e:
            logger.exception("%s: %s of %s has failed", self._name, call.name, peer)
            return Message(FAILURE, ["", f"{call.name} of {peer} has failed: {type(e).__name__}: {e}"])
        return Message(ANSWER, values, tensors)


def _hello(name: str) -> bytes:
    data = name.encode()
    assert len(data) <= 32 and not data.endswith(b"\0"), name
    return HELLO.pack(MAGIC, os.urandom(32), data)


def _proof(secret: bytes, role: bytes, client: bytes, server: bytes) -> bytes:
    """The roles differ, so that no side can send back what it has received."""
    return hmac.new(secret, role + client + server, hashlib.sha256).digest()


def _name_in(hello: bytes) -> str:
    magic, _, name = HELLO.unpack(hello)
    if magic.rstrip(b"\0") != MAGIC:
        raise TransportError("another program, version or kind of processor")
    return name.rstrip(b"\0").decode(errors="replace")


def _introduce(wire: Wire, name: str, server: str, secret: bytes, until: float) -> None:
    """The client's side: it gives its proof first, so that a server proves nothing to strangers."""
    mine = _hello(name)
    wire.write(mine)
    theirs = wire.read(HELLO.size, until)
    found = _name_in(theirs)
    wire.write(_proof(secret, b"client", mine, theirs))
    proof = wire.read(PROOF_BYTES, until)
    if hmac.compare_digest(proof, REFUSED):
        raise SecretError("does not accept the secret of this process")
    if not hmac.compare_digest(proof, _proof(secret, b"server", mine, theirs)):
        raise SecretError("does not know the secret")
    if found != server:
        raise TransportError(f"is {found!r}")


def _admit(wire: Wire, name: str, secret: bytes, until: float) -> str:
    """The server's side; returns the name of the client."""
    theirs = wire.read(HELLO.size, until)
    peer = _name_in(theirs)
    mine = _hello(name)
    wire.write(mine)
    proof = wire.read(PROOF_BYTES, until)
    if not hmac.compare_digest(proof, _proof(secret, b"client", theirs, mine)):
        wire.write(REFUSED)
        raise SecretError("it does not know the secret")
    wire.write(_proof(secret, b"server", theirs, mine))
    return peer
