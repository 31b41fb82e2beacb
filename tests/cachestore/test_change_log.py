"""The log of changes: in order, from where one stood, or told that something was missed."""

import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cachestore.change_log import ChangeLog
from cachestore.errors import StoreRefused, StoreUnavailable
from cachestore.redis_link import RedisLink
from tests.cachestore.redis_rig import RealRedis, Relay, a_link, until

NAME = "test:log"


def a_key(number: int) -> bytes:
    return number.to_bytes(32, "big")


@pytest.fixture
def log(link: RedisLink) -> ChangeLog:
    return ChangeLog(link, "test")


@pytest_asyncio.fixture
async def relayed(relay: Relay) -> AsyncIterator[RedisLink]:
    link = a_link(relay.url, deadline_s=2.0)
    await link.start(5)
    yield link
    await link.close()


async def test_messages_behind_a_position_are_read_in_their_order(
    real_redis: RealRedis, log: ChangeLog
) -> None:
    """Oldest first, at most as many as wanted, repeated ones too; then on from there."""
    start = await log.mark()
    numbers = [3, 1, 3, 2]
    with real_redis.client() as other:
        positions = [other.xadd(NAME, {"k": a_key(n)}).decode() for n in numbers]

    first = await log.read(start, 3)
    assert first is not None
    assert first.keys == [a_key(3), a_key(1), a_key(3)]
    assert first.position == positions[2]
    rest = await log.read(first.position, 3)
    assert rest is not None
    assert (rest.keys, rest.position) == ([a_key(2)], positions[3])
    assert await log.read(start, 3) == first, "reading takes nothing away"


async def test_age_is_that_of_the_oldest_message_read(
    real_redis: RealRedis, log: ChangeLog
) -> None:
    """By Redis' clock, which is in its messages' ids."""
    with real_redis.client() as other:
        for position in ("5000-0", "7250-0", "9000-1"):
            other.xadd(NAME, {"k": a_key(1)}, id=position)

    changes = await log.read("5000-0", 10)

    assert changes is not None
    assert changes.oldest_at == 7.25


async def test_at_the_end_of_the_log_there_is_nothing_and_one_stays_there(log: ChangeLog) -> None:
    """That is not to have missed something."""
    before = time.time()
    start = await log.mark()
    changes = await log.read(start, 10)

    assert changes is not None
    assert (changes.keys, changes.position, changes.oldest_at) == ([], start, None)
    assert before - 1 < int(start.partition("-")[0]) / 1000 < time.time() + 1


async def test_messages_that_are_not_ours_are_passed_over(
    real_redis: RealRedis, log: ChangeLog
) -> None:
    """Marks, other fields, keys of another length; the position moves on all the same."""
    start = await log.mark()
    with real_redis.client() as other:
        other.xadd(NAME, {"k": b"short"})
        other.xadd(NAME, {"key": a_key(1)})
        other.xadd(NAME, {"k": a_key(2), "more": "x"})
        other.xadd(NAME, {"k": a_key(3)})
    end = await log.mark()

    changes = await log.read(start, 10)

    assert changes is not None
    assert changes.keys == [a_key(3)]
    assert changes.position == end
    assert changes.oldest_at is not None


async def test_position_that_was_trimmed_away_is_gone(
    real_redis: RealRedis, log: ChangeLog
) -> None:
    """Then nobody knows what was missed, though there is something to read."""
    start = await log.mark()
    with real_redis.client() as other:
        kept = other.xadd(NAME, {"k": a_key(1)}).decode()
        other.xadd(NAME, {"k": a_key(2)})
        other.xtrim(NAME, minid=kept, approximate=False)

    assert await log.read(start, 10) is None
    still = await log.read(kept, 10)
    assert still is not None
    assert still.keys == [a_key(2)]


async def test_whether_the_position_is_there_is_asked_after_reading(
    real_redis: RealRedis, log: ChangeLog
) -> None:
    """Asked before, the log could be trimmed between the two, and what was missed go unnoticed."""
    start = await log.mark()
    with real_redis.client() as other, other.monitor() as seen:
        await log.read(start, 10)
        words: list[str] = []
        while "XRANGE" not in words:
            words.append(seen.next_command()["command"].split()[0])

    assert "XREAD" in words, "a PING of the link may be among them"


async def test_in_an_empty_redis_every_position_is_gone(
    real_redis: RealRedis, log: ChangeLog
) -> None:
    """Restarted without its data, or flushed; also once others write again."""
    start = await log.mark()
    with real_redis.client() as other:
        other.flushall()
        assert await log.read(start, 10) is None
        # Its clock goes on: no two messages a millisecond apart have one id.
        other.xadd(NAME, {"k": a_key(1)}, id=f"{int(start.partition('-')[0]) + 1}-0")

    assert await log.read(start, 10) is None


@pytest.mark.parametrize(
    "position", ["", "0", "$", "-", "1-2-3", "x-1", "1-99999999999999999999", "٣-١", "1-1\n"]
)
async def test_position_that_is_none_is_gone(
    real_redis: RealRedis, log: ChangeLog, position: str
) -> None:
    """It was read from a file; Redis would refuse it, again and again."""
    with real_redis.client() as other:
        other.xadd(NAME, {"k": a_key(1)})

    assert await log.read(position, 10) is None


async def test_log_is_trimmed_to_about_its_length(real_redis: RealRedis, link: RedisLink) -> None:
    """Redis trims whole nodes of a hundred messages: not exactly, but for sure."""
    log = ChangeLog(link, "test", most_messages=100)
    start = await log.mark()
    for _ in range(400):
        await log.mark()
    with real_redis.client() as other:
        assert 100 <= other.xlen(NAME) <= 200

    assert await log.read(start, 10) is None


async def test_marks_take_the_place_of_what_is_no_log(
    real_redis: RealRedis, log: ChangeLog
) -> None:
    """Anything may lie in a shared Redis. A follower finds its place gone, and marks anew."""
    with real_redis.client() as other:
        other.set(NAME, "garbage")
        assert await log.read("5-0", 10) is None
        start = await log.mark()
        other.xadd(NAME, {"k": a_key(1)})

    changes = await log.read(start, 10)
    assert changes is not None
    assert changes.keys == [a_key(1)]


async def test_refusals_come_through_and_are_not_taken_for_a_lost_place(
    real_redis: RealRedis, log: ChangeLog
) -> None:
    """A rebuild would not help. And a log one may not write to is not removed."""
    start = await log.mark()
    with real_redis.client() as other:
        other.execute_command("ACL", "SETUSER", "default", "-xread", "-xadd")
        try:
            with pytest.raises(StoreRefused, match="NOPERM"):
                await log.read(start, 10)
            with pytest.raises(StoreRefused):
                await log.mark()
        finally:
            other.execute_command("ACL", "SETUSER", "default", "+xread", "+xadd")
        assert other.xlen(NAME) == 1


ONE_MESSAGE = b"*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\nm\r\n$0\r\n\r\n"


@pytest.mark.parametrize(
    "replies",
    [b"*0\r\n" + ONE_MESSAGE, b"%1\r\n$1\r\nx\r\n*0\r\n" + ONE_MESSAGE, b"_\r\n:1\r\n"],
    ids=["a list", "another stream's", "no list at the second look"],
)
async def test_replies_of_the_wrong_kind_are_not_used_and_end_the_connection(
    relay: Relay, relayed: RedisLink, replies: bytes
) -> None:
    """Garbage, or other commands' replies."""
    log = ChangeLog(relayed, "test")
    start = await log.mark()

    relay.spoil = lambda piece: replies
    with pytest.raises(StoreUnavailable, match="wrong kind"):
        await log.read(start, 10)
    assert not relayed.is_up
    relay.spoil = None
    await until(lambda: relayed.is_up)
    relay.spoil = lambda piece: b":1\r\n"
    with pytest.raises(StoreUnavailable, match="wrong kind"):
        await log.mark()
