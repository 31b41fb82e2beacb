"""Keeping an index in step with a store that may be slow, away, trimmed, emptied or replaced."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from embeddings.encoding.batching import Batcher
from embeddings.observer import RebuildCause
from embeddings.service.engine import Engine
from embeddings.service.follower import Follower
from embeddings.service.succession import Reign, Succession
from embeddings.wire import LookUp
from tests.embeddings.fakes import (
    PARTITION,
    CountingObserver,
    FakeEncoder,
    FakeIndex,
    FakeSource,
    FakeStore,
)


class Host:
    """One embedding process' engine and follower, on a store that it shares with others."""

    def __init__(
        self,
        store: FakeStore,
        *,
        dimension: int = 8,
        saved: dict[str, Any] | None = None,
        cause: RebuildCause = "start",
        **settings: Any,
    ) -> None:
        self.encoder = FakeEncoder(dimension)
        self.index = FakeIndex(saved)
        self.source = FakeSource(store, self.encoder.fingerprint)
        self.observer = CountingObserver()
        self.engine = Engine(
            Batcher(self.encoder, self.observer, max_batch=32, max_queued=100),
            self.index,
            self.source,
            self.observer,
            fingerprint=self.encoder.fingerprint,
            dimension=dimension,
        )
        self.follower = Follower(
            self.engine, self.index, self.source, self.observer, cause=cause, **settings
        )

    async def close(self) -> None:
        """End it."""
        await self.follower.stop()
        await self.engine.close()


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until `is_so`; the test's time limit ends it otherwise."""
    while not is_so():  # noqa: ASYNC110  the fakes are plain objects
        await asyncio.sleep(0.005)


Start = Callable[..., Host]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start hosts that end with the test."""
    async with AsyncExitStack() as started:

        def start(store: FakeStore, **settings: Any) -> Host:
            host = Host(store, **settings)
            host.follower.start()
            started.push_async_callback(host.close)
            return host

        yield start


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


async def test_a_first_start_takes_up_all_that_is_stored(start: Start, store: FakeStore) -> None:
    """Without a snapshot the index is filled by a scan; then it is ready."""
    keys = {store.put(f"text {number}") for number in range(1234)}
    host = Host(store)
    assert not host.follower.is_ready

    host.follower.start()
    await host.follower.wait_ready()

    assert host.follower.is_ready
    assert host.index.vectors.keys() == keys
    assert host.observer.rebuilds == ["start"]
    assert host.observer.snapshots == []
    assert host.observer.sizes[-1].vectors == {"flat": 1234}
    await host.close()


async def test_changes_are_followed(start: Start, store: FakeStore) -> None:
    """What is stored and removed through one host is so on each, within a second."""
    hosts = [start(store) for _ in range(2)]
    for host in hosts:
        await host.follower.wait_ready()

    began = time.monotonic()
    key, other = store.put("how do I pay?"), store.put("where are you?")
    store.drop(other)
    for host in hosts:
        await until(lambda host=host: host.index.vectors.keys() == {key})  # type: ignore[misc]

    assert time.monotonic() - began < 1
    assert hosts[0].observer.lags


async def test_a_long_log_is_followed_at_once(start: Start, store: FakeStore) -> None:
    """Behind a full batch there is more: it is not waited for."""
    host = start(store, poll_every_s=1.5)
    await host.follower.wait_ready()
    began = time.monotonic()

    keys = {store.put(f"text {number}") for number in range(10_000)}
    await until(lambda: host.index.vectors.keys() == keys)

    assert time.monotonic() - began < 20  # twenty batches: half a minute of waiting alone


async def test_a_restart_goes_on_from_its_snapshot(start: Start, store: FakeStore) -> None:
    """Only what happened meanwhile is read."""
    saved: dict[str, Any] = {}
    kept, dropped = store.put("kept"), store.put("dropped")
    first = Host(store, saved=saved)
    first.follower.start()
    await first.follower.wait_ready()
    await first.close()
    assert first.observer.snapshots == ["saved"]

    store.drop(dropped)
    new = store.put("new")
    second = start(store, saved=saved)
    await second.follower.wait_ready()

    assert second.index.vectors.keys() == {kept, new}
    assert second.source.scans == 0
    assert second.observer.rebuilds == []
    assert second.observer.snapshots == ["loaded"]


async def test_a_stop_without_changes_saves_nothing(store: FakeStore) -> None:
    """The snapshot on disk is as good."""
    saved: dict[str, Any] = {}
    for expected in (["saved"], ["loaded"]):
        host = Host(store, saved=saved)
        host.follower.start()
        await host.follower.wait_ready()
        await host.close()
        assert host.observer.snapshots == expected


async def test_a_snapshot_behind_a_trimmed_log_is_brought_up_by_a_rebuild(
    start: Start, store: FakeStore
) -> None:
    """What it holds is served meanwhile, and what is gone by then is forgotten."""
    saved: dict[str, Any] = {}
    kept, dropped = store.put("kept"), store.put("dropped")
    first = Host(store, saved=saved)
    first.follower.start()
    await first.follower.wait_ready()
    await first.close()
    store.drop(dropped)
    new = store.put("new")
    store.log.clear()

    second = start(store, saved=saved)
    await second.follower.wait_ready()

    assert second.index.vectors.keys() == {kept, new}
    assert second.observer.rebuilds == ["trimmed"]


async def test_a_log_trimmed_behind_our_back_is_noticed(start: Start, store: FakeStore) -> None:
    """Our place is no longer in it: nobody knows what was missed."""
    host = start(store)
    await host.follower.wait_ready()
    key = store.put("how do I pay?")
    store.log.clear()
    store.tell(None)

    await until(lambda: host.index.vectors.keys() == {key})

    assert host.observer.rebuilds == ["start", "trimmed"]


async def test_a_store_that_comes_back_empty_empties_the_index(
    start: Start, store: FakeStore
) -> None:
    """Redis restarted without its data: what was stored is gone, and is not found any more."""
    store.put("how do I pay?")
    host = start(store)
    await host.follower.wait_ready()
    assert host.index.vectors
    store.is_down = True
    await until(lambda: len(host.observer.lags) > 0 and host.observer.lags[-1] > 0)
    reads = len(host.observer.lags)
    await until(lambda: len(host.observer.lags) > reads)

    store.records.clear()
    store.vectors.clear()
    store.log.clear()
    store.is_down = False
    await until(lambda: host.observer.rebuilds == ["start", "store"])

    assert host.index.vectors == {}
    key = store.put("new")
    await until(lambda: host.index.vectors.keys() == {key})


async def test_a_store_that_is_away_is_waited_for(start: Start, store: FakeStore) -> None:
    """At the start too: the process lives, serves what it has, and goes on where it was."""
    store.is_down = True
    host = start(store)
    await until(lambda: len(host.observer.lags) >= 2)
    assert not host.follower.is_ready
    store.is_down = False
    await host.follower.wait_ready()

    store.failures_to_come = 2
    key = store.put("how do I pay?")
    await until(lambda: host.index.vectors.keys() == {key})

    assert host.observer.rebuilds == ["start"]


async def test_a_rebuild_that_fails_begins_anew(start: Start, store: FakeStore) -> None:
    """A scan's cursor means nothing to another server; what was encoded needs no encoding."""
    keys = {store.put(f"text {number}") for number in range(2000)}
    host = start(store, rebuild_rate=10_000)
    await until(lambda: len(host.index.vectors) >= 500)

    store.failures_to_come = 1
    await host.follower.wait_ready()

    assert host.index.vectors.keys() == keys
    assert host.observer.rebuilds == ["start"]
    assert host.source.scans > 20
    assert len(host.encoder.encoded) <= 2500


async def test_a_rebuild_keeps_to_its_rate_and_serves(start: Start, store: FakeStore) -> None:
    """Look-ups are answered between its batches, from what is there already."""
    for number in range(2000):
        store.put(f"text {number}")
    began = time.monotonic()
    host = start(store, rebuild_rate=4000)
    answered = 0

    while not host.follower.is_ready:
        await host.engine.look_up(LookUp(PARTITION, "text 0", 1))
        answered += 1
        await asyncio.sleep(0.005)

    assert time.monotonic() - began >= 0.5
    # Were they held up until its end, one or two would have been answered.
    assert answered >= 5


class AmongOthers(FakeSource):
    """In a Redis that holds much else: pages of a scan have none of our records, for long."""

    foreign_pages = 20

    async def scan(self, cursor: int) -> tuple[int, list[bytes]]:
        """Return pages without a key first."""
        if cursor < self.foreign_pages:
            self.store.check()
            self.scans += 1
            return cursor + 1, []
        return await super().scan(0 if cursor == self.foreign_pages else cursor)


async def test_pages_without_our_records_count_too(store: FakeStore) -> None:
    """Redis looks through as many names for them, and serves others meanwhile."""
    host = Host(store)
    key = store.put("how do I pay?")
    source = AmongOthers(store, host.encoder.fingerprint)
    # Each page counts for a hundred records.
    follower = Follower(host.engine, host.index, source, host.observer, rebuild_rate=4000)
    began = time.monotonic()
    follower.start()
    await follower.wait_ready()

    assert time.monotonic() - began >= 0.5
    assert source.scans == 21
    assert host.index.vectors.keys() == {key}
    await follower.stop()
    await host.close()


async def test_an_index_that_has_lost_vectors_is_filled_anew(store: FakeStore) -> None:
    """The store has them. If it loses some again soon after, that waits; nothing is saved then."""
    saved: dict[str, Any] = {}
    host = Host(store, saved=saved, tidy_every_s=3600)
    keys = {store.put(f"text {number}") for number in range(100)}
    host.follower.start()
    await host.follower.wait_ready()

    host.index.vectors.clear()
    host.index.is_whole = False
    await until(lambda: host.observer.rebuilds == ["start", "lost"])
    assert host.index.vectors.keys() == keys
    assert host.index.is_whole

    host.index.vectors.clear()
    host.index.is_whole = False
    later = store.put("later")
    await until(lambda: later in host.index.vectors)
    await host.close()
    assert host.observer.rebuilds == ["start", "lost"]
    assert host.index.vectors.keys() == {later}
    assert saved == {}


async def test_what_changes_under_a_rebuild_is_not_missed(start: Start, store: FakeStore) -> None:
    """The place in the log is taken before the scan."""
    keys = [store.put(f"text {number}") for number in range(2000)]
    host = start(store, rebuild_rate=5000)
    await until(lambda: len(host.index.vectors) >= 500)
    new = store.put("new")
    store.drop(keys[0])

    await host.follower.wait_ready()

    assert host.index.vectors.keys() == {*keys[1:], new}


async def test_no_snapshot_is_ahead_of_the_index(store: FakeStore) -> None:
    """Stopped in the midst of a rebuild, or of a batch, it saves nothing that was not taken up."""
    saved: dict[str, Any] = {}
    for number in range(2000):
        store.put(f"text {number}")
    host = Host(store, saved=saved, rebuild_rate=2000, tidy_every_s=0.01)
    host.follower.start()
    await until(lambda: len(host.index.vectors) >= 500)
    await host.close()
    assert saved == {}

    host = Host(store, saved=saved)
    host.follower.start()
    await host.follower.wait_ready()
    host.index.is_down = True
    store.put("never taken up")
    await asyncio.sleep(0.2)
    host.index.is_down = False
    await host.close()
    assert "vectors" in saved
    last = int(saved["position"])
    assert all(key in saved["vectors"] for number, key in store.log if key and number <= last)


async def test_the_index_is_saved_and_tidied_as_it_goes(start: Start, store: FakeStore) -> None:
    """A killed process loses no more than the time between two snapshots."""
    saved: dict[str, Any] = {}
    host = start(store, saved=saved, snapshot_every_s=0.05, tidy_every_s=0.02)
    await host.follower.wait_ready()
    kept, expiring = store.put("kept"), store.put("expiring", expires_at=time.time() + 0.3)

    await until(lambda: saved.get("vectors", {}).keys() == {kept, expiring})
    # Expiry is not in the log: no message tells of it.
    await until(lambda: host.index.vectors.keys() == {kept})


async def test_a_defect_of_tidying_does_not_keep_the_index_from_being_saved(
    start: Start, store: FakeStore
) -> None:
    """A killed process would lose all since its start; and tidying is tried again."""
    saved: dict[str, Any] = {}
    host = start(store, saved=saved, snapshot_every_s=0.02, tidy_every_s=0.01)
    host.index.is_expiry_broken = True
    await host.follower.wait_ready()
    key = store.put("how do I pay?")

    await until(lambda: key in saved.get("vectors", {}))
    await until(lambda: host.index.expiries >= 2)
    host.index.is_expiry_broken = False
    store.put("expiring", expires_at=time.time() + 0.3)
    await until(lambda: len(host.index.vectors) == 2)
    await until(lambda: host.index.vectors.keys() == {key})


async def test_a_full_disk_is_survived(start: Start, store: FakeStore) -> None:
    """It serves on, tells of it, and tries again."""
    saved: dict[str, Any] = {}
    host = start(store, saved=saved, snapshot_every_s=0.02, tidy_every_s=0.01)
    host.index.is_disk_full = True
    await until(lambda: "failed" in host.observer.snapshots)
    assert saved == {}

    host.index.is_disk_full = False
    await until(lambda: "saved" in host.observer.snapshots)


async def test_an_index_that_is_away_is_waited_for(start: Start, store: FakeStore) -> None:
    """The place in the log stays until all has been taken up."""
    host = start(store)
    await host.follower.wait_ready()
    host.index.is_down = True
    key = store.put("how do I pay?")
    lags = len(host.observer.lags)
    await until(lambda: len(host.observer.lags) > lags + 1)

    host.index.is_down = False

    await until(lambda: host.index.vectors.keys() == {key})
    assert host.observer.rebuilds == ["start"]


async def test_a_record_that_nobody_can_take_up_holds_no_other_up(
    start: Start, store: FakeStore
) -> None:
    """A defect is logged; the rest of its batch is taken up one by one."""
    host = start(store)
    await host.follower.wait_ready()
    bad, good = store.put("bad"), store.put("good")
    host.index.poison.add(bad)
    later = store.put("later")

    await until(lambda: host.index.vectors.keys() == {good, later})


class BrokenOnce(FakeSource):
    """Has a defect."""

    broken = 1

    async def mark(self) -> str:
        if self.broken:
            self.broken -= 1
            raise RuntimeError("a defect")
        return await super().mark()


async def test_a_defect_is_not_the_end(store: FakeStore) -> None:
    """Without this loop the index would grow old in silence."""
    host = Host(store)
    source = BrokenOnce(store, host.encoder.fingerprint)
    follower = Follower(host.engine, host.index, source, host.observer)
    key = store.put("how do I pay?")

    follower.start()
    await follower.wait_ready()

    assert host.index.vectors.keys() == {key}
    await follower.stop()
    await host.close()


async def snapshot_of(store: FakeStore, dimension: int) -> dict[str, Any]:
    """Return what a host with such an encoder has saved when it ended."""
    saved: dict[str, Any] = {}
    host = Host(store, dimension=dimension, saved=saved)
    host.follower.start()
    await host.follower.wait_ready()
    await host.close()
    return saved


async def test_a_new_encoder_takes_over_when_it_has_caught_up(store: FakeStore) -> None:
    """Until then the old index answers, with the old encoder's vectors, and follows the log."""
    keys = {store.put(f"text {number}") for number in range(2000)}
    old = Host(store, dimension=8, saved=await snapshot_of(store, 8))
    new = Host(store, dimension=16, cause="encoder", rebuild_rate=4000)
    dropped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def drop() -> None:
        loop.call_soon_threadsafe(dropped.set)

    succession = Succession(
        Reign(new.engine, new.follower),
        Reign(old.engine, old.follower),
        drop,
    )
    succession.start()
    await until(lambda: succession.is_ready)
    assert succession.current is old.engine
    await until(lambda: len(new.index.vectors) >= 500)

    # One that is learnt meanwhile is found at once, and later by the new one.
    keys.add(store.put("learnt meanwhile"))
    await until(lambda: len(old.index.vectors) == 2001)
    found = await succession.current.look_up(LookUp(PARTITION, "learnt meanwhile", 1))
    assert found.matches[0].score == pytest.approx(1)
    assert (found.fingerprint, len(found.vector)) == (old.encoder.fingerprint, 4 * 8)
    assert not dropped.is_set()

    last = asyncio.create_task(succession.current.look_up(LookUp(PARTITION, "text 7", 1)))
    await dropped.wait()
    assert succession.current is new.engine
    assert succession.is_ready
    assert (await last).fingerprint == old.encoder.fingerprint
    assert old.index.is_closed
    assert new.index.vectors.keys() == keys
    found = await succession.current.look_up(LookUp(PARTITION, "text 7", 1))
    assert found.matches[0].score == pytest.approx(1)
    assert (found.fingerprint, len(found.vector)) == (new.encoder.fingerprint, 4 * 16)
    assert new.observer.rebuilds == ["encoder"]
    assert {fingerprint for _, fingerprint in store.vectors} == {
        old.encoder.fingerprint,
        new.encoder.fingerprint,
    }
    await succession.close()
    assert new.observer.snapshots[-1] == "saved"


async def test_a_succession_cut_short_keeps_the_old_index(store: FakeStore) -> None:
    """The next start begins with it again; what the new one has encoded is in the store."""
    for number in range(2000):
        store.put(f"text {number}")
    saved, new_saved = await snapshot_of(store, 8), dict[str, Any]()
    old = Host(store, dimension=8, saved=saved)
    new = Host(store, dimension=16, saved=new_saved, rebuild_rate=2000)
    is_dropped = False

    def drop() -> None:
        nonlocal is_dropped
        is_dropped = True

    succession = Succession(Reign(new.engine, new.follower), Reign(old.engine, old.follower), drop)
    succession.start()
    await until(lambda: len(new.index.vectors) >= 500)
    late = store.put("late")
    await until(lambda: late in old.index.vectors)
    await succession.close()

    assert not is_dropped
    assert new_saved == {}
    assert late in saved["vectors"]
    assert old.index.is_closed
    assert new.index.is_closed


async def test_without_a_predecessor_there_is_but_one(store: FakeStore) -> None:
    """The everyday case."""
    host = Host(store)
    succession = Succession(Reign(host.engine, host.follower))
    assert succession.current is host.engine
    assert not succession.is_ready

    succession.start()
    await host.follower.wait_ready()

    assert succession.is_ready
    await succession.close()
    assert host.index.is_closed
