"""Whole records in a real Redis: read many at once, and joined to groups."""

import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from cachestore.change_log import ChangeLog
from cachestore.entry import StoredResponse
from cachestore.errors import StoreRefused, StoreUnavailable
from cachestore.redis_link import RedisLink
from cachestore.redis_store import RedisStore
from cachestore.vector_record import Answer, Meaning, Witness
from cachestore.vector_records import VectorRecords
from tests.cachestore.redis_rig import RealRedis, Relay, a_link

NOW = time.time()
EXPIRES_AT = NOW + 90.0
PARTITION = b"p" * 32
ENCODER, OTHER_ENCODER = "5" * 32, "6" * 32
VECTOR = struct.pack("<4f", 0.5, -0.5, 0.5, 0.5)
GROUP, OTHER_GROUP = b"g" * 16, b"o" * 16
ANSWER = Answer(GROUP, NOW, "An answer.")


def a_key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def name_of(key: bytes, kind: str = "v") -> str:
    return f"test:{kind}:{key.hex()}"


def a_meaning(key: bytes) -> Meaning:
    return Meaning(PARTITION, f"question {key.hex()}", ENCODER, VECTOR, ANSWER)


def witness(key: bytes) -> Witness:
    """Return what is read of a key that was stored."""
    return Witness(key, PARTITION, EXPIRES_AT, a_meaning(key).text, VECTOR, ANSWER, GROUP)


@pytest.fixture
def records(link: RedisLink) -> VectorRecords:
    return VectorRecords(link, "test")


async def store(link: RedisLink, *keys: bytes, meaning: Meaning | None = None) -> None:
    """Store entries, each with its record."""
    redis = RedisStore(link, "test", 2048, 1 << 20, clock=lambda: NOW)
    for key in keys:
        entry = StoredResponse(key, NOW, 60.0, 30.0, b"head", b"body")
        assert await redis.put(entry, None, meaning or a_meaning(key))


async def told(link: RedisLink, after: str) -> list[bytes]:
    """Return what the log of changes says since."""
    changes = await ChangeLog(link, "test").read(after, 1000)
    assert changes is not None
    return changes.keys


async def test_whole_records_are_read_in_the_order_of_their_keys(
    link: RedisLink, records: VectorRecords
) -> None:
    """None for what is gone, or not whole: without an answer, or without this encoder's vector."""
    answerless, vectorless, gone = a_key(3), a_key(4), a_key(5)
    await store(link, a_key(1), a_key(2))
    await store(link, answerless, meaning=replace(a_meaning(answerless), answer=None))
    await store(link, vectorless, meaning=replace(a_meaning(vectorless), vector=b""))

    found = await records.witnesses([a_key(2), answerless, gone, vectorless, a_key(1)], ENCODER)

    assert found == [witness(a_key(2)), None, None, None, witness(a_key(1))]
    assert await records.witnesses([a_key(1)], OTHER_ENCODER) == [None]
    assert await records.witnesses([], ENCODER) == []


async def test_record_that_is_no_record_is_none_and_left_to_the_index(
    real_redis: RealRedis, link: RedisLink, records: VectorRecords
) -> None:
    """It finds it so, too, and deletes it; the others are read."""
    await store(link, a_key(1), a_key(2))
    with real_redis.client() as other:
        other.set(name_of(a_key(3)), "no hash")
        other.hset(name_of(a_key(2)), "m", "spoilt")

        found = await records.witnesses([a_key(3), a_key(2), a_key(1)], ENCODER)

        assert found == [None, None, witness(a_key(1))]
        assert other.exists(name_of(a_key(2)), name_of(a_key(3))) == 2


async def test_group_is_kept_in_its_record_and_told(
    real_redis: RealRedis, link: RedisLink, records: VectorRecords
) -> None:
    """Every host has to know; the record ends when it would have."""
    await store(link, a_key(1))
    position = await ChangeLog(link, "test").mark()
    with real_redis.client() as other:
        before = other.pexpiretime(name_of(a_key(1)))

        assert await records.keep_group(a_key(1), PARTITION, GROUP, OTHER_GROUP)

        assert other.pexpiretime(name_of(a_key(1))) == before > 0
    [found] = await records.witnesses([a_key(1)], ENCODER)
    assert found == replace(witness(a_key(1)), group=OTHER_GROUP)
    assert await told(link, position) == [a_key(1)]


async def test_group_of_a_record_that_is_gone_is_let_go(
    real_redis: RealRedis, link: RedisLink, records: VectorRecords
) -> None:
    """No half of a record is left that would never end; nor is what is no hash changed."""
    position = await ChangeLog(link, "test").mark()
    with real_redis.client() as other:
        other.set(name_of(a_key(2)), "no hash")

        assert not await records.keep_group(a_key(1), PARTITION, GROUP, OTHER_GROUP)
        assert not await records.keep_group(a_key(2), PARTITION, GROUP, OTHER_GROUP)

        assert not other.exists(name_of(a_key(1)))
    assert await told(link, position) == []


async def test_group_of_an_answer_that_is_another_by_now_is_let_go(
    link: RedisLink, records: VectorRecords
) -> None:
    """It was found for what was there before; also where a record has no answer any more."""
    another = replace(a_meaning(a_key(1)), answer=Answer(b"a" * 16, NOW, "Another."))
    await store(link, a_key(1), meaning=another)
    await store(link, a_key(2), meaning=replace(a_meaning(a_key(2)), answer=None))
    [before] = await records.witnesses([a_key(1)], ENCODER)
    position = await ChangeLog(link, "test").mark()

    assert not await records.keep_group(a_key(1), PARTITION, GROUP, OTHER_GROUP)
    assert not await records.keep_group(a_key(2), PARTITION, GROUP, OTHER_GROUP)

    assert before is not None
    assert before.group == b"a" * 16
    assert await records.witnesses([a_key(1)], ENCODER) == [before]
    assert await told(link, position) == []


async def test_answer_that_joined_a_group_can_join_another(
    link: RedisLink, records: VectorRecords
) -> None:
    """It is looked up by its words' own group, which stays what it was."""
    await store(link, a_key(1))
    for group in (OTHER_GROUP, b"t" * 16):
        assert await records.keep_group(a_key(1), PARTITION, GROUP, group)

    found = await records.witnesses([a_key(1)], ENCODER)

    assert found == [replace(witness(a_key(1)), group=b"t" * 16)]


async def test_answer_that_is_stored_anew_is_of_its_own_group_again(
    link: RedisLink, records: VectorRecords
) -> None:
    """The group was found for what was there before."""
    await store(link, a_key(1))
    await records.keep_group(a_key(1), PARTITION, GROUP, OTHER_GROUP)

    await store(link, a_key(1))

    assert await records.witnesses([a_key(1)], ENCODER) == [witness(a_key(1))]


async def test_full_redis_refuses_groups(
    real_redis: RealRedis, link: RedisLink, records: VectorRecords
) -> None:
    """It is the caller who makes something of that."""
    await store(link, a_key(1))
    with real_redis.client() as other:
        other.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreRefused, match="OOM"):
                await records.keep_group(a_key(1), PARTITION, GROUP, OTHER_GROUP)
        finally:
            other.config_set("maxmemory", "0")


async def test_missing_rights_come_through(
    real_redis: RealRedis, link: RedisLink, records: VectorRecords
) -> None:
    """That is no record that is gone."""
    await store(link, a_key(1))
    with real_redis.client() as other:
        other.execute_command("ACL", "SETUSER", "default", "-hmget")
        try:
            with pytest.raises(StoreRefused, match="NOPERM"):
                await records.witnesses([a_key(1)], ENCODER)
        finally:
            other.execute_command("ACL", "SETUSER", "default", "+hmget")


Ask = Callable[[VectorRecords], Awaitable[object]]


@pytest.mark.parametrize(
    ("ask", "reply"),
    [
        (lambda records: records.witnesses([a_key(1)], ENCODER), b"*1\r\n$1\r\na\r\n"),
        (lambda records: records.witnesses([a_key(1)], ENCODER), b"$1\r\na\r\n"),
        (lambda records: records.keep_group(a_key(1), PARTITION, GROUP, OTHER_GROUP), b"_\r\n"),
    ],
)
async def test_replies_of_the_wrong_kind_are_not_used_and_end_the_connection(
    relay: Relay, ask: Ask, reply: bytes
) -> None:
    """Garbage, or another command's reply."""
    link = a_link(relay.url, deadline_s=2.0)
    await link.start(5)
    relay.spoil = lambda piece: reply
    with pytest.raises(StoreUnavailable, match="wrong kind"):
        await ask(VectorRecords(link, "test"))
    assert not link.is_up
    await link.close()
