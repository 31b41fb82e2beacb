"""The log of samples in a real Redis: all of it, in order, for everyone; and forbidden pairs."""

import asyncio

import pytest

from cachestore.errors import StoreUnavailable
from cachestore.redis_link import RedisLink
from cachestore.sample_log import BEGINNING, SampleLog
from tests.cachestore.redis_rig import RealRedis, Relay, a_link

NAME, FORBIDDEN = "test:samples", "test:forbidden"


@pytest.fixture
def log(link: RedisLink) -> SampleLog:
    return SampleLog(link, "test")


async def test_samples_are_read_in_their_order_from_a_position_on(log: SampleLog) -> None:
    """With their routes; at most as many as wanted, then on from there."""
    for number in range(5):
        await log.add(f"route {number % 2}", b"sample %d" % number)

    first, _, position = await log.read(BEGINNING, 3)
    assert first == [
        ("route 0", b"sample 0"),
        ("route 1", b"sample 1"),
        ("route 0", b"sample 2"),
    ]
    rest, pairs, end = await log.read(position, 3)
    assert rest == [("route 1", b"sample 3"), ("route 0", b"sample 4")]
    assert pairs == []
    assert await log.read(BEGINNING, 3) == (first, [], position), "reading takes nothing away"
    assert await log.read(end, 3) == ([], [], end), "at the end one stays there"


async def test_log_that_nobody_has_written_is_empty(log: SampleLog) -> None:
    """One stays at its beginning."""
    assert await log.read(BEGINNING, 10) == ([], [], BEGINNING)
    assert await log.forbidden() == frozenset()


async def test_any_bytes_and_any_name_are_read_back(log: SampleLog) -> None:
    """This module does not know what a sample is."""
    route, sample = "gpt-*,ü 1\n", bytes(range(256))
    await log.add(route, sample)
    await log.add("", b"")

    samples, _, _ = await log.read(BEGINNING, 10)
    assert samples == [(route, sample), ("", b"")]


async def test_forbidden_pairs_are_kept_and_told(log: SampleLog) -> None:
    """Among the samples, in their place; and all of them to who begins, each once."""
    pair, other = b"k" * 48, b"\xff\0" * 24
    await log.add("r", b"before")
    await log.forbid(pair)
    await log.forbid(other)
    await log.forbid(pair)
    await log.add("r", b"behind")

    samples, pairs, _ = await log.read(BEGINNING, 10)
    assert samples == [("r", b"before"), ("r", b"behind")]
    assert pairs == [pair, other, pair]
    assert await log.forbidden() == {pair, other}


async def test_old_samples_are_forgotten_and_forbidden_pairs_are_not(
    real_redis: RealRedis, link: RedisLink
) -> None:
    """The stream is trimmed, in whole nodes of Redis' own."""
    log = SampleLog(link, "test", most_samples=200)
    await log.forbid(b"pair")
    await asyncio.gather(*(log.add("r", b"%d" % number) for number in range(1000)))

    samples, pairs, _ = await log.read(BEGINNING, 2000)

    assert 200 <= len(samples) < 500
    assert samples[-1] == ("r", b"999")
    assert pairs == []
    assert await log.forbidden() == {b"pair"}
    with real_redis.client() as other:
        assert other.ttl(FORBIDDEN) == -1


async def test_messages_that_are_not_ours_are_passed_over(
    real_redis: RealRedis, log: SampleLog
) -> None:
    """A later version's, or anyone's; the position is behind them all the same."""
    await log.add("r", b"one")
    with real_redis.client() as other:
        other.xadd(NAME, {"x": "y"})
        other.xadd(NAME, {"r": "r", "s": "s", "t": "t"})
        last = other.xadd(NAME, {"f": "pair", "g": "more"}).decode()

    assert await log.read(BEGINNING, 10) == ([("r", b"one")], [], last)


async def test_what_is_no_stream_is_removed(real_redis: RealRedis, log: SampleLog) -> None:
    """Whoever wrote it there: the log begins anew."""
    with real_redis.client() as other:
        other.set(NAME, "foreign")

    assert await log.read("5-0", 10) == ([], [], BEGINNING)
    await log.add("r", b"one")
    samples, _, _ = await log.read(BEGINNING, 10)
    assert samples == [("r", b"one")]


async def test_log_of_another_namespace_is_another(log: SampleLog, link: RedisLink) -> None:
    """Two installations in one Redis learn nothing of each other."""
    await log.add("r", b"one")
    await log.forbid(b"pair")
    other = SampleLog(link, "other")

    assert await other.read(BEGINNING, 10) == ([], [], BEGINNING)
    assert await other.forbidden() == frozenset()


async def test_redis_that_is_away_is_told(frail_redis: RealRedis) -> None:
    """Every operation; who was to learn goes on without."""
    link = a_link(frail_redis.url, deadline_s=2.0)
    await link.start(5)
    log = SampleLog(link, "test")
    frail_redis.kill()

    for operation in (
        lambda: log.add("r", b"one"),
        lambda: log.forbid(b"pair"),
        log.forbidden,
        lambda: log.read(BEGINNING, 10),
    ):
        with pytest.raises(StoreUnavailable):
            await operation()
    await link.close()


async def test_reply_that_is_none_is_not_believed(relay: Relay) -> None:
    """Of another command, say; the connection is not used again."""
    link = a_link(relay.url, deadline_s=2.0)
    await link.start(5)
    log = SampleLog(link, "test")
    await log.forbid(b"pair")
    relay.spoil = lambda _: b":5\r\n"

    with pytest.raises(StoreUnavailable):
        await log.forbidden()
    await link.close()
