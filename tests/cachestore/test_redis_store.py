"""The Redis store's own half: foreign values, expiry, leases, many at once."""

import asyncio
import pickle
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from cachestore.entry import StoredResponse, encode
from cachestore.errors import StoreRefused, StoreUnavailable
from cachestore.leases import Held, Leases
from cachestore.redis_link import RedisLink
from cachestore.redis_store import RedisStore, entry_prefix
from tests.cachestore.redis_rig import RealRedis, Relay, a_link, acquire, settled, until

KEY = bytes(range(32))
OTHER_KEY = bytes(32)
NOW = 1_700_000_000.0
MAX_ENTRY_BYTES = 100_000
ENTRY = StoredResponse(KEY, NOW, 60.0, 30.0, b"head", b"body")
NAME = f"test:e:{KEY.hex()}"
LEASE_NAME = f"test:l:{KEY.hex()}"


class Corrupt:
    """Counts what was not what was stored."""

    count = 0

    def __call__(self) -> None:
        self.count += 1


def store_over(link: RedisLink, corrupt: Corrupt | None = None) -> RedisStore:
    return RedisStore(link, "test", 2048, MAX_ENTRY_BYTES, clock=lambda: NOW, on_corrupt=corrupt)


@pytest.fixture
def corrupt() -> Corrupt:
    return Corrupt()


@pytest.fixture
def store(link: RedisLink, corrupt: Corrupt) -> RedisStore:
    return store_over(link, corrupt)


@pytest_asyncio.fixture
async def relayed(relay: Relay) -> AsyncIterator[RedisLink]:
    link = a_link(relay.url)
    await link.start(5)
    yield link
    await link.close()


async def test_an_entry_lies_under_a_hash_and_ends_with_its_keep_time(
    real_redis: RealRedis, store: RedisStore
) -> None:
    """Redis' own expiry, absolute: lifetime and keep time, less its age."""
    assert await store.put(replace(ENTRY, initial_age_s=10.0))

    with real_redis.client() as other:
        assert other.keys() == [NAME.encode()]
        assert 79_000 < other.pttl(NAME) <= 80_000
    assert NAME.encode().startswith(entry_prefix("test"))


async def test_an_entry_of_boundless_lifetime_is_kept_for_a_century(
    real_redis: RealRedis, store: RedisStore
) -> None:
    """Redis refuses times that overflow its clock."""
    assert await store.put(replace(ENTRY, lifetime_s=1e300))

    with real_redis.client() as other:
        assert other.ttl(NAME) > 99 * 365 * 86_400


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"garbage",
        pickle.dumps({"answer": 42}),
        encode(ENTRY, 0)[:-1],
        encode(ENTRY, 0)[:50] + b"\xff" + encode(ENTRY, 0)[51:],
        encode(replace(ENTRY, key=OTHER_KEY), 0),
        encode(replace(ENTRY, body=bytes(MAX_ENTRY_BYTES)), 0),
    ],
    ids=["empty", "garbage", "pickle", "truncated", "flipped", "of another key", "too large"],
)
async def test_what_is_no_entry_is_a_miss_counted_and_deleted(
    real_redis: RealRedis, store: RedisStore, corrupt: Corrupt, value: bytes
) -> None:
    """Anything may lie in a shared Redis; none of it is served or executed."""
    with real_redis.client() as other:
        other.set(NAME, value)

        assert await store.get(KEY) is None
        assert corrupt.count == 1
        assert not other.exists(NAME)


@pytest.mark.parametrize("command", ["LPUSH", "SADD", "PFADD"])
async def test_a_value_of_another_type_is_a_miss_and_deleted(
    real_redis: RealRedis, store: RedisStore, corrupt: Corrupt, command: str
) -> None:
    """A list or a set under our name; PFADD makes a string that is not ours."""
    with real_redis.client() as other:
        other.execute_command(command, NAME, "x")

        assert await store.get(KEY) is None
        assert corrupt.count == 1
        assert not other.exists(NAME)


async def test_without_anyone_to_tell_corrupt_values_are_deleted_all_the_same(
    real_redis: RealRedis, link: RedisLink
) -> None:
    """The callback is optional."""
    with real_redis.client() as other:
        other.set(NAME, "garbage")

        assert await store_over(link).get(KEY) is None
        assert not other.exists(NAME)


@pytest.mark.parametrize("kind", ["string", "list"])
async def test_a_sound_entry_stored_meanwhile_is_not_deleted_as_corrupt(
    real_redis: RealRedis, relay: Relay, relayed: RedisLink, kind: str
) -> None:
    """Between reading garbage and deleting it, another worker may have stored."""
    store = store_over(relayed)
    with real_redis.client() as other:
        other.set(NAME, "garbage") if kind == "string" else other.lpush(NAME, "x")
        relay.replies_pass.clear()
        reading = asyncio.create_task(store.get(KEY))
        await asyncio.sleep(0.05)
        other.set(NAME, encode(ENTRY, 0))
        relay.replies_pass.set()

        assert await reading is None
        assert await store.get(KEY) == ENTRY


async def test_many_are_got_in_their_order_with_none_for_those_not_there(
    real_redis: RealRedis, store: RedisStore, corrupt: Corrupt
) -> None:
    """A batch of embeddings, partly known."""
    third = replace(ENTRY, key=b"3" * 32)
    await store.put(ENTRY)
    await store.put(third)
    with real_redis.client() as other:
        other.set(f"test:e:{OTHER_KEY.hex()}", "garbage")
        other.lpush("test:e:" + (b"4" * 32).hex(), "x")

    found = await store.get_many([third.key, OTHER_KEY, b"4" * 32, b"5" * 32, KEY])

    assert found == [third, None, None, None, ENTRY]
    assert corrupt.count == 1
    assert await store.get_many([]) == []


async def test_redis_refusals_come_through(real_redis: RealRedis, store: RedisStore) -> None:
    """It is the caller who makes them misses."""
    with real_redis.client() as other:
        other.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreRefused, match="OOM"):
                await store.put(ENTRY)
        finally:
            other.config_set("maxmemory", "0")
        other.execute_command("ACL", "SETUSER", "default", "-get")
        try:
            with pytest.raises(StoreRefused, match="NOPERM"):
                await store.get(KEY)
        finally:
            other.execute_command("ACL", "SETUSER", "default", "+get")


async def test_a_put_under_a_lease_stores_and_gives_the_lease_back(
    real_redis: RealRedis, link: RedisLink, store: RedisStore
) -> None:
    """One step: nobody sees the lease gone and the answer not there."""
    leases = Leases(link, "test", b"me", 10.0)
    for _ in range(2):  # the script is sent the first time, named the second
        lease = await acquire(leases, KEY)
        assert lease is not None

        assert await store.put(ENTRY, lease)
        assert await store.get(KEY) == ENTRY
        with real_redis.client() as other:
            assert not other.exists(LEASE_NAME)
            assert 89_000 < other.pttl(NAME) <= 90_000


async def test_a_leader_whose_lease_passed_to_another_stores_nothing(
    real_redis: RealRedis, link: RedisLink, store: RedisStore
) -> None:
    """Fencing: it was paused, its lease ended, another leads (Kleppmann 2016)."""
    paused = await acquire(Leases(link, "test", b"paused", 0.05), KEY)
    assert paused is not None
    await asyncio.sleep(0.1)
    leads = await acquire(Leases(link, "test", b"leads", 10.0), KEY)
    assert leads is not None

    assert not await store.put(replace(ENTRY, body=b"late"), paused)
    assert await store.get(KEY) is None
    assert await store.put(ENTRY, leads)
    assert not await store.put(replace(ENTRY, body=b"later still"), paused)
    assert await store.get(KEY) == ENTRY


async def test_a_lease_taken_again_by_the_same_owner_is_another_lease(
    link: RedisLink, store: RedisStore
) -> None:
    """The token counts, not the owner: its first flight is not its second."""
    leases = Leases(link, "test", b"me", 0.05)
    first = await acquire(leases, KEY)
    await asyncio.sleep(0.1)
    second = await acquire(leases, KEY)
    assert first is not None
    assert second is not None

    assert not await store.put(ENTRY, first)
    assert await store.put(ENTRY, second)


@pytest.mark.parametrize(
    "entry",
    [
        replace(ENTRY, body=bytes(MAX_ENTRY_BYTES + 1)),
        replace(ENTRY, stored_at=NOW - 90.0),
    ],
    ids=["too large", "past its keep time"],
)
async def test_an_entry_that_is_not_stored_gives_the_lease_back_too(
    real_redis: RealRedis, link: RedisLink, store: RedisStore, entry: StoredResponse
) -> None:
    """Else followers would wait for the lease to end."""
    lease = await acquire(Leases(link, "test", b"me", 10.0), KEY)

    assert not await store.put(entry, lease)
    with real_redis.client() as other:
        assert other.keys() == []


async def test_a_put_redis_has_no_memory_for_gives_the_lease_back_too(
    real_redis: RealRedis, link: RedisLink, store: RedisStore
) -> None:
    """The refusal comes through, but nobody waits for it."""
    lease = await acquire(Leases(link, "test", b"me", 10.0), KEY)
    with real_redis.client() as other:
        other.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreRefused, match="OOM"):
                await store.put(ENTRY, lease)
        finally:
            other.config_set("maxmemory", "0")
        assert other.keys() == []


async def test_a_record_of_another_command_is_neither_served_nor_deleted(
    relay: Relay, relayed: RedisLink
) -> None:
    """When replies are out of step, nothing is wrong with what lies in Redis."""
    store = store_over(relayed)
    other_entry = replace(ENTRY, key=OTHER_KEY)
    await store.put(ENTRY)
    await store.put(other_entry)
    relay.spoil = lambda piece: piece.replace(b"$1\r\na\r\n", b"")
    lost = relayed.execute(b"ECHO", b"a")
    results = await settled([store.get(KEY), store.get(OTHER_KEY), store.get(KEY)])
    relay.spoil = None

    assert all(isinstance(result, StoreUnavailable) for result in results), results
    assert lost.done()
    await until(lambda: relayed.is_up)
    assert await store.get(KEY) == ENTRY
    assert await store.get(OTHER_KEY) == other_entry


async def test_a_look_up_that_finds_nothing_takes_the_lease(
    real_redis: RealRedis, link: RedisLink, store: RedisStore
) -> None:
    """One trip on a miss; the draft is then in force and may store."""
    leases = Leases(link, "test", b"me", 10.0)
    draft = leases.draft(KEY)

    assert await store.get_or_lease(draft) == draft
    with real_redis.client() as other:
        assert 9_000 < other.pttl(LEASE_NAME) <= 10_000
    assert await store.get_or_lease(leases.draft(KEY)) == Held(draft)
    assert await store.put(ENTRY, draft)
    assert await store.get_or_lease(leases.draft(KEY)) == ENTRY
    assert await leases.held(KEY) is None


@pytest.mark.parametrize("is_list", [False, True])
async def test_a_look_up_that_finds_garbage_takes_no_lease_and_deletes_it(
    real_redis: RealRedis, link: RedisLink, store: RedisStore, corrupt: Corrupt, is_list: bool
) -> None:
    """On Redis before 7.0 too, where a script's WRONGTYPE is wrapped in an ERR."""
    leases = Leases(link, "test", b"me", 10.0)
    with real_redis.client() as other:
        if is_list:
            other.lpush(NAME, "x")
        else:
            other.set(NAME, "garbage")

        assert await store.get_or_lease(leases.draft(KEY)) is None
        assert corrupt.count == 1
        assert other.keys() == []


async def test_a_hit_is_a_hit_when_redis_is_full_or_read_only(
    real_redis: RealRedis, link: RedisLink, store: RedisStore
) -> None:
    """Only the lease needs memory; a miss is refused with its code."""
    leases = Leases(link, "test", b"me", 10.0)
    await store.put(ENTRY)
    with real_redis.client() as other:
        other.config_set("maxmemory", "1")
        try:
            assert await store.get_or_lease(leases.draft(KEY)) == ENTRY
            with pytest.raises(StoreRefused) as caught:
                await store.get_or_lease(leases.draft(OTHER_KEY))
        finally:
            other.config_set("maxmemory", "0")
    assert caught.value.code == "OOM"


WRONG_KIND = b"*0\r\n"


async def test_replies_of_the_wrong_kind_are_not_used_and_end_the_connection(
    relay: Relay, relayed: RedisLink
) -> None:
    """An array in answer to GET, SET or a script: garbage, or another's reply."""
    store, leases = store_over(relayed), Leases(relayed, "test", b"me", 10.0)
    lease = await acquire(leases, KEY)
    assert lease is not None
    for ask in (
        lambda: store.get(KEY),
        lambda: store.get_many([KEY]),
        lambda: store.put(ENTRY),
        lambda: store.put(ENTRY, lease),
        lambda: store.delete(KEY),
        lambda: acquire(leases, OTHER_KEY),
        lambda: leases.held(KEY),
        lambda: leases.renew(lease),
        lambda: store.get_or_lease(leases.draft(KEY)),
    ):
        relay.spoil = lambda piece: WRONG_KIND
        with pytest.raises(StoreUnavailable, match="wrong kind"):
            await ask()
        assert not relayed.is_up
        relay.spoil = None
        await until(lambda: relayed.is_up)
    assert str(relayed.distrust(None)).startswith("a reply of the wrong kind")
    assert str(relayed.distrust(None)).startswith("a reply of the wrong kind")
