"""Look-ups and refreshes, over a fake encoder, index and store."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from embeddings.encoding.batching import Batcher, Busy
from embeddings.encoding.encoder import Vector
from embeddings.index.vector_index import IndexUnavailable, Match
from embeddings.service.engine import Engine
from embeddings.service.source import Record, SourceUnavailable, Witness
from embeddings.verdict import Verdict
from embeddings.wire import Budgeted, Decided, Feedback, LookUp, WireError
from tests.embeddings.fakes import (
    FAR_FUTURE,
    PARTITION,
    CountingObserver,
    FakeEncoder,
    FakeIndex,
    FakeSource,
    FakeStore,
    key_of,
)
from tests.embeddings.service.judging import until

_NOW = 1000.0


class Rig:
    """An engine and what it is made of."""

    def __init__(self, *, max_queued: int = 100) -> None:
        self.encoder = FakeEncoder()
        self.index = FakeIndex()
        self.store = FakeStore()
        self.source = FakeSource(self.store, self.encoder.fingerprint)
        self.observer = CountingObserver()
        self.engine = Engine(
            Batcher(self.encoder, self.observer, max_batch=32, max_queued=max_queued),
            self.index,
            self.source,
            self.observer,
            fingerprint=self.encoder.fingerprint,
            dimension=self.encoder.dimension,
            clock=lambda: _NOW,
        )

    def held(self, key: bytes) -> bytes:
        """Return the vector kept in the store."""
        return self.store.vectors[key, self.encoder.fingerprint]

    def keep(self, key: bytes, vector: bytes) -> None:
        """Put a vector into the store."""
        self.store.vectors[key, self.encoder.fingerprint] = vector


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.engine.close()


async def test_what_is_stored_is_found(rig: Rig) -> None:
    """Key, cosine, the text's own vector and the encoder's fingerprint."""
    near, far = rig.store.put("how do I pay?"), rig.store.put("where are you?")
    await rig.engine.refresh([near, far])

    found = await rig.engine.look_up(LookUp(PARTITION, "how do I pay?", 2))

    assert [match.key for match in found.matches] == [near, far]
    assert found.matches[0].score == pytest.approx(1)
    assert found.fingerprint == rig.encoder.fingerprint
    assert found.refused is None
    vector = np.frombuffer(found.vector, dtype="<f4")
    assert np.array_equal(vector, rig.encoder.vector("how do I pay?"))
    assert rig.observer.outcomes == ["found"]


async def test_nothing_is_found_in_another_partition(rig: Rig) -> None:
    """But the vector is there all the same: the worker stores it with the answer."""
    await rig.engine.refresh([rig.store.put("how do I pay?")])

    found = await rig.engine.look_up(LookUp(b"q" * 32, "how do I pay?", 2))

    assert found.matches == ()
    assert found.vector
    assert rig.observer.outcomes == ["nothing"]


async def test_a_text_that_is_refused_is_not_searched_for(rig: Rig) -> None:
    """The reason is told in the encoder's word."""
    found = await rig.engine.look_up(LookUp(PARTITION, "refuse me", 2))

    assert (found.matches, found.refused, found.vector) == ((), "script", b"")
    assert rig.observer.outcomes == ["refused"]
    assert rig.index.searches == []


async def test_look_ups_of_one_batch_are_searched_together(rig: Rig) -> None:
    """One call to the index; each gets what it asked for, and as many as it asked for."""
    keys = [rig.store.put(f"text {number}") for number in range(10)]
    await rig.engine.refresh(keys)

    found = await asyncio.gather(
        *(
            rig.engine.look_up(LookUp(PARTITION, f"text {number}", number + 1))
            for number in range(10)
        )
    )

    assert [one.matches[0].key for one in found] == keys
    assert [len(one.matches) for one in found] == list(range(1, 11))
    # The batcher may encode the first alone, as nothing else was there when it came.
    assert len(rig.index.searches) <= 2
    assert sum(rig.observer.searches) == 10


async def test_a_full_queue_is_busy() -> None:
    """Counted, and told at once."""
    rig = Rig(max_queued=1)

    outcomes = await asyncio.gather(
        *(rig.engine.look_up(LookUp(PARTITION, f"text {number}", 1)) for number in range(10)),
        return_exceptions=True,
    )

    assert any(isinstance(outcome, Busy) for outcome in outcomes)
    assert rig.observer.outcomes.count("busy") == sum(isinstance(o, Busy) for o in outcomes)
    await rig.engine.close()


async def test_an_index_that_cannot_be_asked_fails_each_look_up(rig: Rig) -> None:
    """All that were searched together fail, each once."""
    rig.index.is_down = True

    outcomes = await asyncio.gather(
        *(rig.engine.look_up(LookUp(PARTITION, f"text {number}", 1)) for number in range(3)),
        return_exceptions=True,
    )

    assert [type(outcome) for outcome in outcomes] == [IndexUnavailable] * 3
    assert rig.observer.outcomes == ["failed"] * 3


async def test_a_look_up_that_is_cancelled_leaves_the_others(rig: Rig) -> None:
    """A client that leaves is counted as nothing."""
    key = rig.store.put("text 0")
    await rig.engine.refresh([key])
    tasks = [
        asyncio.create_task(rig.engine.look_up(LookUp(PARTITION, f"text {number}", 1)))
        for number in range(3)
    ]
    await asyncio.sleep(0)

    tasks[1].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(outcomes[1], asyncio.CancelledError)
    assert not isinstance(outcomes[0], BaseException)
    assert outcomes[0].matches[0].key == key
    assert rig.observer.outcomes == ["found", "found"]


async def test_a_missing_vector_is_made_and_kept(rig: Rig) -> None:
    """The next process finds it in the record and need not encode."""
    key = rig.store.put("how do I pay?")

    await rig.engine.refresh([key])
    await rig.engine.refresh([key, key])

    assert rig.encoder.encoded == ["how do I pay?"]
    assert np.array_equal(
        np.frombuffer(rig.held(key), dtype="<f4"), rig.encoder.vector("how do I pay?")
    )
    assert rig.source.reads[-1] == [key]


async def test_a_vector_that_is_there_is_used(rig: Rig) -> None:
    """Bytes as another process wrote them."""
    key = rig.store.put("how do I pay?")
    rig.keep(key, rig.encoder.vector("something else").tobytes())

    await rig.engine.refresh([key])

    assert rig.encoder.encoded == []
    held = rig.index.vectors[key]
    assert np.array_equal(held.vector, rig.encoder.vector("something else"))
    assert (held.partition, held.expires_at) == (PARTITION, FAR_FUTURE)


@pytest.mark.parametrize(
    "vector",
    [
        np.ones(7, dtype=np.float32) / np.float32(7**0.5),
        np.ones(8, dtype=np.float32),
        np.zeros(8, dtype=np.float32),
        np.full(8, np.nan, dtype=np.float32),
        np.full(8, np.inf, dtype=np.float32),
        np.full(8, 1e30, dtype=np.float32),
    ],
    ids=["length", "long", "zero", "nan", "inf", "overflow"],
)
async def test_a_vector_that_can_be_none_is_not_used(
    rig: Rig, vector: np.ndarray[tuple[int], np.dtype[np.float32]]
) -> None:
    """Its text is encoded instead where the store gives it; else the entry is not indexed."""
    key = rig.store.put("how do I pay?")
    rig.store.records[key] = Record(key, PARTITION, FAR_FUTURE, vector.tobytes(), "how do I pay?")
    other = rig.store.put("where are you?")
    rig.keep(other, vector.tobytes())

    await rig.engine.refresh([key, other])

    assert rig.encoder.encoded == ["how do I pay?"]
    assert rig.index.vectors.keys() == {key}
    assert np.array_equal(rig.index.vectors[key].vector, rig.encoder.vector("how do I pay?"))


async def test_what_is_gone_expired_or_refused_leaves_the_index(rig: Rig) -> None:
    """The index holds nothing that may not be found."""
    keys = [rig.store.put(name) for name in ("gone", "expired", "not for us", "stays")]
    await rig.engine.refresh(keys)
    assert rig.index.vectors.keys() == set(keys)

    rig.store.drop(keys[0])
    rig.store.put("expired", expires_at=_NOW)
    del rig.store.vectors[keys[2], rig.encoder.fingerprint]
    rig.store.put("not for us", "refuse me")
    await rig.engine.refresh([*keys, key_of("never there")])

    assert rig.index.vectors.keys() == {keys[3]}


async def test_an_entry_found_gone_is_forgotten(rig: Rig) -> None:
    """Its record goes from the store, if its entry is really gone, and from the index."""
    gone, here = rig.store.put("gone"), rig.store.put("here")
    await rig.engine.refresh([gone, here])
    rig.store.gone_entries.add(gone)

    await rig.engine.forget([gone, here])

    assert rig.store.records.keys() == {here}
    assert rig.index.vectors.keys() == {here}


class SlowSource(FakeSource):
    """Waits in `read`, once asked to, with what it has read already."""

    def __init__(self, store: FakeStore, fingerprint: str) -> None:
        super().__init__(store, fingerprint)
        self.has_read = asyncio.Event()
        self.may_return = asyncio.Event()

    async def read(self, keys: Sequence[bytes]) -> list[Record | None]:
        records = await super().read(keys)
        self.has_read.set()
        await self.may_return.wait()
        return records


async def test_what_was_read_first_is_not_written_last(rig: Rig) -> None:
    """A removal between a slow refresh's reading and its writing is not undone by it."""
    source = SlowSource(rig.store, rig.encoder.fingerprint)
    engine = Engine(
        Batcher(rig.encoder, rig.observer, max_batch=32, max_queued=100),
        rig.index,
        source,
        rig.observer,
        fingerprint=rig.encoder.fingerprint,
        dimension=rig.encoder.dimension,
    )
    key = rig.store.put("how do I pay?")
    rig.keep(key, rig.encoder.vector("how do I pay?").tobytes())
    slow = asyncio.create_task(engine.refresh([key]))
    await source.has_read.wait()
    rig.store.drop(key)
    quick = asyncio.create_task(engine.refresh([key]))
    await asyncio.sleep(0)

    source.may_return.set()
    await asyncio.gather(slow, quick)

    assert rig.index.vectors == {}
    await engine.close()


class DroppingSource(FakeSource):
    """The record goes while its text is being encoded."""

    async def keep_vector(self, record: Record, vector: bytes) -> None:
        self.store.drop(record.key)


async def test_what_goes_while_its_text_is_encoded_is_not_added(rig: Rig) -> None:
    """Encoding takes its time, and the removal's message may have been read before it ended."""
    source = DroppingSource(rig.store, rig.encoder.fingerprint)
    engine = Engine(
        Batcher(rig.encoder, rig.observer, max_batch=32, max_queued=100),
        rig.index,
        source,
        rig.observer,
        fingerprint=rig.encoder.fingerprint,
        dimension=rig.encoder.dimension,
    )

    await engine.refresh([rig.store.put("how do I pay?")])

    assert rig.index.vectors == {}
    await engine.close()


async def test_a_store_that_is_away_is_told(rig: Rig) -> None:
    """Whoever refreshes tries again; nothing half done is wrong."""
    key = rig.store.put("how do I pay?")
    rig.store.failures_to_come = 1
    with pytest.raises(SourceUnavailable):
        await rig.engine.refresh([key])

    await rig.engine.refresh([key])

    assert rig.index.vectors.keys() == {key}


async def test_statistics_say_what_is_held(rig: Rig) -> None:
    """By state, as the index counts."""
    await rig.engine.refresh([rig.store.put("how do I pay?")])

    assert await rig.engine.stats() == {
        "fingerprint": rig.encoder.fingerprint,
        "dimension": 8,
        "vectors": {"flat": 1},
        "partitions": 1,
        "bytes": 100,
        "routes": {},
    }


class HangingIndex(FakeIndex):
    """Never finds anything, and never says so."""

    async def search(
        self, queries: Sequence[tuple[bytes, Vector]], k: int, now: float
    ) -> list[list[Match]]:
        await asyncio.Event().wait()
        return []


async def test_closing_does_not_wait_for_long(rig: Rig) -> None:
    """An index that hangs does not keep the process from ending."""
    engine = Engine(
        Batcher(rig.encoder, rig.observer, max_batch=32, max_queued=100),
        HangingIndex(),
        rig.source,
        rig.observer,
        fingerprint=rig.encoder.fingerprint,
        dimension=rig.encoder.dimension,
    )
    look_up = asyncio.create_task(engine.look_up(LookUp(PARTITION, "how do I pay?", 1)))
    began = time.monotonic()
    await asyncio.sleep(0)

    await engine.close()

    assert time.monotonic() - began < 2
    await asyncio.wait([look_up])
    assert look_up.cancelled()


async def test_closing_answers_what_has_begun() -> None:
    """A look-up under way when an engine is replaced is answered by it."""
    rig = Rig()
    key = rig.store.put("how do I pay?")
    await rig.engine.refresh([key])
    look_up = asyncio.create_task(rig.engine.look_up(LookUp(PARTITION, "how do I pay?", 1)))
    await asyncio.sleep(0)

    await rig.engine.close()

    assert (await look_up).matches[0].key == key
    assert rig.index.is_closed


BUDGETED = Budgeted(key_of("asked"), "r", 0.01, 0.0)


async def test_within_a_budget_nothing_is_found_before_it_is_earned(rig: Rig) -> None:
    """The decision is told, and the vector, to store the upstream's answer with."""
    key = rig.store.put("how do I pay?")
    await rig.engine.refresh([key])
    rig.store.witnesses[key] = witness_of(rig, key)

    found = await rig.engine.look_up(LookUp(PARTITION, "how do I pay?", 64, BUDGETED))

    assert found.matches == ()
    assert found.decided == Decided(Verdict.UNSURE, 0.0)
    assert found.vector
    assert (await rig.engine.stats())["routes"]["r"]["is_serving"] is False


async def test_what_is_refused_within_a_budget_is_not_decided(rig: Rig) -> None:
    """There is nothing to compare."""
    found = await rig.engine.look_up(LookUp(PARTITION, "refuse me", 64, BUDGETED))

    assert (found.refused, found.decided) == ("script", None)
    told = await rig.engine.explain(LookUp(PARTITION, "refuse me", 64, BUDGETED))
    assert (told["verdict"], told["refused"]) == ("refused", "script")


async def test_answer_that_is_refreshed_teaches(rig: Rig) -> None:
    """Also where its vector was stored with it, so that nothing has to be encoded."""
    key, asked = rig.store.put("how do I pay?"), rig.store.put("asked", "how would I pay?")
    rig.store.witnesses[key] = witness_of(rig, key)
    await rig.engine.refresh([key])
    await rig.engine.look_up(LookUp(PARTITION, "how do I pay?", 64, BUDGETED))
    rig.keep(asked, rig.encoder.vector("how would I pay?").tobytes())
    rig.store.witnesses[asked] = witness_of(rig, asked)

    await rig.engine.refresh([asked])
    await until(lambda: bool(rig.observer.comparisons))

    assert [route for _, route, _ in rig.store.samples] == ["r"]
    assert rig.observer.comparisons == [(False, True)]


async def test_explanation_needs_a_budget_and_feedback_is_taken_up(rig: Rig) -> None:
    """What would be decided, and by whom."""
    key = rig.store.put("how do I pay?")
    await rig.engine.refresh([key])
    rig.store.witnesses[key] = witness_of(rig, key)

    with pytest.raises(WireError):
        await rig.engine.explain(LookUp(PARTITION, "how do I pay?", 64))
    told = await rig.engine.explain(LookUp(PARTITION, "how do I pay?", 64, BUDGETED))
    assert (told["verdict"], len(told["neighbours"])) == ("unsure", 1)
    assert await rig.engine.told(Feedback(BUDGETED.key, key, False))
    assert rig.store.forbidden == {BUDGETED.key + b"g" * 16, BUDGETED.key + b"w" * 16}


def witness_of(rig: Rig, key: bytes) -> Witness:
    """Return the whole record of what was put."""
    text = rig.store.records[key].text
    vector = rig.encoder.vector(text).tobytes()
    group, words = b"g" * 16, b"w" * 16
    return Witness(key, PARTITION, FAR_FUTURE, text, vector, group, words, 1.0, "By card.")
