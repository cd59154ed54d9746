"""Parts of asynchronous training without processes: work, shards, staleness by a script, orders of frames."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from async_job import TRAINING, SignJob, make_data

from pipeline.base.errors import ConfigError, DataError
from pipeline.nn.asynchronous.coordinator import STATE, Coordinator
from pipeline.nn.asynchronous.frames import FrameBatches
from pipeline.nn.asynchronous.job import trained_parameters
from pipeline.nn.asynchronous.launch import Node
from pipeline.nn.asynchronous.ledger import Interval, Ledger, Wait, partition
from pipeline.nn.asynchronous.nodes import place_of
from pipeline.nn.asynchronous.replica import Replica, make_plan
from pipeline.nn.asynchronous.shard import REFUSED, Shard, SynchronousShard, partition_tensors
from pipeline.nn.asynchronous.shuffle import consecutive, in_order, on_the_fly, shuffled
from pipeline.nn.asynchronous.train import seconds_to
from pipeline.nn.asynchronous.worker import _limit


def pairs(batches) -> list[tuple[int, int]]:
    return [tuple(pair) for batch in batches for pair in batch.tolist()]


EVERY_FRAME = [(0, 0), (0, 1), (0, 2), (2, 0), (3, 0), (3, 1)]
LENS = [3, 0, 1, 2]


def test_without_shuffling_frames_come_in_order():
    assert pairs(consecutive(LENS, 4)) == EVERY_FRAME
    assert [len(b) for b in consecutive(LENS, 4)] == [4, 2]


def test_full_shuffling_has_each_frame_once():
    found = pairs(shuffled(LENS, 4, np.random.default_rng(1)))
    assert sorted(found) == EVERY_FRAME and found != EVERY_FRAME


def test_slots_walk_their_utterances():
    """Worked out by hand: two slots, lengths 3, 1, 2; a slot takes the next utterance when it is free."""
    batches = list(on_the_fly(iter([(7, 3), (8, 1), (9, 2)]), 2))
    assert [(batch.tolist(), ended) for batch, ended in batches] == [
        ([[7, 0], [8, 0]], [8]),
        ([[7, 1], [9, 0]], []),
        ([[7, 2], [9, 1]], [7, 9]),
    ]


@pytest.mark.parametrize("size", [1, 3, 4, 50])
def test_batches_in_order_are_full(size):
    """The batches of a plain list of all frames, and each utterance ends with the batch of its last frame."""
    lens = np.random.default_rng(2).integers(1, 30, 40)
    found = list(in_order(iter(enumerate(lens.tolist())), size))
    plain = list(consecutive(lens, size))
    assert [b.tolist() for b, _ in found] == [b.tolist() for b in plain]
    last = np.cumsum(lens) - 1
    assert [ended for _, ended in found] == [np.flatnonzero(last // size == i).tolist() for i in range(len(plain))]


def test_a_batch_goes_as_it_is_when_nothing_comes():
    batches = list(in_order(iter([(1, 3), None, None, (2, 1), (3, 2)]), 2))
    assert [(b.tolist(), ended) for b, ended in batches] == [
        ([[1, 0], [1, 1]], []),
        ([[1, 2]], [1]),
        ([[2, 0], [3, 0]], [2]),
        ([[3, 1]], [3]),
    ]


def test_slots_go_on_while_nothing_new_comes():
    source = iter([(1, 2), None, None, (2, 1)])
    batches = list(on_the_fly(source, 2))
    assert [batch.tolist() for batch, _ in batches] == [[[1, 0]], [[1, 1]], [[2, 0]]]


@pytest.mark.parametrize("size", [1, 3, 50])
def test_on_the_fly_has_each_frame_once(size):
    lens = np.random.default_rng(2).integers(1, 30, 40)
    walked = list(on_the_fly(iter(enumerate(lens.tolist())), size))
    found = pairs(batch for batch, _ in walked)
    assert sorted(found) == pairs(consecutive(lens, 10)) and sorted(n for _, ended in walked for n in ended) == list(
        range(40)
    )
    assert all(len({n for n, _ in batch.tolist()}) == len(batch) <= size for batch, _ in walked)


def test_partition_is_even_and_complete():
    lens = np.random.default_rng(3).integers(100, 900, 101)
    parts = partition(lens, 4, 1)
    assert sorted(np.concatenate(parts)) == list(range(101))
    frames = [int(lens[p].sum()) for p in parts]
    assert max(frames) - min(frames) < 900
    with pytest.raises(ConfigError, match="--replicas 4.*3 utterances"):
        partition(lens[:3], 4, 1)


def ledger(parts: int = 2, epochs: int = 2, **options) -> Ledger:
    """Each part has three batches of one utterance in each epoch."""
    return Ledger(lambda epoch, part: [np.array([10 * part + i]) for i in range(3)], parts, epochs, **options)


def work_off(book: Ledger, replicas: list[int], limit: int = 100) -> list:
    """Lets replicas work in turn; the keys in the order in which they were done."""
    done = []
    for _ in range(limit):
        for replica in replicas:
            key = book.take(replica)
            if isinstance(key, tuple):
                done.append(key)
                book.finish(replica, [key])
    return done


def test_each_batch_is_done_once_per_epoch():
    book = ledger()
    done = work_off(book, [0, 1])
    assert sorted(done) == [(e, p, s) for e in range(2) for p in range(2) for s in range(3)] and book.complete == 2
    assert book.take(0) is None


def test_done_is_the_share_of_the_training():
    book = ledger(1)
    items = [book.item(book.take(0), lambda done: 1 - done) for _ in range(6)]
    assert [i.done for i in items] == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6]) and items[
        3
    ].rate == pytest.approx(0.5)


def test_work_of_a_lost_replica_is_done_by_the_others():
    book = ledger(3)
    taken = {replica: book.take(replica) for replica in range(3)}
    assert book.give_up(1) == 3 and book.give_up(1) == 0 and book.take(1) is None
    assert book.finish(1, [taken[1]]) == []
    for replica in (0, 2):
        book.finish(replica, [taken[replica]])
    done = work_off(book, [0, 2])
    assert sorted([*done, taken[0], taken[2]]) == [(e, p, s) for e in range(2) for p in range(3) for s in range(3)]


def test_the_quick_one_waits_after_its_lead():
    book = ledger(2, 5)
    slow = book.take(1)
    fast = 0
    while not isinstance(key := book.take(0), Wait):
        fast += 1
        book.finish(0, [key])
    assert fast == 6 and book.complete == 0
    for key in [slow, book.take(1), book.take(1)]:
        book.finish(1, [key])
    assert book.complete == 1 and not isinstance(book.take(0), Wait)


def test_help_in_the_last_epoch():
    book, alone = ledger(2, 1), ledger(2, 1, helping=False)
    assert len(work_off(book, [0])) == 6 and len(work_off(alone, [0])) == 3


def test_restored_ledger_does_the_rest():
    book = ledger()
    first = [book.take(r) for r in (0, 1, 0, 1, 0, 1, 0)]
    for key in first[:5]:
        book.finish(key.part, [key])
    again = ledger()
    again.restore(book.state())
    done = work_off(again, [0, 1])
    assert sorted(first[:5] + done) == [(e, p, s) for e in range(2) for p in range(2) for s in range(3)]


def test_tensors_are_spread_by_size():
    sizes = {"a": 10, "b": 4, "c": 5, "d": 1}
    tensors = {n: torch.nn.Parameter(torch.zeros(s)) for n, s in sizes.items()}
    assert partition_tensors(tensors, 2) == [["a"], ["b", "c", "d"]]
    assert partition_tensors(tensors, 6)[4:] == [[], []]


def shard_of_one(kind=Shard, *args):
    return kind({"w": torch.nn.Parameter(torch.zeros(1))}, dataclasses.replace(TRAINING, weight_decay=0.0), *args)


def test_plain_sgd_is_its_formula(tmp_path):
    """w - rate * gradient, also from a checkpoint, in which SGD has nothing."""
    shard = Shard(
        {"w": torch.nn.Parameter(torch.ones(2))}, dataclasses.replace(TRAINING, optimizer="sgd", weight_decay=0)
    )
    shard.push(0, [torch.tensor([1.0, -2.0])], 0.1, 0)
    shard.save(tmp_path / "s.safetensors")
    again = Shard(
        {"w": torch.nn.Parameter(torch.zeros(2))}, dataclasses.replace(TRAINING, optimizer="sgd", weight_decay=0)
    )
    again.load(tmp_path / "s.safetensors")
    again.push(0, [torch.tensor([1.0, 1.0])], 0.5, 1)
    assert shard.pull()[1][0].tolist() == pytest.approx([0.9, 1.2])
    assert again.pull()[1][0].tolist() == pytest.approx([0.4, 0.7])


def test_staleness_of_a_script():
    """Two replicas fetch version 0; what the second one sends after the first is one update old, and so on."""
    shard = shard_of_one()
    versions = [shard.pull()[0], shard.pull()[0]]
    assert shard.push(0, [torch.ones(1)], 0.1, versions[0]) == 0
    assert shard.push(0, [torch.ones(1)], 0.1, versions[0]) == 1
    assert shard.push(1, [torch.ones(1)], 0.1, versions[1]) == 2
    assert shard.push(1, [torch.ones(1)], 0.1, shard.pull()[0]) == 0
    assert shard.facts() == (4, {0: 2, 1: 1, 2: 1})


def test_lost_replica_changes_nothing_more():
    shard = shard_of_one()
    shard.give_up(1)
    before = shard.pull()[1][0]
    assert shard.push(1, [torch.ones(1)], 0.1, 0) == REFUSED and torch.equal(shard.pull()[1][0], before)


def test_round_is_the_mean_and_waits_for_all():
    """One step with the mean of three gradients equals a plain optimizer's."""
    shard = shard_of_one(SynchronousShard, 3)
    first = shard.submit(2, [torch.tensor([3.0])], 0.1, 0)
    second = shard.submit(0, [torch.tensor([1.0])], 0.1, 0)
    assert not first.done() and shard.version == 0
    third = shard.submit(1, [torch.tensor([5.0])], 0.1, 0)
    assert [f.result() for f in (first, second, third)] == [0, 0, 0] and shard.version == 1
    plain = shard_of_one()
    plain.push(0, [torch.tensor([3.0])], 0.1, 0)
    assert torch.equal(plain.pull()[1][0], shard.pull()[1][0])


def test_who_sends_nothing_counts_in_the_mean_of_a_round():
    """Two replicas, of which one has no gradient for a tensor: half of the other's, by plain SGD; none at all: no step."""
    zeros = {name: torch.nn.Parameter(torch.zeros(1)) for name in "vw"}
    shard = SynchronousShard(zeros, dataclasses.replace(TRAINING, optimizer="sgd", weight_decay=0.0), 2)
    futures = [shard.submit(0, [None, torch.tensor([3.0])], 1.0, 0), shard.submit(1, [None, None], 1.0, 0)]
    assert [f.result() for f in futures] == [0, 0] and [t.tolist() for t in shard.pull()[1]] == [[0.0], [-1.5]]


def test_round_goes_on_without_those_who_leave_or_are_lost():
    shard = shard_of_one(SynchronousShard, 3)
    first = shard.submit(0, [torch.ones(1)], 0.1, 0)
    shard.leave(1)
    assert not first.done()
    shard.give_up(2)
    assert first.done() and shard.version == 1
    late = shard.submit(2, [torch.ones(1)], 0.1, 0)
    assert late.result() == REFUSED
    lost = shard.submit(1, [torch.ones(1)], 0.1, 1)
    shard.give_up(1)
    assert lost.done() and lost.result() == REFUSED


def test_shard_is_restored_with_its_optimizer(tmp_path):
    shards = [shard_of_one(), shard_of_one()]
    for value in (1.0, -2.0):
        shards[0].push(0, [torch.tensor([value])], 0.1, 0)
    shards[0].save(tmp_path / "s.safetensors")
    shards[1].load(tmp_path / "s.safetensors")
    assert shards[1].facts() == shards[0].facts() == (2, {0: 1, 1: 1})
    for shard in shards:
        shard.push(0, [torch.tensor([0.5])], 0.1, 2)
    assert torch.equal(shards[0].pull()[1][0], shards[1].pull()[1][0])
    (tmp_path / "bad.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0 not json")
    with pytest.raises(DataError, match="bad.safetensors"):
        shards[1].load(tmp_path / "bad.safetensors")


class LocalLink:
    """Servers in the same process, for one replica; notes the frames that each update is about."""

    def __init__(self, coordinator: Coordinator, replica: int = 0) -> None:
        self.coordinator, self.replica, self.ages, self.pulls = coordinator, replica, [], 0

    def pull(self):
        self.pulls += 1
        return [shard.pull() for shard in self.coordinator.shards]

    def push(self, gradients, rate, fetched):
        ages = [
            shard.push(self.replica, grads, rate, version)
            for shard, grads, version in zip(self.coordinator.shards, gradients, fetched)
        ]
        self.ages.append(ages[0])
        return ages

    def next(self, finished, sums):
        return self.coordinator.next(self.replica, finished, sums)


def local(out: Path, **options) -> tuple[Replica, LocalLink]:
    """A replica and its server in this process."""
    training = dataclasses.replace(TRAINING, **options)
    built, held = SignJob(training).build(), SignJob(training).build()
    parameters = trained_parameters(held)
    names = partition_tensors(parameters, 1)
    parts = partition(built.data.lens, training.replicas, training.seed)
    coordinator = Coordinator(
        held, training, out, [Shard(parameters, training)], names, make_plan(built.data.lens, parts, training)
    )
    link = LocalLink(coordinator)
    return Replica(0, built, trained_parameters(built), names, training, link), link


def test_fetch_interval_in_utterances(tmp_path):
    """Twelve utterances an epoch in batches of whole utterances; fetching after twelve means once per epoch."""
    replica, link = local(tmp_path, fetch_utterances=12.0)
    replica.run()
    per_epoch = len(link.ages) // 4
    assert link.pulls == 4 and link.ages == list(range(per_epoch)) * 4


def test_interval_of_utterances_and_seconds(monkeypatch):
    """Both have to pass; the first time comes at once."""
    now = [0.0]
    monkeypatch.setattr("pipeline.nn.asynchronous.ledger.time.monotonic", lambda: now[0])
    interval = Interval(4, 10.0)
    found = []
    for seconds in (0.0, 1.0, 2.0, 9.9, 10.0, 10.5, 20.1):
        now[0] = seconds
        found.append(interval.passes(2))
    assert found == [True, False, False, False, True, False, True] and interval.number == 3


def test_fetch_interval_over_all_replicas(tmp_path):
    """Two replicas in turn, one utterance at a time: both fetch when all have begun six, and so each after three of its
    own."""
    options = dict(fetch_utterances=6.0, fetch_by="all", replicas=2, batch_frames=1, epochs=1)
    replica, link = local(tmp_path, **options)
    items = [link.coordinator.next(number % 2, [], {}) for number in range(12)]
    assert [item.fetch for item in items] == [1] * 6 + [2] * 6
    fetched = []
    for item in items[::2]:
        replica._whole(item)
        fetched.append(link.pulls)
    assert fetched == [1, 1, 1, 2, 2, 2] and link.ages == [0, 1, 2, 0, 1, 2]


def test_outer_gradients_know_the_interval_over_all(tmp_path):
    """Of one replica with batches of frames: parameters are fetched when an utterance is begun, not for each batch."""
    replica, link = local(tmp_path, fetch_by="all", shuffle="none", frame_batch=3, epochs=1)
    replica.run()
    assert link.pulls == 12 < len(link.ages)


def test_fetch_interval_in_seconds(tmp_path):
    replica, link = local(tmp_path, fetch_seconds=1000.0)
    replica.run()
    assert link.pulls == 1 and link.ages == list(range(len(link.ages)))


@pytest.mark.parametrize("shuffle", ["none", "on_the_fly", "full"])
def test_each_frame_is_trained_once_per_epoch(shuffle, tmp_path, monkeypatch):
    """Frames as the network's windows show them: one window for each frame of the data, in each epoch."""
    replica, link = local(tmp_path, shuffle=shuffle, frame_batch=7, epochs=2, time_masks=0, feature_masks=0)
    seen = []
    windows = replica.model.encoder.network.windows

    def watch(x):
        seen.append(x[:, replica.model.encoder.network.window[0]])
        return windows(x)

    monkeypatch.setattr(replica.model.encoder.network, "windows", watch)
    replica.run()
    frames = replica.built.model.normalise(replica.built.data.flat(np.arange(12)))
    assert sorted(torch.cat(seen).tolist()) == sorted(frames.tolist() * 2)
    assert link.coordinator.ledger.complete == 2


@pytest.mark.parametrize("shuffle", ["none", "on_the_fly", "full"])
def test_frozen_targets_stay_exact(shuffle, tmp_path):
    """However long ago an utterance was begun, its batches have the loss and the gradient of cross-entropy."""
    replica, _ = local(tmp_path, shuffle=shuffle, frame_batch=7, epochs=2, time_masks=0, feature_masks=0)
    replica.model.encoder.network.dropout = 0.0
    labels, found = make_data()[1], []
    padded = [
        torch.nn.functional.pad(replica.model.normalise(own), (0, 0, 2, 1))
        for own in replica.built.data.each(np.arange(12))
    ]

    def check(batches, work):
        places = [(batches.held[n].item.indices[0], int(batches.held[n].frames[t])) for n, t in work.frames.tolist()]
        windows = torch.stack([padded[i][t : t + 4] for i, t in places])
        log_post = replica.model.log_posteriors(replica.model.encoder.network.windows(windows))
        exact = torch.nn.functional.nll_loss(
            log_post, torch.tensor([int(labels[i][t]) for i, t in places]), reduction="sum"
        )
        mine = loss(batches, work)
        weight = replica.model.output.weight
        assert torch.allclose(mine.total, exact) and mine.frames == 7  # also of a batch that is not full
        assert torch.allclose(
            *(torch.autograd.grad(x, weight, retain_graph=True)[0] for x in (mine.total, exact)), atol=1e-5
        )
        found.extend(places)
        return mine

    loss = FrameBatches.loss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FrameBatches, "loss", check)
        replica.run()
    assert len(found) == 2 * replica.built.data.num_frames


def test_frames_need_a_network_with_a_window(tmp_path):
    replica, _ = local(tmp_path, shuffle="full")
    del replica.model.encoder.network.window
    with pytest.raises(ConfigError, match="--encoder dnn"):
        replica.run()


@pytest.mark.parametrize("shuffle", ["none", "on_the_fly", "full"])
def test_memory_for_held_gradients_is_bounded(shuffle, tmp_path, monkeypatch):
    """With next to no memory allowed utterances are held one by one, and all are seen."""
    replica, link = local(tmp_path, shuffle=shuffle, frame_batch=7, epochs=1)
    object.__setattr__(replica.options, "held_megabytes", 0)
    held = []
    loss = FrameBatches.loss
    monkeypatch.setattr(FrameBatches, "loss", lambda self, work: held.append(len(self.held)) or loss(self, work))
    replica.run()
    assert set(held) == {1} and link.coordinator.ledger.complete == 1


def test_killed_after_epochs_were_dropped(tmp_path, monkeypatch):
    """What follows the end of the training in another process reads no epoch whose file is gone."""
    options = dict(average=1, checkpoint_seconds=1000.0)
    replica, link = local(tmp_path, **options)
    replica.run()
    dropped = Coordinator._drop_epochs

    def killed(self):
        dropped(self)
        if len(self.history) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Coordinator, "_drop_epochs", killed)
    link.coordinator.evaluate()
    with pytest.raises(KeyboardInterrupt):
        link.coordinator.evaluate()
    monkeypatch.undo()
    assert len(list((tmp_path / "epochs").iterdir())) == 3  # the better one of two, and two that are not evaluated
    lead = local(tmp_path, **options)[1].coordinator
    assert lead.history == link.coordinator.history and not lead.finished
    while not lead.finished:
        lead.evaluate()
    assert len(list((tmp_path / "epochs").iterdir())) == 1


def test_damaged_state_is_refused(tmp_path):
    (tmp_path / STATE).write_text("{}")
    with pytest.raises(DataError, match=STATE):
        local(tmp_path)


def test_places_of_torchrun():
    assert place_of({}).count == 1
    place = place_of({"RANK": "1", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "h"})
    assert (place.index, place.count, place.host) == (1, 3, "h")
    with pytest.raises(ConfigError, match="nproc_per_node"):
        place_of({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"})


@pytest.mark.parametrize("secret", [{}, {"FULLSUM_SECRET": "short"}])
def test_several_machines_need_a_secret(secret):
    assert place_of(secret).node() == Node()
    place = place_of({"RANK": "1", "WORLD_SIZE": "3", **secret})
    with pytest.raises(ConfigError, match="32 characters or more in the variable FULLSUM_SECRET"):
        place.node()
    assert "short" not in repr(place)


def test_time_of_a_target():
    """Worked out by hand: 3.0 at 10 s, 2.0 at 20 s, 1.0 at 40 s."""
    history = [{"dev_loss": loss, "seconds": s} for loss, s in ((3.0, 10.0), (2.0, 20.0), (1.0, 40.0))]
    assert [seconds_to(history, loss) for loss in (3.5, 2.5, 1.5, 0.5)] == [10.0, 15.0, 30.0, None]


class FakeStore(dict):
    """The store of torch.distributed, in one process."""

    def set(self, key, value):
        self[key] = value.encode()

    get = dict.__getitem__


def test_replicas_of_a_machine_spread_over_its_gpus(monkeypatch):
    """Two machines with two GPUs each and five replicas: 0, 2 and 4 on the first one, 1 and 3 on the second."""
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for index in range(2):
        for member in Node(index, 2, "h").members(dataclasses.replace(TRAINING, replicas=5)):
            if member.role == "replica":
                _limit(member, torch.get_num_threads())
    assert taken == [0, 1, 0] + [0, 1]


def test_machines_agree():
    """Replicas are dealt to machines, the servers stay on the first; other options on another machine are refused."""
    training, store = dataclasses.replace(TRAINING, replicas=5, servers=2), FakeStore()
    nodes = [Node(i, 2, "127.0.0.1", store) for i in range(2)]
    names = [[m.name for m in node.members(training)] for node in nodes]
    assert names == [["server0", "server1", "replica0", "replica2", "replica4"], ["replica1", "replica3"]]
    assert nodes[0].agree(training, [4000, 4001]) == nodes[1].agree(training) == [4000, 4001]
    with pytest.raises(ConfigError, match="other options"):
        nodes[1].agree(dataclasses.replace(training, replicas=4))
    with pytest.raises(ConfigError, match="each machine"):
        Node(0, 6, "h", store).members(training)
