"""Aliases: another question's key that leads to an entry, for as long as there is that entry."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
import pytest_asyncio

from cachestore.alias import encode_alias
from cachestore.entry import StoredResponse, encode
from cachestore.errors import StoreRefused, StoreUnavailable
from cachestore.leases import Held, Lease, Leases
from cachestore.redis_link import RedisLink
from cachestore.redis_store import (
    RedisStore,
    alias_prefix,
    entry_keys,
    entry_prefix,
    keys_among,
)
from cachestore.vector_record import Meaning
from tests.cachestore.redis_rig import RealRedis, Relay, Watcher, a_link, acquire, until

ASKED = b"a" * 32
TARGET = b"t" * 32
THIRD = b"3" * 32
NOW = 1_700_000_000.0
ENTRY = StoredResponse(TARGET, NOW, 60.0, 30.0, b"head", b"body")


def name_of(key: bytes, kind: str) -> str:
    return f"test:{kind}:{key.hex()}"


ALIAS_NAME = name_of(ASKED, "a")
TARGET_NAME = name_of(TARGET, "e")
LEASE_NAME = name_of(ASKED, "l")


class Corrupt:
    """Counts what was not what was stored."""

    count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def corrupt() -> Corrupt:
    return Corrupt()


@pytest.fixture
def store(link: RedisLink, corrupt: Corrupt) -> RedisStore:
    return store_over(link, corrupt)


def store_over(link: RedisLink, corrupt: Corrupt | None = None) -> RedisStore:
    return RedisStore(link, "test", 2048, 100_000, clock=lambda: NOW, on_corrupt=corrupt)


@pytest.fixture
def leases(link: RedisLink) -> Leases:
    return Leases(link, "test", b"me", 10.0)


LookUp = Callable[[], Awaitable[StoredResponse | Lease | Held | None]]


@pytest.fixture(params=["get", "get_or_lease"])
def look_up(request: pytest.FixtureRequest, store: RedisStore, leases: Leases) -> LookUp:
    """Either way of looking up what was asked, aliases followed."""
    if request.param == "get":
        return lambda: store.get(ASKED, follows_aliases=True)
    return lambda: store.get_or_lease(leases.draft(ASKED), follows_aliases=True)


def is_miss(found: object) -> bool:
    """Say whether there was nothing: None, or the lease to fetch it."""
    return found is None or isinstance(found, Lease)


@pytest_asyncio.fixture
async def relayed(relay: Relay) -> AsyncIterator[RedisLink]:
    link = a_link(relay.url, deadline_s=2.0)
    await link.start(5)
    yield link
    await link.close()


async def test_entry_is_found_under_its_alias_and_says_its_own_key(
    store: RedisStore, leases: Leases
) -> None:
    """So that whoever asked can tell; and only who follows aliases finds it."""
    await store.put(ENTRY)
    assert await store.put_alias(ASKED, TARGET)

    assert await store.get(ASKED, follows_aliases=True) == ENTRY
    assert await store.get_or_lease(leases.draft(ASKED), follows_aliases=True) == ENTRY
    assert await store.get(ASKED) is None
    assert await store.get_many([ASKED]) == [None]
    assert await leases.held(ASKED) is None
    draft = leases.draft(ASKED)
    assert await store.get_or_lease(draft) == draft


async def test_look_up_that_may_follow_finds_what_is_no_alias_as_ever(
    store: RedisStore, leases: Leases
) -> None:
    """An entry, nothing, the lease, or who has it; all in one trip."""
    draft = leases.draft(TARGET)

    assert await store.get(TARGET, follows_aliases=True) is None
    assert await store.get_or_lease(draft, follows_aliases=True) == draft
    again = leases.draft(TARGET)
    assert await store.get_or_lease(again, follows_aliases=True) == Held(draft)
    assert await store.put(ENTRY, draft)
    assert await store.get(TARGET, follows_aliases=True) == ENTRY
    assert await store.get_or_lease(again, follows_aliases=True) == ENTRY


async def test_entry_of_its_own_comes_before_an_alias(store: RedisStore, look_up: LookUp) -> None:
    """The answer to the very words, where there is one."""
    own = replace(ENTRY, key=ASKED, body=b"own")
    await store.put(ENTRY)
    await store.put_alias(ASKED, TARGET)
    await store.put(own)

    assert await look_up() == own


@pytest.mark.parametrize("has_lease", [False, True])
@pytest.mark.parametrize("meaning", [None, Meaning(b"p" * 32, "asked")])
async def test_entry_of_its_own_takes_the_place_of_an_alias(
    real_redis: RealRedis,
    store: RedisStore,
    leases: Leases,
    meaning: Meaning | None,
    has_lease: bool,
) -> None:
    """When it ends first, the question is open again: whoever asked anew wanted no other's."""
    await store.put(ENTRY)
    await store.put_alias(ASKED, TARGET)
    lease = await acquire(leases, ASKED) if has_lease else None

    assert await store.put(replace(ENTRY, key=ASKED, body=b"own"), lease, meaning)

    with real_redis.client() as other:
        assert not other.exists(ALIAS_NAME)
        other.delete(name_of(ASKED, "e"))
    assert await store.get(ASKED, follows_aliases=True) is None
    assert await store.get(TARGET) == ENTRY


async def test_entry_that_is_not_stored_leaves_the_alias(
    real_redis: RealRedis, link: RedisLink, store: RedisStore, leases: Leases
) -> None:
    """Be it fenced, or refused by a Redis that is full."""
    own = replace(ENTRY, key=ASKED, body=b"own")
    await store.put(ENTRY)
    await store.put_alias(ASKED, TARGET)
    lease = await acquire(leases, ASKED)
    assert lease is not None
    await leases.release(lease)

    assert not await store.put(own, lease)
    with real_redis.client() as other:
        other.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreRefused):
                await store.put(own)
        finally:
            other.config_set("maxmemory", "0")

    assert await store.get(ASKED, follows_aliases=True) == ENTRY


async def test_alias_ends_with_its_entry(real_redis: RealRedis, store: RedisStore) -> None:
    """No later, also where the entry is half over."""
    await store.put(ENTRY)
    with real_redis.client() as other:
        other.pexpire(TARGET_NAME, 5000)

        assert await store.put_alias(ASKED, TARGET)

        with other.pipeline() as both:
            alias_ms, entry_ms = both.pttl(ALIAS_NAME).pttl(TARGET_NAME).execute()
        assert abs(alias_ms - entry_ms) <= 5
        assert 4000 < entry_ms <= 5000


@pytest.mark.parametrize("is_endless", [False, True])
async def test_alias_of_what_is_gone_or_has_no_end_is_not_written(
    real_redis: RealRedis, store: RedisStore, leases: Leases, is_endless: bool
) -> None:
    """An entry may go between being found and being made use of. The lease is given back."""
    lease = await acquire(leases, ASKED)
    with real_redis.client() as other:
        if is_endless:
            other.set(TARGET_NAME, "an entry of ours has an end")

        assert not await store.put_alias(ASKED, TARGET)
        assert not await store.put_alias(ASKED, TARGET, lease)

        assert not other.exists(ALIAS_NAME, LEASE_NAME)


async def test_lease_is_given_back_with_the_alias(
    real_redis: RealRedis, store: RedisStore, leases: Leases
) -> None:
    """In the same step: who waits for the answer finds it."""
    await store.put(ENTRY)
    lease = await acquire(leases, ASKED)

    assert await store.put_alias(ASKED, TARGET, lease)

    with real_redis.client() as other:
        assert not other.exists(LEASE_NAME)
    assert await store.get(ASKED, follows_aliases=True) == ENTRY


async def test_leader_whose_lease_passed_to_another_writes_no_alias(
    link: RedisLink, store: RedisStore, leases: Leases
) -> None:
    """Fencing, as with entries; the other's lease stays."""
    await store.put(ENTRY)
    paused = await acquire(Leases(link, "test", b"paused", 0.05), ASKED)
    await asyncio.sleep(0.1)
    leads = await acquire(leases, ASKED)
    assert leads is not None

    assert not await store.put_alias(ASKED, TARGET, paused)

    assert await store.get(ASKED, follows_aliases=True) is None
    assert await leases.held(ASKED) == Held(leads)


async def test_alias_that_redis_never_saw_is_a_fault_and_the_next_one_is_written(
    real_redis: RealRedis, relay: Relay, relayed: RedisLink
) -> None:
    """Its scripts are forgotten (NOSCRIPT), and the second try is lost with the connection."""
    store, leases = store_over(relayed), Leases(relayed, "test", b"me", 10.0)
    await store.put(ENTRY)
    assert await store.put_alias(THIRD, TARGET)
    lease = await acquire(leases, ASKED)
    assert lease is not None
    with real_redis.client() as other:
        other.script_flush()
        relay.loses = lambda piece: b"\r\nEVAL\r\n" in piece

        with pytest.raises(StoreUnavailable):
            await store.put_alias(ASKED, TARGET, lease)

        assert not other.exists(ALIAS_NAME)
        assert other.exists(LEASE_NAME), "it ends by itself, or is given back later"
        relay.loses = lambda piece: False
        await until(lambda: relayed.is_up)
        assert await store.put_alias(ASKED, TARGET, lease)
        assert await store.get(ASKED, follows_aliases=True) == ENTRY
        assert not other.exists(LEASE_NAME)


async def test_full_redis_refuses_an_alias_and_gives_the_lease_back(
    real_redis: RealRedis, store: RedisStore, leases: Leases
) -> None:
    """But an alias that is there is followed all the same."""
    await store.put(ENTRY)
    await store.put_alias(THIRD, TARGET)
    lease = await acquire(leases, ASKED)
    with real_redis.client() as other:
        other.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreRefused) as caught:
                await store.put_alias(ASKED, TARGET, lease)
            assert caught.value.code == "OOM"
            assert not other.exists(ALIAS_NAME, LEASE_NAME)
            assert await store.get(THIRD, follows_aliases=True) == ENTRY
            draft = leases.draft(THIRD)
            assert await store.get_or_lease(draft, follows_aliases=True) == ENTRY
        finally:
            other.config_set("maxmemory", "0")


@pytest.mark.parametrize("how", ["deleted", "expired", "of another type"])
async def test_alias_dies_with_its_entry(
    real_redis: RealRedis, store: RedisStore, look_up: LookUp, how: str
) -> None:
    """Whoever comes upon it removes it and goes on as if it had not been there."""
    await store.put(ENTRY)
    await store.put_alias(ASKED, TARGET)
    with real_redis.client() as other:
        match how:
            case "deleted":
                await store.delete(TARGET)
            case "expired":
                other.pexpire(TARGET_NAME, 1)
                await until(lambda: not other.exists(TARGET_NAME))
            case _:
                other.delete(TARGET_NAME)
                other.lpush(TARGET_NAME, "x")

        found = await look_up()

        assert is_miss(found)
        assert bool(other.exists(LEASE_NAME)) is isinstance(found, Lease)
        assert not other.exists(ALIAS_NAME)


async def test_alias_of_an_entry_that_was_replaced_leads_to_the_new_one(
    store: RedisStore,
) -> None:
    """The same question, asked again of the upstream."""
    newer = replace(ENTRY, body=b"newer")
    await store.put(ENTRY)
    await store.put_alias(ASKED, TARGET)
    await store.put(newer)

    assert await store.get(ASKED, follows_aliases=True) == newer


async def test_entry_past_its_keep_time_is_not_found_through_an_alias(
    real_redis: RealRedis, store: RedisStore
) -> None:
    """Redis' clock may be behind ours."""
    over = replace(ENTRY, stored_at=NOW - 100)
    await store.put(ENTRY)
    await store.put_alias(ASKED, TARGET)
    with real_redis.client() as other:
        other.set(TARGET_NAME, encode(over, 0))

    assert await store.get(ASKED, follows_aliases=True) is None


@pytest.mark.parametrize("target", [encode(replace(ENTRY, key=THIRD), 0), b"garbage"])
async def test_corrupt_entry_behind_an_alias_is_counted_and_deleted(
    real_redis: RealRedis, store: RedisStore, look_up: LookUp, corrupt: Corrupt, target: bytes
) -> None:
    """It is judged by its own key, not by the one that was asked for."""
    await store.put(ENTRY)
    await store.put_alias(ASKED, TARGET)
    with real_redis.client() as other:
        other.set(TARGET_NAME, target)

        assert await look_up() is None

        assert corrupt.count == 1
        assert not other.exists(TARGET_NAME)


async def test_alias_is_never_followed_twice(
    real_redis: RealRedis, store: RedisStore, leases: Leases
) -> None:
    """What the target is itself an alias of may mean something else; and circles have no end."""
    await store.put(ENTRY)
    await store.put_alias(ASKED, TARGET)
    with real_redis.client() as other:
        other.set(name_of(THIRD, "a"), encode_alias(THIRD, ASKED), px=9000)
        other.set(name_of(TARGET, "a"), encode_alias(TARGET, ASKED), px=9000)

        assert await store.get(THIRD, follows_aliases=True) is None
        assert not other.exists(name_of(THIRD, "a"))
        other.delete(TARGET_NAME)
        draft = leases.draft(ASKED)
        assert await store.get_or_lease(draft, follows_aliases=True) == draft


@pytest.mark.parametrize(
    "value",
    [
        encode_alias(THIRD, TARGET),
        b"XXXX" + encode_alias(ASKED, TARGET)[4:],
        encode_alias(ASKED, TARGET)[:-1],
        encode_alias(ASKED, THIRD)[:4] + encode_alias(ASKED, TARGET)[4:68] + bytes(16),
    ],
    ids=["another's", "another kind", "cut", "changed"],
)
async def test_alias_that_is_not_believed_is_counted_and_deleted(
    real_redis: RealRedis, store: RedisStore, look_up: LookUp, corrupt: Corrupt, value: bytes
) -> None:
    """Though it leads to a sound entry: that would be another question's answer."""
    await store.put(ENTRY)
    with real_redis.client() as other:
        other.set(ALIAS_NAME, value)

        assert await look_up() is None

        assert corrupt.count == 1
        assert not other.exists(ALIAS_NAME)
        assert other.exists(TARGET_NAME)


@pytest.mark.parametrize("value", ["", "garbage", "\0" * 84, "x" * 500])
@pytest.mark.parametrize("is_list", [False, True])
async def test_garbage_in_an_alias_place_is_removed(
    real_redis: RealRedis, look_up: LookUp, value: str, is_list: bool
) -> None:
    """It leads nowhere."""
    with real_redis.client() as other:
        if is_list:
            other.lpush(ALIAS_NAME, value)
        else:
            other.set(ALIAS_NAME, value)

        assert is_miss(await look_up())
        assert not other.exists(ALIAS_NAME)


async def test_sound_alias_written_meanwhile_is_not_deleted_as_corrupt(
    real_redis: RealRedis, relay: Relay, relayed: RedisLink
) -> None:
    """Between reading garbage and deleting it, another worker may have found the same."""
    store = store_over(relayed)
    await store.put(ENTRY)
    with real_redis.client() as other:
        other.set(ALIAS_NAME, encode_alias(THIRD, TARGET))

        def replace_it(piece: bytes) -> bytes:
            relay.spoil = None
            other.set(ALIAS_NAME, encode_alias(ASKED, TARGET))
            return piece

        relay.spoil = replace_it
        assert await store.get(ASKED, follows_aliases=True) is None

    assert await store.get(ASKED, follows_aliases=True) == ENTRY


async def test_garbage_in_the_entrys_own_place_is_counted_and_deleted(
    real_redis: RealRedis, store: RedisStore, look_up: LookUp, corrupt: Corrupt
) -> None:
    """A list there is not passed over for the alias."""
    await store.put(ENTRY)
    await store.put_alias(ASKED, TARGET)
    with real_redis.client() as other:
        other.lpush(name_of(ASKED, "e"), "x")

        assert await look_up() is None

        assert corrupt.count == 1
        assert not other.exists(name_of(ASKED, "e"))


async def test_deleting_forgets_an_alias_but_not_what_it_leads_to(store: RedisStore) -> None:
    """What is asked for is forgotten; the other question has still its answer."""
    await store.put(ENTRY)
    await store.put_alias(ASKED, TARGET)

    assert await store.delete(ASKED)

    assert await store.get(ASKED, follows_aliases=True) is None
    assert await store.get(TARGET) == ENTRY


async def test_changes_of_entries_and_aliases_are_told_apart(real_redis: RealRedis) -> None:
    """A worker's memory follows both by their prefixes, and nothing else."""
    prefixes = (entry_prefix("test"), alias_prefix("test"))
    watcher = Watcher()
    link = a_link(real_redis.url, watcher, invalidation_prefixes=prefixes)
    await link.start(5)
    with real_redis.client() as other:
        for name in (name_of(TARGET, "e"), ALIAS_NAME, name_of(THIRD, "v"), "test:e:x", "test:a:"):
            other.set(name, "1")
        await until(lambda: any(b"test:a:" in (names or ()) for names in watcher.invalidated))
    names = [name for some in watcher.invalidated for name in some or ()]

    assert name_of(THIRD, "v").encode() not in names
    assert keys_among(names, prefixes[0]) == [TARGET]
    assert keys_among(names, prefixes[1]) == [ASKED]
    assert sorted(entry_keys("test", names)) == sorted([TARGET, ASKED])
    await link.close()


@pytest.mark.parametrize(
    "reply", [b"*0\r\n", b"*2\r\n:1\r\n:1\r\n", b"*3\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n"]
)
async def test_replies_of_the_wrong_kind_are_not_used_and_end_the_connection(
    relay: Relay, relayed: RedisLink, reply: bytes
) -> None:
    """Garbage, or another command's reply."""
    store, leases = store_over(relayed), Leases(relayed, "test", b"me", 10.0)
    for ask in (
        lambda: store.get(ASKED, follows_aliases=True),
        lambda: store.get_or_lease(leases.draft(ASKED), follows_aliases=True),
        lambda: store.put_alias(ASKED, TARGET),
    ):
        relay.spoil = lambda piece: reply
        with pytest.raises(StoreUnavailable, match="wrong kind"):
            await ask()
        relay.spoil = None
        await until(lambda: relayed.is_up)
