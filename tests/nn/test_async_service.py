"""What processes of an asynchronous training say to each other: over connections as by direct calls."""

from __future__ import annotations

import dataclasses
import math
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from async_job import TRAINING

from pipeline.base.errors import ConfigError, DataError, PipelineError
from pipeline.nn.asynchronous.ledger import Item, Key, Wait
from pipeline.nn.asynchronous.service import (
    Access,
    RemoteLink,
    RemoteShard,
    ServerLostError,
    Service,
    size_of,
)
from pipeline.nn.asynchronous.shard import REFUSED, Shard, SynchronousShard
from pipeline.nn.asynchronous.transport import RemoteError, Server

ACCESS = Access(b"s" * 32)
RATE = 0.125  # whose mean over three is exact
OPTIONS = dataclasses.replace(TRAINING, weight_decay=0.0)


def parameters(seed: int = 0) -> dict[str, torch.nn.Parameter]:
    random = torch.Generator().manual_seed(seed)
    return {
        "w": torch.nn.Parameter(torch.randn(30, 20, generator=random)),
        "b": torch.nn.Parameter(torch.randn(20, generator=random).double()),
        "none": torch.nn.Parameter(torch.randn(0, 3, generator=random)),
    }


def gradients(seed: int) -> list[torch.Tensor | None]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(30, 20, generator=random), torch.randn(20, generator=random).double(), None]


class Lead:
    """In place of a coordinator: notes its calls."""

    def __init__(self, answer=None) -> None:
        self.calls, self.answer = [], answer

    def next(self, replica, finished, sums):
        self.calls.append(("next", replica, finished, sums))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def beat(self, replica):
        self.calls.append(("beat", replica))

    def leave(self, replica):
        self.calls.append(("leave", replica))

    def fail(self, why):
        self.calls.append(("fail", why))


@pytest.fixture
def serve(tmp_path):
    """Starts servers in this process; their services and ports."""
    servers = []

    def start(*shards: Shard, lead: Lead | None = None):
        services, ports = [], []
        for number, shard in enumerate(shards):
            listener = ACCESS.listen(number, 0)
            services.append(Service(shard, tmp_path))
            ports.append(listener.getsockname()[1])
            size = size_of(list(shard.parameters.values()))
            servers.append(Server(listener, f"server{number}", ACCESS.secret, services[-1].methods, size))
        if lead is not None:
            services[0].open(lead)
        return services, ports

    yield start
    for server in servers:
        server.close(0.0)


def link_to(ports: list[int], replica: int = 0) -> RemoteLink:
    return RemoteLink(ACCESS, replica, ports, [list(parameters(k).values()) for k in range(len(ports))])


def same(a, b) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


def test_link_is_the_shards(serve):
    """Two servers, pushed to in turn with two of our own: the same versions, staleness and tensors, bit for bit."""
    mine = [Shard(parameters(k), OPTIONS) for k in range(2)]
    _, ports = serve(*(Shard(parameters(k), OPTIONS) for k in range(2)))
    link = link_to(ports, replica=3)
    for step in range(4):
        pulled = link.pull()
        assert [version for version, _ in pulled] == [step, step]
        assert all(same(tensors, shard.pull()[1]) for (_, tensors), shard in zip(pulled, mine))
        grads = [gradients(10 * step + k) for k in range(2)]
        ages = link.push(grads, 0.1 / 3, [step, max(step - 2, 0)])
        assert ages == [
            shard.push(3, own, 0.1 / 3, version) for shard, own, version in zip(mine, grads, [step, max(step - 2, 0)])
        ]


def test_remote_shard_is_the_shard(serve, tmp_path):
    (service,), ports = serve(Shard(parameters(), OPTIONS))
    shard = RemoteShard(ACCESS, 0, ports[0], list(parameters().values()))
    link = link_to(ports)
    for seed in range(3):
        link.push([gradients(seed)], 0.1, [0])
    assert shard.facts() == service.shard.facts() == (3, {0: 1, 1: 1, 2: 1})
    assert shard.pull()[0] == 3 and same(shard.pull()[1], service.shard.pull()[1])
    before = shard.pull()[1]
    shard.save(tmp_path / "shard0.7.safetensors")
    link.push([gradients(4)], 0.1, [3])
    assert not same(shard.pull()[1], before)
    shard.load(tmp_path / "shard0.7.safetensors")
    assert same(shard.pull()[1], before) and shard.facts()[0] == 3
    (tmp_path / "shard0.8.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError, match="shard0.8.safetensors"):
        shard.load(tmp_path / "shard0.8.safetensors")
    shard.give_up(0)
    assert link.push([gradients(5)], 0.1, [3]) == [REFUSED]
    assert not service.stop.is_set()
    shard.stop()
    assert service.stop.is_set()


@pytest.mark.parametrize("name", ["../shard0.1.safetensors", "/tmp/shard0.1.safetensors", "model.safetensors", 3, None])
def test_only_checkpoints_are_written(serve, tmp_path, name):
    _, ports = serve(Shard(parameters(), OPTIONS))
    with pytest.raises(PipelineError, match="not the name of a checkpoint"):
        RemoteShard(ACCESS, 0, ports[0], [])._call("save", name)
    assert list(tmp_path.rglob("*")) == [] and list(tmp_path.parent.glob("shard*")) == []


def test_rounds_wait_for_all_replicas(serve):
    """Three replicas and two shards; the update is that of the mean, and signs of life come through meanwhile."""
    lead = Lead()
    services, ports = serve(*(SynchronousShard(parameters(k), OPTIONS, 3) for k in range(2)), lead=lead)
    links = [link_to(ports, replica) for replica in range(3)]
    ages: dict[int, list[int]] = {}

    def push(replica: int, round_: int) -> None:
        grads = [gradients(100 * round_ + 10 * replica + k) for k in range(2)]
        ages[replica] = links[replica].push(grads, RATE, [round_, round_])

    for round_, order in enumerate([(2, 0, 1), (1, 2, 0)]):
        threads = {replica: threading.Thread(target=push, args=(replica, round_)) for replica in order}
        for replica in order[:2]:
            threads[replica].start()
        links[order[0]].beat()
        assert lead.calls[-1] == ("beat", order[0])
        time.sleep(0.2)
        assert not ages and all(service.shard.version == round_ for service in services)
        assert links[order[0]].worked_for() == 0.0
        threads[order[2]].start()
        for thread in threads.values():
            thread.join(20)
        assert ages == {replica: [0, 0] for replica in range(3)}
        ages.clear()
    for k, service in enumerate(services):
        plain = Shard(parameters(k), OPTIONS)
        for round_ in range(2):
            sent = [gradients(100 * round_ + 10 * replica + k) for replica in range(3)]
            plain.push(0, [None if g[0] is None else torch.stack(g).sum(0) / 3 for g in zip(*sent)], RATE, round_)
        assert same(plain.pull()[1], service.shard.pull()[1])


def test_round_goes_on_without_a_replica_that_is_given_up(serve):
    """Also for the one itself, if it is still there: it learns that it has been given up."""
    (service,), ports = serve(SynchronousShard(parameters(), OPTIONS, 3))
    links, ages = [link_to(ports, replica) for replica in range(3)], {}

    def push(replica: int) -> None:
        ages[replica] = links[replica].push([gradients(replica)], 0.1, [0])

    threads = [threading.Thread(target=push, args=(replica,)) for replica in range(2)]
    for thread in threads:
        thread.start()
    while len(service.shard._round) < 2:
        time.sleep(0.01)
    service.shard.give_up(1)
    threads[1].join(20)
    assert ages == {1: [REFUSED]}
    links[2].shut()  # its process is gone, which alone changes nothing: it may be another one's turn to say so
    time.sleep(0.1)
    assert ages == {1: [REFUSED]}
    service.shard.give_up(2)
    threads[0].join(20)
    assert ages[0] == [0] and service.shard.version == 1


@pytest.mark.parametrize("got", [None, Wait(), Item(Key(3, 1, 4), [1, 5, 9], 0.1 + 0.2, 1e-3 / 3, 7, 5)])
def test_work_travels(serve, got):
    lead = Lead(got)
    _, ports = serve(Shard(parameters(), OPTIONS), lead=lead)
    sums = {2: {"loss": 1 / 3, "frames": 7.0}, 0: {"loss": math.inf, "frames": -0.0}}
    found = link_to(ports, 5).next([(0, 1, 2), (3, 4, 5)], sums)
    assert type(found) is type(got) and (isinstance(got, Wait) or found == got)
    assert lead.calls == [("next", 5, [Key(0, 1, 2), Key(3, 4, 5)], sums)]


def test_replicas_tell(serve):
    lead = Lead(DataError("feats.txt:3: no such frame"))
    _, ports = serve(Shard(parameters(), OPTIONS), lead=lead)
    link = link_to(ports, 5)
    link.beat()
    link.fail("numbers are not finite")
    link.leave()
    assert lead.calls == [("beat", 5), ("fail", "numbers are not finite"), ("leave", 5)]
    with pytest.raises(DataError, match="feats.txt:3"):
        link.next([], {})
    lead.answer = AssertionError("a bug")
    with pytest.raises(RemoteError, match="server0: next of replica5 has failed: AssertionError: a bug"):
        link.next([], {})
    lead.answer = ServerLostError("server1 is gone")
    with pytest.raises(ServerLostError, match="server1 is gone"):
        link.next([], {})


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [None],
        [None, None, None, None],
        [torch.zeros(20, 30), None, None],
        [torch.zeros(600), None, None],
        [torch.zeros(30, 20, dtype=torch.float16), None, None],
        [None, torch.zeros(20), None],
    ],
)
def test_gradients_of_another_model_are_refused(serve, wrong):
    """Nothing is changed by them."""
    (service,), ports = serve(Shard(parameters(), OPTIONS))
    link = link_to(ports, 2)
    with pytest.raises(PipelineError, match="replica2 has sent gradients of another model"):
        link.push([wrong], 0.1, [0])
    assert service.shard.version == 0 and same(service.shard.pull()[1], list(parameters().values()))
    assert link.push([gradients(1)], 0.1, [0]) == [0]


def test_replicas_do_not_manage_shards(serve):
    _, ports = serve(Shard(parameters(), OPTIONS))
    for name in ("save", "load", "stop", "give_up", "facts"):
        with pytest.raises(RemoteError, match="replica1 cannot call"):
            link_to(ports, 1)._tell(ACCESS.connect("replica1", 0, ports[0], 0), name, "shard0.1.safetensors")
    with pytest.raises(RemoteError, match="somebody cannot call 'pull'"):
        ACCESS.connect("somebody", 0, ports[0], 0).call("pull")


def test_lost_servers(serve):
    """One of two ends: calls to both end with an error, and so does all that follows."""
    _, ports = serve(Shard(parameters(), OPTIONS))
    listener = ACCESS.listen(1, 0)
    shard = Shard(parameters(1), OPTIONS)
    second = Server(
        listener, "server1", ACCESS.secret, Service(shard, Path()).methods, size_of(list(shard.parameters.values()))
    )
    ports.append(listener.getsockname()[1])
    link, remote = link_to(ports), RemoteShard(ACCESS, 1, ports[1], [])
    second.close(0.0)
    for call in (link.pull, link.pull, lambda: link.push([gradients(0), gradients(1)], 0.1, [0, 0])):
        with pytest.raises(ServerLostError, match="a server does not answer: "):
            call()
    with pytest.raises(ServerLostError, match="server1"):
        remote.facts()
    with pytest.raises(ServerLostError, match="replica4 does not get through"):
        link_to(ports, 4)


def test_ports(serve):
    """Further servers have the ports after the first one; a port that is taken or does not exist is an error."""
    listener = ACCESS.listen(0, 0)
    port = listener.getsockname()[1]
    with listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        for number, first in ((0, port), (1, port - 1)):
            with pytest.raises(ConfigError, match=f"--port {first}: {port} cannot be used"):
                ACCESS.listen(number, first)
        with pytest.raises(ConfigError, match="65536 cannot be used"):
            ACCESS.listen(1, 65535)
    with ACCESS.listen(1, port - 1) as again:
        assert again.getsockname()[1] == port
    with Access(b"s" * 32, public=True).listen(0, 0) as public:
        assert public.getsockname()[0] in ("0.0.0.0", "::")


def test_another_secret_is_named():
    listener = ACCESS.listen(0, 0)
    server = Server(listener, "server0", b"t" * 32, lambda peer: {}, 0)
    with pytest.raises(ConfigError, match="FULLSUM_SECRET has to be the same"):
        ACCESS.connect("replica0", 0, listener.getsockname()[1], 0)
    server.close(0.0)
    assert "sss" not in repr(ACCESS)
