"""The link to a Redis that is well: pipelining, order, deadline, messages."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio

from cachestore.errors import StoreRefused, StoreUnavailable
from cachestore.redis_link import RedisLink
from tests.cachestore.redis_rig import (
    DEADLINE_S,
    RealRedis,
    Relay,
    Watcher,
    a_link,
    settled,
    until,
)


@pytest_asyncio.fixture(name="link")
async def hasty_link(real_redis: RealRedis) -> AsyncIterator[RedisLink]:
    """A link that is up, with the deadline that is tested here."""
    link = a_link(real_redis.url)
    await link.start(5)
    assert link.is_up
    yield link
    await link.close()


async def test_a_command_is_answered(link: RedisLink) -> None:
    """Text, bytes and numbers are arguments; replies are bytes."""
    assert await link.execute(b"SET", "key", b"\x00\xff\r\n") == b"OK"
    assert await link.execute(b"GET", b"key") == b"\x00\xff\r\n"
    assert await link.execute(b"INCRBY", b"n", 41) == 41
    assert await link.execute(b"GET", b"nothing") is None


async def test_commands_of_one_turn_leave_in_one_write_and_replies_keep_their_order(
    real_redis: RealRedis, relay: Relay
) -> None:
    """That is the whole of pipelining: 500 commands, a handful of packets."""
    reads: list[bytes] = []

    def note(piece: bytes) -> bytes:
        reads.append(piece)
        return piece

    link = a_link(relay.url)
    await link.start(5)
    relay.spoil = note

    replies = await settled([link.execute(b"ECHO", b"%d" % n) for n in range(500)])

    assert replies == [b"%d" % n for n in range(500)]
    assert len(reads) < 50
    await link.close()


async def test_a_reply_larger_than_any_buffer_arrives_whole(link: RedisLink) -> None:
    """Entries have up to 8 MiB by default."""
    value = bytes(range(256)) * (1 << 15)
    await link.execute(b"SET", b"large", value)

    assert await link.execute(b"GET", b"large") == value


async def test_an_error_reply_fails_its_own_command_only(link: RedisLink) -> None:
    """And says no more than the error's code: servers repeat arguments in the text."""
    await link.execute(b"SET", b"text", b"x")
    before, wrong, unknown, after = await settled(
        [
            link.execute(b"ECHO", b"a"),
            link.execute(b"LPUSH", b"text", b"secret"),
            link.execute(b"NOSUCHCOMMAND", b"secret"),
            link.execute(b"ECHO", b"b"),
        ]
    )

    assert (before, after) == (b"a", b"b")
    assert isinstance(wrong, StoreRefused)
    assert wrong.code == "WRONGTYPE"
    assert isinstance(unknown, StoreRefused)
    assert "secret" not in f"{wrong!r} {unknown!r}"


async def test_the_reply_to_a_cancelled_command_is_not_given_to_the_next(
    link: RedisLink,
) -> None:
    """Callers leave; replies have no ids, so each must be taken in its turn."""
    futures = [link.execute(b"ECHO", b"%d" % n) for n in range(10)]
    for future in futures[::2]:
        future.cancel()
    await asyncio.sleep(0)
    after = link.execute(b"ECHO", b"after")

    replies = await settled(futures[1::2])
    assert replies == [b"1", b"3", b"5", b"7", b"9"]
    assert await after == b"after"


async def test_a_failed_command_may_be_left_unawaited(
    caplog: pytest.LogCaptureFixture, link: RedisLink
) -> None:
    """A PUBLISH nobody waits for must not fill the log with lost exceptions."""
    link.execute(b"NOSUCHCOMMAND")
    await link.execute(b"PING")
    await link.close()
    link.execute(b"PING")

    assert not [record for record in caplog.records if record.name == "asyncio"]


async def test_before_start_and_after_close_commands_fail_at_once(
    real_redis: RealRedis,
) -> None:
    """Nobody ever waits for a connect."""
    link = a_link(real_redis.url)
    with pytest.raises(StoreUnavailable, match="not started"):
        await link.execute(b"PING")
    await link.start(5)
    waiting = link.execute(b"BLPOP", b"nothing", 5)

    await link.close()

    with pytest.raises(StoreUnavailable, match="closed"):
        await waiting
    with pytest.raises(StoreUnavailable, match="closed"):
        await link.execute(b"PING")
    with pytest.raises(StoreUnavailable, match="closed"):
        await link.probe()
    assert not link.is_up


async def test_a_link_never_started_can_be_closed(real_redis: RealRedis) -> None:
    """Shutting down half-way through starting up."""
    await a_link(real_redis.url).close()


async def test_a_link_can_be_closed_while_it_connects(real_redis: RealRedis) -> None:
    """At any moment of the handshake, without a word in the log."""
    for turns in range(12):
        link = a_link(real_redis.url)
        await link.start(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        await link.close()
        assert not link.is_up


async def test_a_stall_of_our_own_loop_is_not_taken_for_a_dead_redis(link: RedisLink) -> None:
    """After it the reply lies unread in the socket; uvloop runs timers before it polls."""
    replies = [link.execute(b"ECHO", b"%d" % n) for n in range(3)]
    await asyncio.sleep(0)  # they are sent
    time.sleep(3 * DEADLINE_S)  # noqa: ASYNC251

    assert await settled(replies) == [b"0", b"1", b"2"]
    assert link.is_up


async def test_a_stall_before_commands_are_sent_is_not_held_against_redis(
    link: RedisLink,
) -> None:
    """The same, between issuing a command and writing it."""
    reply = link.execute(b"ECHO", b"x")
    time.sleep(3 * DEADLINE_S)  # noqa: ASYNC251

    assert await reply == b"x"
    assert link.is_up


async def test_a_stall_does_not_age_the_commands_issued_at_its_end(link: RedisLink) -> None:
    """uvloop's clock stands still during a turn, so it is not the one to ask."""
    time.sleep(3 * DEADLINE_S)  # noqa: ASYNC251
    reply = link.execute(b"BLPOP", b"nothing", "0.1")

    assert await reply is None
    assert link.is_up


async def test_no_command_waits_longer_than_the_deadline(link: RedisLink) -> None:
    """Plus the second look; commands behind a slow one fail with it."""
    began = time.monotonic()
    replies = await settled([link.execute(b"BLPOP", b"nothing", 5), link.execute(b"PING")])
    took_s = time.monotonic() - began

    assert [type(reply) for reply in replies] == [StoreUnavailable] * 2
    assert DEADLINE_S <= took_s < 2 * DEADLINE_S
    assert not link.is_up
    await until(lambda: link.is_up)


async def test_a_later_command_has_a_deadline_of_its_own(real_redis: RealRedis) -> None:
    """The timer is set by the oldest, and set anew for the next."""
    link = a_link(real_redis.url, deadline_s=2.0)
    await link.start(5)
    for _ in range(5):
        assert await link.execute(b"BLPOP", b"nothing", "0.5") is None
    assert link.is_up
    await link.close()


async def test_a_change_by_another_is_told_and_one_of_our_own_is_not(
    real_redis: RealRedis,
) -> None:
    """Client tracking with BCAST, NOLOOP and a prefix."""
    watcher = Watcher()
    link = a_link(real_redis.url, watcher)
    await link.start(5)
    with real_redis.client() as other:
        await link.execute(b"SET", b"test:e:own", b"1")
        other.set("elsewhere", "1")
        other.set("test:e:theirs", "1")
        await until(lambda: len(watcher.invalidated) == 2)

        assert watcher.invalidated == [None, [b"test:e:theirs"]]  # None: the connect's
        other.flushall()
        await until(lambda: len(watcher.invalidated) == 3)

    assert watcher.invalidated[-1] is None
    await link.close()


async def test_changes_under_several_prefixes_are_told_of(real_redis: RealRedis) -> None:
    """Under each of them, and under no other."""
    watcher = Watcher()
    prefixes = (b"test:e:", b"test:a:")
    link = a_link(real_redis.url, watcher, invalidation_prefixes=prefixes)
    await link.start(5)
    with real_redis.client() as other:
        for name in ("test:e:1", "test:v:1", "test:a:1"):
            other.set(name, "1")
    await until(lambda: any(b"test:a:1" in (names or ()) for names in watcher.invalidated))
    told = [name for names in watcher.invalidated for name in names or ()]

    assert told == [b"test:e:1", b"test:a:1"]
    await link.close()


async def test_an_entry_that_expires_is_told_of(real_redis: RealRedis) -> None:
    """Its time is Redis' to watch."""
    watcher = Watcher()
    link = a_link(real_redis.url, watcher)
    await link.start(5)
    with real_redis.client() as other:
        other.set("test:e:short", "1", px=50)
        await until(lambda: watcher.invalidated.count([b"test:e:short"]) == 2)
    await link.close()


async def test_a_value_read_before_its_change_is_dropped_and_not_kept(
    real_redis: RealRedis, relay: Relay
) -> None:
    """Reply and invalidation in one read: the caller puts first, then it is dropped."""
    memory: dict[bytes, bytes] = {}
    dropped: list[bytes] = []

    def drop(keys: Sequence[bytes] | None) -> None:
        for key in keys or ():
            dropped.append(key)
            memory.pop(key, None)

    async def read_through(key: bytes) -> None:
        memory[key] = await link.execute(b"GET", key)

    link = a_link(relay.url, on_invalidate=drop, deadline_s=2.0)
    with real_redis.client() as other:
        other.set("test:e:k", "old")
        await link.start(5)
        relay.replies_pass.clear()
        reading = asyncio.create_task(read_through(b"test:e:k"))
        await asyncio.sleep(0.1)  # Redis has answered; the relay holds it
        other.set("test:e:k", "new")
        await asyncio.sleep(0.1)
        relay.replies_pass.set()
        await reading
        await until(lambda: dropped)

    assert memory == {}
    await link.close()


async def test_messages_reach_the_channels_subscriber(real_redis: RealRedis) -> None:
    """Subscribed before or after the link is up, until unsubscribed."""
    heard: list[tuple[str, bytes]] = []
    link = a_link(real_redis.url)
    link.subscribe(b"early", lambda message: heard.append(("early", message)))
    await link.start(5)
    link.subscribe(b"late", lambda message: heard.append(("late", message)))
    link.subscribe(b"late", lambda message: heard.append(("second", message)))

    assert await link.execute(b"PUBLISH", b"early", b"1") == 1
    assert await link.execute(b"PUBLISH", b"late", b"2") == 1
    await until(lambda: len(heard) == 2)
    link.unsubscribe(b"late")
    link.unsubscribe(b"never")
    assert await link.execute(b"PUBLISH", b"late", b"3") == 0

    assert heard == [("early", b"1"), ("second", b"2")]
    await link.close()


async def test_a_message_already_under_way_is_not_given_to_one_who_unsubscribed(
    link: RedisLink,
) -> None:
    """The subscriber may be gone."""
    heard: list[bytes] = []
    link.subscribe(b"channel", heard.append)
    await link.execute(b"PING")
    sent = link.execute(b"PUBLISH", b"channel", b"1")
    link.unsubscribe(b"channel")

    assert await sent == 1
    await link.execute(b"PING")
    assert heard == []


async def test_subscriptions_and_commands_do_not_take_each_others_replies(
    real_redis: RealRedis,
) -> None:
    """A subscription is answered by a push, which has its place in the order as well."""
    link = a_link(real_redis.url, deadline_s=2.0)
    await link.start(5)
    replies: list[asyncio.Future[Any]] = []
    for n in range(50):
        replies.append(link.execute(b"ECHO", b"%d" % n))
        link.subscribe(b"c%d" % n, lambda message: None)
        if n % 3 == 0:
            link.unsubscribe(b"c%d" % n)

    assert await settled(replies) == [b"%d" % n for n in range(50)]
    assert link.is_up
    await link.close()


async def test_the_connection_has_its_name_and_database(real_redis: RealRedis) -> None:
    """Operators see in CLIENT LIST who is who."""
    link = a_link(real_redis.url + "?db=3", name=b"recollect-worker-1")
    await link.start(5)
    await link.execute(b"SET", b"where", b"here")
    with real_redis.client(db=3) as other:
        names = [client["name"] for client in other.client_list()]
        assert other.get("where") == b"here"

    assert "recollect-worker-1" in names
    await link.close()


async def test_without_a_prefix_nothing_is_tracked(real_redis: RealRedis) -> None:
    """Then only the reconnect is told."""
    watcher = Watcher()
    link = a_link(real_redis.url, watcher, invalidation_prefixes=())
    await link.start(5)
    with real_redis.client() as other:
        other.set("test:e:theirs", "1")
    await link.execute(b"PING")
    await asyncio.sleep(0.05)

    assert watcher.invalidated == [None]
    await link.close()


def test_a_name_redis_would_refuse_is_refused_at_once() -> None:
    """Else the link would never come up, and why would be hard to see."""
    with pytest.raises(ValueError, match="name"):
        RedisLink("redis://cache", deadline_s=1, name=b"two words")
