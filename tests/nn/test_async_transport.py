"""The transport of asynchronous training: what is sent arrives bit for bit, and what is wrong is an error in time."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import signal
import socket
import struct
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base.errors import DataError, MismatchError, PipelineError, StaleError
from pipeline.nn.asynchronous import transport, wire
from pipeline.nn.asynchronous.transport import Client, RemoteError, SecretError, Server
from pipeline.nn.asynchronous.wire import DTYPES, FrameError, Message, TransportError, Wire

SECRET = b"s" * 32
LIMIT = 1 << 24
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def same_bits(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    """Also of NaNs with different payloads."""
    if a is None or b is None:
        return a is b
    integer = INTEGERS[a.element_size()]
    bits = [t.contiguous().reshape(-1).view(integer) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)


def random_bits(dtype: torch.dtype, *shape: int, seed: int = 0) -> torch.Tensor:
    """A tensor of any bits, with NaNs, infinities and denormal numbers among them."""
    size = torch.empty(0, dtype=dtype).element_size()
    data = torch.randint(
        0, 256, (math.prod(shape) * size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    return data.view(dtype).reshape(shape)


def frame(message: Message) -> bytes:
    return b"".join(bytes(piece) for piece in wire.pack(message))


@contextlib.contextmanager
def pair(limit: int = LIMIT, stall: float = 5.0):
    """A bare socket and the wire at its other end."""
    here, there = socket.socketpair()
    with here, there:
        yield here, Wire(there, limit, stall)


class Methods:
    """What the server of these tests can do."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.go = threading.Event()

    def of(self, peer: str):
        def note(method):
            def noted(values, tensors):
                self.calls.append(peer)
                return method(values, tensors)

            return noted

        def fail(values, tensors):
            raise {"data": DataError, "mismatch": MismatchError, "stale": StaleError, "bug": KeyError}[values](values)

        def wait(values, tensors):
            return self.go.wait(30), ()

        methods = {
            "echo": lambda values, tensors: (values, tensors),
            "fail": fail,
            "wait": wait,
            "wrong": lambda values, tensors: (None, [torch.zeros(2, dtype=torch.int64)]),
            "large": lambda values, tensors: (None, [torch.zeros(LIMIT)]),
        }
        return {name: note(method) for name, method in methods.items()} if peer.startswith("friend") else {}


class Place:
    """A server and those who connect to it."""

    def __init__(self, **options) -> None:
        self.methods = Methods()
        listener = transport.listen("127.0.0.1", 0)
        self.address = listener.getsockname()
        self.server = Server(listener, "server0", SECRET, self.methods.of, LIMIT, **options)

    def client(self, name: str = "friend", secret: bytes = SECRET, server: str = "server0") -> Client:
        return Client(self.address, name, server, secret, LIMIT)

    def raw(self) -> socket.socket:
        """A connection without any proof."""
        sock = socket.create_connection(self.address, 10)
        return sock

    def admitted(self) -> socket.socket:
        """A connection after the proofs, to send anything through."""
        sock = self.raw()
        transport._introduce(Wire(sock, LIMIT), "friend", "server0", SECRET, time.monotonic() + 10)
        sock.settimeout(10)
        return sock

    def works(self) -> bool:
        client = self.client()
        answer = client.call("echo", 7, seconds=10)
        client.close()
        return answer.values == 7


@pytest.fixture
def place():
    found = Place()
    yield found
    found.methods.go.set()
    found.server.close()


@pytest.fixture(scope="module")
def shared():
    """For many examples."""
    found = Place(handshake_seconds=1.0)
    yield found
    found.server.close()


def ended(sock: socket.socket) -> bool:
    """Whether the other side ends the connection; an error after ten seconds if it does not."""
    sock.settimeout(10)
    try:
        while sock.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    return True


# Messages


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,), (5, 7), (300, 500), (2,) * 8])
def test_tensors_arrive_bit_for_bit(place, name, shape):
    """Some of them small, some sent by themselves, one not contiguous, one missing."""
    tensors = [random_bits(DTYPES[name], *shape, seed=k) for k in range(3)]
    tensors += [None, random_bits(DTYPES[name], 6, 4)[::2, 1:3].t(), tensors[0].clone().requires_grad_()]
    answer = place.client().call("echo", None, tensors, 10)
    assert len(answer.tensors) == len(tensors) and all(map(same_bits, tensors, answer.tensors))


def test_all_types_in_one_message(place):
    tensors = [random_bits(dtype, 1000, 30, seed=k) for k, dtype in enumerate(DTYPES.values())]
    assert all(map(same_bits, tensors, place.client().call("echo", None, tensors, 10).tensors))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def bits(value):
    """With floats by their bits, but all NaNs alike, as JSON has them."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack("d", value)
    if isinstance(value, list):
        return [bits(v) for v in value]
    return {k: bits(v) for k, v in value.items()} if isinstance(value, dict) else value


@settings(max_examples=200)
@given(JSON, st.text(max_size=30), st.lists(st.none() | st.lists(st.integers(0, 3), max_size=3), max_size=4))
def test_any_message_arrives(values, name, shapes):
    tensors = [None if shape is None else random_bits(torch.float32, *shape) for shape in shapes]
    with pair() as (here, there):
        Wire(here).send(Message(name, values, tensors))
        found = there.receive(5)
        assert found.name == name and bits(found.values) == bits(values)
        assert len(found.tensors) == len(tensors) and all(map(same_bits, tensors, found.tensors))


@pytest.mark.parametrize("tensor", [torch.zeros(2, dtype=torch.int64), torch.zeros(2, 2).to_sparse()])
def test_other_tensors_are_not_sent(place, tensor):
    client = place.client()
    with pytest.raises(TypeError, match="cannot be sent"):
        client.call("echo", None, [torch.zeros(1), tensor])
    client = place.client()
    with pytest.raises(RemoteError, match="cannot be sent"):
        client.call("wrong", seconds=10)
    assert client.call("echo", 3, seconds=10).values == 3


# What is no message


HEADER = {"name": "echo", "values": 1, "tensors": [["float32", [2, 3]], None]}


def header(**changes) -> bytes:
    return json.dumps({**HEADER, **changes}).encode()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"9" * 5000, "not JSON|lacks"),
        (b"[]", "lacks"),
        (b"{}", "lacks"),
        (header(more=1), "or has more"),
        (header(name=3), "wrong type"),
        (header(tensors={}), "wrong type"),
        (header(tensors=[3]), "without type and shape"),
        (header(tensors=[["float32"]]), "without type and shape"),
        (header(tensors=[["float32", 3]]), "without type and shape"),
        (header(tensors=[["float32", [1] * 9]]), "without type and shape"),
        (header(tensors=[["int64", [1]]]), "type 'int64' is not taken"),
        (header(tensors=[["object", [1]]]), "is not taken"),
        (header(tensors=[[["float32"], [1]]]), "is not taken"),
        (header(tensors=[["float32", [-1]]]), "impossible shape"),
        (header(tensors=[["float32", [1.0]]]), "impossible shape"),
        (header(tensors=[["float32", [True]]]), "impossible shape"),
        (header(tensors=[["float32", ["1"]]]), "impossible shape"),
        (header(tensors=[["float32", [1 << 60]]]), "impossible shape"),
        (header(tensors=[["float32", [0, 1 << 40, 1 << 40]]]), "impossible shape"),
        (header(tensors=[["float32", [5, 5]]]), "more than 96 bytes"),
        (header(tensors=[["float64", [12]], ["float16", [1]]]), "more than 96 bytes"),
    ],
)
def test_wrong_headers_are_refused(data, match):
    assert wire.unpack_header(header(), 96) == ("echo", 1, [(torch.float32, [2, 3]), None])
    with pytest.raises(FrameError, match=match):
        wire.unpack_header(data, 96)


@settings(max_examples=300)
@given(
    st.binary(max_size=200)
    | JSON.map(lambda v: json.dumps({**HEADER, "tensors": [["float32", v]]}).encode())
    | JSON.map(lambda v: header(tensors=v))
)
def test_any_header_is_understood_or_refused(data):
    try:
        _, _, described = wire.unpack_header(data, 1000)
    except FrameError:
        return
    total = 0
    for entry in described:
        if entry is not None:  # what is let through can be allocated and is small enough
            total += torch.empty(entry[1], dtype=entry[0]).numel() * torch.finfo(entry[0]).bits // 8
    assert total <= 1000


def test_nothing_is_allocated_for_what_is_too_large(monkeypatch):
    monkeypatch.setattr(torch, "empty", lambda *_, **__: pytest.fail("allocated"))
    with pair(limit=1000) as (here, there):
        here.sendall(frame(Message("echo", None, [torch.zeros(251)])))
        with pytest.raises(FrameError, match="1000 bytes"):
            there.receive(5)
    with pair() as (here, there):
        here.sendall(struct.pack(">I", wire.MAX_HEADER + 1))
        with pytest.raises(FrameError, match="header of"):
            there.receive(5)


@settings(max_examples=150)
@given(st.binary(min_size=1, max_size=300), st.booleans())
def test_garbage_ends_in_time(data, prefixed):
    """Whatever is sent before the connection is closed: messages, or an error."""
    with pair() as (here, there):
        here.sendall(struct.pack(">I", len(data)) + data if prefixed else data)
        here.close()
        with pytest.raises(TransportError):
            while there.receive(5) is not None:
                pass
            raise TransportError


WHOLE = frame(Message("echo", [1, 2.5], [random_bits(torch.float32, 3, 2), None, random_bits(torch.float64, 2)]))


@given(st.integers(0, len(WHOLE)), st.booleans())
def test_truncated_messages_are_errors(cut, silent):
    """The sender ends in the middle, or stops there without ending."""
    with pair(stall=0.02) as (here, there):
        here.sendall(WHOLE[:cut])
        if not silent:
            here.close()
        if cut == len(WHOLE):
            assert there.receive(5).values == [1, 2.5]
        elif cut == 0 and not silent:
            assert there.receive(5) is None
        else:
            with pytest.raises(TransportError, match="nothing in time" if silent else "middle of a message"):
                there.receive(0.02)


@given(st.data())
def test_changed_messages_are_messages_or_errors(data):
    """Single bytes are replaced in a message, and the connection is closed after it."""
    changed = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with pair() as (here, there):
        here.sendall(changed)
        here.close()
        with contextlib.suppress(TransportError):
            assert isinstance(there.receive(5), Message)


def test_who_takes_nothing_is_given_up():
    with pair(stall=0.2) as (_, there), pytest.raises(TransportError, match="takes nothing for 0.2 s"):
        there.send(Message("echo", None, [torch.zeros(1 << 22)]))


# Who may connect


def test_wrong_secret_is_refused(place):
    with pytest.raises(SecretError, match="server0 at 127.0.0.1:.*does not accept the secret"):
        place.client(secret=b"t" * 32)
    assert place.works() and place.methods.calls == ["friend"]


def test_server_without_the_secret_is_refused():
    """One that accepts everybody, as who has taken the port of a server might."""

    def pretend(listener):
        sock, _ = listener.accept()
        with sock:
            link = Wire(sock)
            link.read(transport.HELLO.size)
            link.write(transport._hello("server0"))
            link.read(transport.PROOF_BYTES)
            link.write(os.urandom(transport.PROOF_BYTES))
            assert ended(sock)

    with transport.listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=pretend, args=(listener,))
        thread.start()
        with pytest.raises(SecretError, match="does not know the secret"):
            Client(listener.getsockname(), "friend", "server0", SECRET, LIMIT)
        thread.join()


def test_other_programs_and_servers_are_refused(place):
    def greet(listener):
        sock, _ = listener.accept()
        with sock:
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n" * 20)
            assert ended(sock)

    with transport.listen("127.0.0.1", 0) as listener:
        threading.Thread(target=greet, args=(listener,)).start()
        address = listener.getsockname()
        with pytest.raises(TransportError, match="another program"):
            Client(address, "friend", "server0", SECRET, LIMIT)
    with pytest.raises(TransportError, match="is 'server0'"):
        place.client(server="server1")
    with pytest.raises(TransportError, match="cannot be reached"):
        Client(address, "friend", "server0", SECRET, LIMIT)


def test_what_was_overheard_is_of_no_use(place):
    """All bytes of a client, sent once more; and each answer of the server, sent back to it."""
    with transport.listen("127.0.0.1", 0) as listener:
        heard = bytearray()

        def overhear():
            sock, _ = listener.accept()
            with sock, place.raw() as other:
                back = threading.Thread(target=lambda: [sock.sendall(d) for d in iter(lambda: other.recv(4096), b"")])
                back.start()
                while data := sock.recv(4096):
                    heard.extend(data)
                    other.sendall(data)
                other.shutdown(socket.SHUT_WR)
                back.join()

        thread = threading.Thread(target=overhear)
        thread.start()
        client = Client(listener.getsockname(), "friend", "server0", SECRET, LIMIT)
        assert client.call("echo", 5, seconds=10).values == 5
        client.close()
        thread.join()
    assert place.methods.calls == ["friend"] and SECRET not in heard
    with place.raw() as again:
        again.sendall(heard)
        assert ended(again)
    with place.raw() as mirror:
        mirror.settimeout(10)
        mirror.sendall(bytes(heard[: transport.HELLO.size]))
        theirs = mirror.recv(transport.HELLO.size, socket.MSG_WAITALL)
        mirror.sendall(heard[transport.HELLO.size :][: transport.PROOF_BYTES])
        assert theirs != heard[: transport.HELLO.size]
        assert mirror.recv(64, socket.MSG_WAITALL) == transport.REFUSED
    assert place.methods.calls == ["friend"] and place.works()


def test_proofs_of_the_two_sides_differ():
    """So that a server's proof is none for a client with the same random numbers, and the other way round."""
    first, second = transport._hello("a"), transport._hello("b")
    proofs = {
        transport._proof(SECRET, role, *pair)
        for role in (b"client", b"server")
        for pair in ((first, second), (second, first))
    }
    assert len(proofs) == 4 and transport._hello("a") != first


@settings(max_examples=40)
@given(st.binary(max_size=200), st.booleans())
def test_garbage_of_strangers_changes_nothing(shared, data, close):
    with shared.raw() as stranger:
        stranger.sendall(data)
        if close:
            stranger.shutdown(socket.SHUT_WR)
            assert ended(stranger)
    assert shared.works()


def test_silent_strangers_do_not_block():
    """More of them than are let in at a time, and one that sends byte after byte."""
    place = Place(handshake_seconds=2.5)
    with contextlib.ExitStack() as stack:
        few = [stack.enter_context(place.raw()) for _ in range(5)]
        start = time.monotonic()
        assert place.works() and time.monotonic() - start < 2.0
        slow = stack.enter_context(place.raw())
        for _ in range(30):
            with contextlib.suppress(OSError):
                slow.sendall(b"f")
            time.sleep(0.1)
        assert ended(slow) and all(map(ended, few))
        many = [stack.enter_context(place.raw()) for _ in range(transport.STRANGERS + 10)]
        assert place.works()
        assert all(map(ended, many))
    place.server.close()


def test_only_what_is_listed_can_be_called(place):
    friend, other = place.client(), place.client("other")
    for client, name in ((friend, "__init__"), (friend, "calls"), (other, "echo")):
        with pytest.raises(RemoteError, match="cannot call"):
            client.call(name, 1, [torch.zeros(3)], 10)
    assert friend.call("echo", 2, seconds=10).values == 2 and place.methods.calls == ["friend"]


# Calls


def test_errors_travel(place, caplog):
    client = place.client()
    for values, kind in (("data", DataError), ("mismatch", MismatchError), ("stale", PipelineError)):
        with pytest.raises(PipelineError, match=values) as found:
            client.call("fail", values, seconds=10)
        assert type(found.value) is kind
    with pytest.raises(RemoteError, match="fail of friend has failed: KeyError: 'bug'"):
        client.call("fail", "bug", seconds=10)
    assert "Traceback" in caplog.text and client.call("echo", 1, seconds=10).values == 1


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (struct.pack(">I", 5) + b"hello", "not JSON"),
        (struct.pack(">I", 1 << 30), "header of"),
        (struct.pack(">I", len(header(tensors=[["int64", [1]]]))) + header(tensors=[["int64", [1]]]), "int64"),
        (frame(Message("echo", None, [torch.zeros(LIMIT // 4 + 1)])), "bytes of tensors"),
    ],
)
def test_friends_are_told_what_is_wrong(place, data, match):
    """The connection ends after that, others do not."""
    other = place.client()
    with place.admitted() as sock:
        sock.sendall(data)
        answer = Wire(sock).receive(10)
        assert answer.name == transport.FAILURE and match in answer.values[1]
        assert ended(sock)
    assert other.call("echo", 1, seconds=10).values == 1


def test_too_large_an_answer_is_an_error(place):
    client = place.client()
    with pytest.raises(FrameError, match="server0: .*bytes of tensors"):
        client.call("large", seconds=10)
    with pytest.raises(TransportError):
        client.call("echo", 1, seconds=10)


def test_answers_that_do_not_come_in_time(place):
    client = place.client()
    with pytest.raises(TransportError, match="server0: the other side has said nothing in time"):
        client.call("wait", seconds=0.2)
    with pytest.raises(TransportError):  # of no more use: the late answer would be taken for that of another call
        client.call("echo", 1, seconds=10)


def test_concurrent_calls(place):
    """Eight threads with connections of their own, and eight that share one."""
    shared, wrong = place.client(), []

    def ask(number: int, client: Client) -> None:
        for k in range(30):
            tensor = torch.full((number * 1000 + k,), float(number))
            answer = client.call("echo", [number, k], [tensor], 30)
            if answer.values != [number, k] or not torch.equal(answer.tensors[0], tensor):
                wrong.append((number, k))

    threads = [threading.Thread(target=ask, args=(n, place.client())) for n in range(8)]
    threads += [threading.Thread(target=ask, args=(n, shared)) for n in range(8, 16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(place.methods.calls) == 16 * 30


def test_waiting_calls_hold_up_nobody(place):
    """And all threads rest while there is nothing to do."""
    client = place.client()
    client.send("wait")
    assert place.works()
    start, used = time.monotonic(), time.process_time()
    time.sleep(0.5)
    assert time.process_time() - used < 0.1 * (time.monotonic() - start)
    place.methods.go.set()
    assert client.collect(10).values is True


def test_small_messages_are_sent_at_once(place):
    sock = place.client()._wire._sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_closing_waits_for_calls_but_not_for_ever(place):
    client, idle = place.client(), place.client()
    client.send("wait")
    while not place.methods.calls:
        time.sleep(0.01)
    threading.Timer(0.3, place.methods.go.set).start()
    place.server.close(seconds=20)
    assert client.collect(10).values is True
    for each in (client, idle):
        with pytest.raises(TransportError):
            each.call("echo", seconds=10)
    with pytest.raises(TransportError, match="cannot be reached"):
        place.client()
    stuck = Place()
    waiting = stuck.client()
    waiting.send("wait")
    while not stuck.methods.calls:
        time.sleep(0.01)
    start = time.monotonic()
    stuck.server.close(seconds=0.2)
    assert time.monotonic() - start < 5
    with pytest.raises(TransportError):
        waiting.collect(10)
    stuck.methods.go.set()


# Processes that are killed


def half_a_message(address, sent) -> None:
    """Sends the first half of a message and waits to be killed."""
    sock = socket.create_connection(address)
    transport._introduce(Wire(sock, LIMIT), "friend", "server0", SECRET, time.monotonic() + 10)
    data = frame(Message("echo", None, [torch.ones(1 << 20)]))
    sock.sendall(data[: len(data) // 2])
    sent.set()
    time.sleep(60)


def half_an_answer(address) -> None:
    """Takes a call and kills itself in the middle of its answer."""

    def end(values, tensors):
        send = Wire.write

        def write(self, data):
            if len(data) > 1000:
                send(self, memoryview(data)[:1000])
                os.kill(os.getpid(), signal.SIGKILL)
            send(self, data)

        Wire.write = write
        return None, [torch.ones(1 << 20)]

    listener = transport.listen("127.0.0.1", 0)
    address.send(listener.getsockname())
    Server(listener, "server0", SECRET, lambda peer: {"end": end}, LIMIT)
    time.sleep(60)


@pytest.fixture
def start():
    """Starts processes."""
    context = multiprocessing.get_context("spawn")  # a fork would have the threads' locks, but not the threads
    processes = []

    def begin(target, *args):
        processes.append(context.Process(target=target, args=args, daemon=True))
        processes[-1].start()
        return processes[-1]

    begin.context = context
    yield begin
    for process in processes:
        process.kill()
        process.join()


def test_peer_that_is_killed_in_the_middle_of_a_message(place, start, caplog):
    sent = start.context.Event()
    process = start(half_a_message, place.address, sent)
    assert sent.wait(60)
    process.kill()
    process.join()
    until = time.monotonic() + 10
    while "friend" not in caplog.text and time.monotonic() < until:
        time.sleep(0.01)
    assert "connection of friend: " in caplog.text
    assert not place.methods.calls and place.works()


def test_server_that_is_killed_in_the_middle_of_an_answer(start):
    here, there = start.context.Pipe()
    start(half_an_answer, there)
    client = Client(here.recv(), "friend", "server0", SECRET, LIMIT)
    begun = time.monotonic()
    with pytest.raises(TransportError, match="server0: "):
        client.call("end")
    assert time.monotonic() - begun < 10
