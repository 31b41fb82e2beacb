"""An entry's vector record: written with it and told in one step, never without it."""

import asyncio
from dataclasses import replace

import pytest
import pytest_asyncio

from cachestore.change_log import ChangeLog
from cachestore.entry import StoredResponse
from cachestore.errors import StoreRefused
from cachestore.leases import Lease, Leases
from cachestore.redis_link import RedisLink
from cachestore.redis_store import RedisStore
from cachestore.vector_record import Meaning, VectorRecord
from cachestore.vector_records import VectorRecords
from tests.cachestore.redis_rig import RealRedis, acquire

KEY = bytes(range(32))
NOW = 1_700_000_000.0
MAX_ENTRY_BYTES = 100_000
ENTRY = StoredResponse(KEY, NOW, 60.0, 30.0, b"head", b"body", 10.0)
ENCODER = "5" * 32
OTHER_ENCODER = "6" * 32
VECTOR = b"\x00\x00\x80\x3f" * 4
MEANING = Meaning(b"p" * 32, "How high is Mount Everest?", ENCODER, VECTOR)
ENTRY_NAME = f"test:e:{KEY.hex()}"
RECORD_NAME = f"test:v:{KEY.hex()}"
LEASE_NAME = f"test:l:{KEY.hex()}"
LOG_NAME = "test:log"


@pytest.fixture
def store(link: RedisLink) -> RedisStore:
    return RedisStore(link, "test", 2048, MAX_ENTRY_BYTES, clock=lambda: NOW)


@pytest.fixture
def records(link: RedisLink) -> VectorRecords:
    return VectorRecords(link, "test")


@pytest.fixture
def log(link: RedisLink) -> ChangeLog:
    return ChangeLog(link, "test")


async def told(log: ChangeLog, after: str) -> list[bytes]:
    """Return what the log says since."""
    changes = await log.read(after, 1000)
    assert changes is not None
    return changes.keys


@pytest_asyncio.fixture
async def held(link: RedisLink) -> Lease:
    """A lease on the key."""
    lease = await acquire(Leases(link, "test", b"me", 10.0), KEY)
    assert lease is not None
    return lease


@pytest.fixture(params=["leased", "unleased"])
def lease(request: pytest.FixtureRequest) -> Lease | None:
    """A lease on the key, or none: both ways to store."""
    if request.param == "unleased":
        return None
    held: Lease = request.getfixturevalue("held")
    return held


async def test_entry_and_record_are_written_and_told_in_one_step(
    real_redis: RealRedis,
    store: RedisStore,
    records: VectorRecords,
    log: ChangeLog,
    lease: Lease | None,
) -> None:
    """Under a lease, which is given back, or without; both end at the same moment."""
    before = await log.mark()

    assert await store.put(ENTRY, lease, MEANING)

    assert await store.get(KEY) == ENTRY
    assert await records.read([KEY], ENCODER) == [
        VectorRecord(KEY, MEANING.partition, NOW + 80.0, vector=VECTOR)
    ]
    assert await told(log, before) == [KEY]
    with real_redis.client() as other:
        assert not other.exists(LEASE_NAME)
        ends = [other.pttl(name) for name in (ENTRY_NAME, RECORD_NAME)]
        assert 79_000 < min(ends) <= max(ends) <= 80_000
        assert max(ends) - min(ends) < 50


async def test_record_is_not_seen_before_its_entry_nor_told_of_before_it_is_there(
    real_redis: RealRedis, store: RedisStore
) -> None:
    """One step in Redis: whoever hears of the key at once finds everything."""
    with real_redis.client() as other, other.pubsub() as heard:
        other.config_set("notify-keyspace-events", "Kth$")
        heard.psubscribe("__keyspace@0__:test:*")
        try:
            assert await store.put(ENTRY, None, MEANING)
            names: list[str] = []
            while len(names) < 3:
                message = heard.get_message(timeout=5)
                assert message is not None
                if message["type"] == "pmessage":
                    names.append(message["channel"].decode().partition(":")[2])
        finally:
            other.config_set("notify-keyspace-events", "")

    assert names == [ENTRY_NAME, RECORD_NAME, LOG_NAME]


async def test_leader_whose_lease_passed_to_another_writes_no_record_either(
    link: RedisLink, store: RedisStore, records: VectorRecords, log: ChangeLog
) -> None:
    """Fencing: neither entry nor record nor message."""
    before = await log.mark()
    paused = await acquire(Leases(link, "test", b"paused", 0.05), KEY)
    await asyncio.sleep(0.1)
    leads = await acquire(Leases(link, "test", b"leads", 10.0), KEY)

    assert not await store.put(ENTRY, paused, MEANING)

    assert await store.get(KEY) is None
    assert await records.read([KEY], ENCODER) == [None]
    assert await told(log, before) == []
    assert await store.put(ENTRY, leads, MEANING)


@pytest.mark.parametrize(
    "entry",
    [
        replace(ENTRY, body=bytes(MAX_ENTRY_BYTES + 1)),
        replace(ENTRY, stored_at=NOW - 90.0),
    ],
    ids=["too large", "past its keep time"],
)
async def test_entry_that_is_not_stored_leaves_no_record(
    real_redis: RealRedis, store: RedisStore, held: Lease, entry: StoredResponse
) -> None:
    """And gives the lease back."""
    assert not await store.put(entry, held, MEANING)

    with real_redis.client() as other:
        assert other.keys() == []


async def test_where_redis_has_no_memory_for_the_entry_there_is_no_record(
    real_redis: RealRedis, store: RedisStore, lease: Lease | None
) -> None:
    """A record without its entry would be a neighbour without an answer."""
    with real_redis.client() as other:
        other.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreRefused) as caught:
                await store.put(ENTRY, lease, MEANING)
        finally:
            other.config_set("maxmemory", "0")
        assert caught.value.code == "OOM"
        assert other.keys() == []


async def test_full_redis_keeps_the_entry_and_the_record_from_before(
    real_redis: RealRedis, store: RedisStore, records: VectorRecords
) -> None:
    """What cannot be replaced stays whole."""
    assert await store.put(ENTRY, None, MEANING)
    with real_redis.client() as other:
        other.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreRefused, match="OOM"):
                await store.put(replace(ENTRY, body=b"new"), None, MEANING)
        finally:
            other.config_set("maxmemory", "0")

    assert await store.get(KEY) == ENTRY
    assert await records.read([KEY], ENCODER) != [None]


@pytest.mark.parametrize("missing", ["hset", "xadd"])
async def test_record_that_may_not_be_written_leaves_the_entry_and_gives_the_lease_back(
    real_redis: RealRedis, store: RedisStore, held: Lease, missing: str
) -> None:
    """A Redis user with the rights of an older version: the refusal comes through."""
    with real_redis.client() as other:
        other.execute_command("ACL", "SETUSER", "default", f"-{missing}")
        try:
            with pytest.raises(StoreRefused):
                await store.put(ENTRY, held, MEANING)
        finally:
            other.execute_command("ACL", "SETUSER", "default", f"+{missing}")
        assert not other.exists(LEASE_NAME)

    assert await store.get(KEY) == ENTRY


@pytest.mark.parametrize("name", [ENTRY_NAME, RECORD_NAME, LOG_NAME])
async def test_put_takes_the_place_of_what_is_none_of_ours(
    real_redis: RealRedis, store: RedisStore, records: VectorRecords, held: Lease, name: str
) -> None:
    """A set under each of the three names; nothing of it stays."""
    with real_redis.client() as other:
        other.sadd(name, "x")

        assert await store.put(ENTRY, held, MEANING)

        assert await store.get(KEY) == ENTRY
        assert await records.read([KEY], ENCODER) != [None]
        assert [fields for _, fields in other.xrange(LOG_NAME)] == [{b"k": KEY}]
        assert not other.exists(LEASE_NAME)


async def test_nothing_of_a_record_from_before_stays(
    store: RedisStore, records: VectorRecords
) -> None:
    """Its text has been encoded by whoever needs it when the log has told of it again."""
    await store.put(ENTRY, None, MEANING)
    await records.keep_vector(KEY, MEANING.partition, OTHER_ENCODER, VECTOR)

    await store.put(ENTRY, None, Meaning(b"q" * 32, "another text"))

    for encoder in (ENCODER, OTHER_ENCODER):
        assert await records.read([KEY], encoder) == [
            VectorRecord(KEY, b"q" * 32, NOW + 80.0, text="another text")
        ]


async def test_put_without_a_meaning_leaves_the_record_from_before(
    store: RedisStore, records: VectorRecords, log: ChangeLog, lease: Lease | None
) -> None:
    """The same key is the same question; and its new answer answers it."""
    await store.put(ENTRY, None, MEANING)
    before = await log.mark()
    [record] = await records.read([KEY], ENCODER)

    assert await store.put(replace(ENTRY, body=b"new"), lease)

    assert record is not None
    assert await records.read([KEY], ENCODER) == [record]
    assert await told(log, before) == []


async def test_put_without_a_meaning_writes_the_entry_alone(
    real_redis: RealRedis, store: RedisStore, lease: Lease | None
) -> None:
    """Most answers have none; they need no log."""
    assert await store.put(ENTRY, lease)

    with real_redis.client() as other:
        assert other.keys() == [ENTRY_NAME.encode()]


async def test_what_is_deleted_loses_its_record_and_that_is_told(
    real_redis: RealRedis, store: RedisStore, log: ChangeLog
) -> None:
    """Once; a second time there is nothing to tell of."""
    await store.put(ENTRY, None, MEANING)
    before = await log.mark()

    assert await store.delete(KEY)
    assert not await store.delete(KEY)

    assert await told(log, before) == [KEY]
    with real_redis.client() as other:
        assert other.keys() == [LOG_NAME.encode()]


async def test_what_is_deleted_without_a_record_needs_no_log(
    real_redis: RealRedis, store: RedisStore
) -> None:
    """Where nothing is compared by meaning there is no log at all."""
    await store.put(ENTRY)

    assert await store.delete(KEY)

    with real_redis.client() as other:
        assert other.keys() == []


async def test_full_redis_can_delete(real_redis: RealRedis, store: RedisStore) -> None:
    """It frees memory; and a foreign value in the log's place is no hindrance."""
    await store.put(ENTRY, None, MEANING)
    with real_redis.client() as other:
        other.set(LOG_NAME, "garbage")
        other.config_set("maxmemory", "1")
        try:
            assert await store.delete(KEY)
        finally:
            other.config_set("maxmemory", "0")
        assert not other.exists(ENTRY_NAME, RECORD_NAME)


async def test_the_log_is_trimmed_by_those_who_write_to_it(
    real_redis: RealRedis, store: RedisStore
) -> None:
    """Also where nobody reads it."""
    with real_redis.client() as other:
        with other.pipeline() as many:
            for _ in range(100_500):
                many.xadd(LOG_NAME, {"k": KEY})
            many.execute()

        await store.put(ENTRY, None, MEANING)

        assert 100_000 <= other.xlen(LOG_NAME) <= 100_200
