"""What Redis and the way to it can do to the link: no future hangs, and it comes back.

Each fault is made on a real Redis, by a signal, a setting or a relay that spoils
what passes. Promise: a fault costs at most the deadline once, and the cache works
again within 5 s.
"""

import asyncio
import logging
import os
import random
import signal
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cachestore.errors import StoreError, StoreRefused, StoreUnavailable
from cachestore.redis_link import RedisLink
from tests.cachestore.redis_rig import (
    DEADLINE_S,
    RealRedis,
    Relay,
    Watcher,
    a_link,
    free_port,
    settled,
    until,
)

pytestmark = pytest.mark.alone

BACK_WITHIN_S = 5.0


@pytest_asyncio.fixture
async def relayed(relay: Relay) -> AsyncIterator[RedisLink]:
    """A link through the relay, up."""
    link = a_link(relay.url)
    await link.start(5)
    assert link.is_up
    yield link
    await link.close()


async def fails_once_then_at_once(link: RedisLink) -> None:
    """Expect all waiting commands to fail in time, and later ones immediately."""
    began = time.monotonic()
    failed = await settled([link.execute(b"ECHO", b"%d" % n) for n in range(20)])
    assert [type(reply) for reply in failed] == [StoreUnavailable] * 20
    assert time.monotonic() - began < 2.5 * DEADLINE_S
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await link.execute(b"PING")
    assert time.monotonic() - began < DEADLINE_S / 4


async def works_again(link: RedisLink) -> None:
    await until(lambda: link.is_up, BACK_WITHIN_S)
    assert await link.execute(b"ECHO", b"again") == b"again"


async def test_a_stopped_redis_costs_the_deadline_once(
    frail_redis: RealRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """SIGSTOP: connections stay and even new ones are accepted, but nothing is answered."""
    caplog.set_level(logging.INFO, "recollect.redis")
    watcher = Watcher()
    link = a_link(frail_redis.url, watcher)
    await link.start(5)
    frail_redis.signal(signal.SIGSTOP)

    await fails_once_then_at_once(link)
    await asyncio.sleep(1.5)  # one handshake is tried, and fails
    assert not link.is_up
    frail_redis.signal(signal.SIGCONT)
    await works_again(link)

    assert [is_up for is_up, _ in watcher.states] == [True, False, False, True]
    assert [record.message for record in caplog.records] == [
        "Redis is up",
        "Redis is down: no reply within 200 ms",
        "Redis is down: no connection within 1 s",
        "Redis is up",
    ]
    assert watcher.invalidated == [None, None]
    await link.close()


async def test_a_stopped_redis_is_noticed_while_there_is_nothing_to_ask(
    frail_redis: RealRedis,
) -> None:
    """Else the invalidations of a vanished peer would be missed for ever."""
    link = a_link(frail_redis.url)
    await link.start(5)
    await asyncio.sleep(1.2)  # the first PING is answered
    frail_redis.signal(signal.SIGSTOP)

    await until(lambda: not link.is_up, 2.0)
    await link.close()


async def test_a_killed_redis_fails_what_waits_and_is_found_again(
    frail_redis: RealRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """kill -9 and a new start."""
    watcher = Watcher()
    link = a_link(frail_redis.url, watcher)
    await link.start(5)
    waiting = [link.execute(b"BLPOP", b"nothing", 9) for _ in range(5)]
    await asyncio.sleep(0.02)
    frail_redis.kill()

    failed = await settled(waiting)
    assert [type(reply) for reply in failed] == [StoreUnavailable] * 5
    await asyncio.sleep(1.0)  # several attempts are refused
    frail_redis.start()
    await works_again(link)

    warnings = [record.message for record in caplog.records]
    assert len(warnings) == 2, warnings  # why it ended, and why it does not connect
    assert watcher.invalidated == [None, None]
    await link.close()


async def test_a_redis_that_is_down_at_start_does_not_hold_the_start_up() -> None:
    """`start` waits no longer than told, and the link comes up when Redis does."""
    redis = RealRedis()
    redis.kill()
    link = a_link(redis.url)
    began = time.monotonic()
    await link.start(0.3)

    assert time.monotonic() - began < 1
    with pytest.raises(StoreUnavailable):
        await link.execute(b"PING")
    redis.start()
    await works_again(link)
    await link.close()
    redis.close()


async def test_a_black_hole_costs_the_deadline_once(relay: Relay, relayed: RedisLink) -> None:
    """Packets vanish without a word."""
    relay.replies_pass.clear()

    await fails_once_then_at_once(relayed)
    relay.replies_pass.set()
    await works_again(relayed)


async def test_a_refusing_port_is_tried_again(relay: Relay, relayed: RedisLink) -> None:
    """The host is there, Redis is not."""
    await relay.refuse()
    relay.reset()

    await until(lambda: not relayed.is_up)
    await asyncio.sleep(0.5)
    await relay.listen()
    await works_again(relayed)


async def test_a_reset_in_the_middle_of_a_reply_fails_all_that_wait(
    relay: Relay, relayed: RedisLink
) -> None:
    """RST: half a reply is no reply."""
    await relayed.execute(b"SET", b"large", bytes(1 << 20))
    relay.bytes_per_s = 100_000
    waiting = [relayed.execute(b"GET", b"large"), relayed.execute(b"PING")]
    await asyncio.sleep(0.05)
    relay.reset()

    failed = await settled(waiting)
    assert [type(reply) for reply in failed] == [StoreUnavailable] * 2
    relay.bytes_per_s = 0
    await works_again(relayed)


async def test_replies_two_seconds_late_cost_the_deadline_once(
    relay: Relay, relayed: RedisLink
) -> None:
    """The handshake is as late, so the link stays down while it lasts."""
    relay.late_s = 2.0

    await fails_once_then_at_once(relayed)
    await asyncio.sleep(2.5)
    assert not relayed.is_up
    relay.late_s = 0.0
    await works_again(relayed)


async def test_a_redis_later_than_the_deadline_is_never_up(relay: Relay) -> None:
    """The handshake has a second; without a PING in time, each request would pay."""
    relay.late_s = 1.5 * DEADLINE_S
    watcher = Watcher()
    link = a_link(relay.url, watcher)
    await link.start(2.0)

    assert relay.connections >= 2
    assert not any(is_up for is_up, _ in watcher.states)
    await link.close()


async def test_a_kilobyte_per_second_costs_the_deadline_once(
    relay: Relay, relayed: RedisLink
) -> None:
    """Bytes that trickle in are no reply either."""
    await relayed.execute(b"SET", b"entry", bytes(5000))
    relay.bytes_per_s = 1000
    began = time.monotonic()
    failed = await settled([relayed.execute(b"GET", b"entry"), relayed.execute(b"PING")])

    assert [type(reply) for reply in failed] == [StoreUnavailable] * 2
    assert time.monotonic() - began < 2.5 * DEADLINE_S
    relay.bytes_per_s = 0
    await works_again(relayed)


async def test_flipped_bytes_leave_no_future_hanging(relay: Relay, relayed: RedisLink) -> None:
    """Whatever the garbage parses to, each command ends, and the link recovers."""
    chance = random.Random(7)

    def flip(piece: bytes) -> bytes:
        spoilt = bytearray(piece)
        for _ in range(1 + len(piece) // 50):
            spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
        return bytes(spoilt)

    await relayed.execute(b"SET", b"entry", bytes(100))
    for _ in range(25):
        relay.spoil = flip
        await settled([relayed.execute(b"GET", b"entry") for _ in range(5)])
        relay.spoil = None
        await asyncio.sleep(0.02)
    await until(lambda: relayed.is_up, BACK_WITHIN_S)
    await asyncio.sleep(1.5)  # a PING a second finds replies that are out of step
    await works_again(relayed)


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"%1\r\n*0\r\n+a\r\n",  # a map whose key is a list
        b"*99999999999\r\n",
        b"$-5\r\n",
        b">0\r\n",
        b"+one reply\r\n+too many\r\n",
        b">2\r\n+subscribe\r\n+unasked\r\n+x\r\n",
    ],
)
async def test_a_broken_protocol_ends_the_connection(
    relay: Relay, relayed: RedisLink, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """What follows on it could be taken for anything. It is no error of ours."""
    relay.spoil = lambda piece: garbage
    await settled([relayed.execute(b"PING")])
    await until(lambda: not relayed.is_up, 2.0)
    relay.spoil = None

    await works_again(relayed)
    assert {record.name for record in caplog.records} == {"recollect.redis"}


async def test_replies_that_are_out_of_step_are_found(relay: Relay, relayed: RedisLink) -> None:
    """A reply lost while others follow would give each command the next one's."""
    relay.spoil = lambda piece: piece.replace(b"$1\r\na\r\n", b"")
    first, second = relayed.execute(b"ECHO", b"a"), relayed.execute(b"ECHO", b"b")
    assert await first == b"b"

    probing = asyncio.create_task(relayed.probe())
    await asyncio.sleep(0)
    after = relayed.execute(b"ECHO", b"c")

    found, last = await settled([probing, after])
    assert isinstance(found, StoreUnavailable)
    assert isinstance(last, StoreUnavailable)
    assert str(found) == "replies are out of step"
    assert await second != b"b"
    await works_again(relayed)


async def test_a_flushed_redis_is_told_as_all_changed(real_redis: RealRedis) -> None:
    """FLUSHALL names no keys."""
    watcher = Watcher()
    link = a_link(real_redis.url, watcher)
    await link.start(5)
    with real_redis.client() as other:
        other.set("test:e:k", "v")
        other.flushall()
    await until(lambda: watcher.invalidated[-1:] == [None] and len(watcher.invalidated) > 1)

    assert await link.execute(b"GET", b"test:e:k") is None
    await link.close()


async def refused_by(redis: RealRedis, url: str, **options: object) -> str:
    """Return why a link does not come up."""
    watcher = Watcher()
    link = a_link(url, watcher, **options)
    await link.start(0.5)
    assert not link.is_up
    with pytest.raises(StoreUnavailable):
        await link.execute(b"PING")
    await link.close()
    return watcher.states[0][1]


async def test_a_wrong_or_missing_password_keeps_the_link_down_and_out_of_the_log(
    frail_redis: RealRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason is told, the credential is not."""
    with frail_redis.client() as other:
        other.config_set("requirepass", "sesame")
    path = frail_redis.socket_path

    assert "NOAUTH" in await refused_by(frail_redis, frail_redis.url)
    assert "WRONGPASS" in await refused_by(frail_redis, f"unix://:wrongpw@{path}")
    assert "wrongpw" not in caplog.text
    link = a_link(f"unix://default:sesame@{path}?db=1")
    await link.start(5)
    assert await link.execute(b"PING") == b"PONG"
    await link.close()


async def test_a_user_who_may_not_track_keeps_the_link_down(frail_redis: RealRedis) -> None:
    """Without invalidations, memory would serve what others have changed."""
    with frail_redis.client() as other:
        other.acl_setuser(
            "app",
            enabled=True,
            passwords=["+pw"],
            keys=["*"],
            categories=["+@all"],
            commands=["-client"],
        )

    reason = await refused_by(frail_redis, f"unix://app:pw@{frail_redis.socket_path}")
    assert reason == "CLIENT TRACKING refused: NOPERM"


async def test_a_user_who_may_not_subscribe_has_a_link_all_the_same(
    frail_redis: RealRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages only make followers quicker; the refusal takes its place in the order."""
    with frail_redis.client() as other:
        other.acl_setuser(
            "app",
            enabled=True,
            passwords=["+pw"],
            keys=["*"],
            categories=["+@all"],
            commands=["-subscribe"],
        )
    link = a_link(f"unix://app:pw@{frail_redis.socket_path}")
    link.subscribe(b"early", lambda message: None)
    await link.start(5)
    link.subscribe(b"late", lambda message: None)

    assert await link.execute(b"ECHO", b"x") == b"x"
    assert caplog.text.count("Redis refused SUBSCRIBE: NOPERM") == 2
    await link.close()


async def test_a_server_that_does_not_know_hello_keeps_the_link_down(
    frail_redis: RealRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis before 6.0; some repeat the password in their answer."""
    frail_redis.kill()
    frail_redis.options = ("--rename-command", "HELLO", "")
    frail_redis.start()

    reason = await refused_by(frail_redis, f"unix://me:sesame@{frail_redis.socket_path}")
    assert reason == "HELLO refused: ERR"
    assert "sesame" not in caplog.text


async def test_a_redis_that_is_loading_is_not_up_until_it_has_loaded(
    frail_redis: RealRedis,
) -> None:
    """It accepts connections and HELLO, and refuses everything else with LOADING."""
    with frail_redis.client() as other:
        with other.pipeline() as many:
            for n in range(3000):
                many.set(f"k{n}", os.urandom(4096))
            many.execute()
        other.save()
    frail_redis.kill()
    frail_redis.options = ("--key-load-delay", "1000")
    frail_redis.start()
    watcher = Watcher()
    # While it loads it looks at its connections every 2 MB only.
    link = a_link(frail_redis.url, watcher, deadline_s=2.0)
    await link.start(0)
    await until(lambda: watcher.states)

    assert watcher.states == [(False, "PING refused: LOADING")]
    await works_again(link)
    assert await link.execute(b"DBSIZE") == 3000
    await link.close()


async def test_refusals_in_operation_leave_the_link_up(frail_redis: RealRedis) -> None:
    """OOM, READONLY, NOPERM, WRONGTYPE: an answer is an answer."""
    link = a_link(frail_redis.url)
    await link.start(5)
    with frail_redis.client() as other:
        other.lpush("list", "x")
        other.config_set("maxmemory", "1")
        oom = await settled([link.execute(b"SET", b"k", b"v")])
        other.config_set("maxmemory", "0")
        other.replicaof("127.0.0.1", str(free_port()))
        readonly = await settled([link.execute(b"SET", b"k", b"v")])
        other.replicaof("NO", "ONE")
        other.execute_command("ACL", "SETUSER", "default", "-set")
        noperm = await settled([link.execute(b"SET", b"k", b"v")])
        wrongtype = await settled([link.execute(b"GET", b"list")])

    refusals = [*oom, *readonly, *noperm, *wrongtype]
    assert all(isinstance(refusal, StoreRefused) for refusal in refusals)
    assert [refusal.code for refusal in refusals] == ["OOM", "READONLY", "NOPERM", "WRONGTYPE"]
    assert await link.execute(b"PING") == b"PONG"
    await link.close()


async def test_subscriptions_outlive_a_reconnect(frail_redis: RealRedis) -> None:
    """And so does tracking."""
    heard: list[bytes] = []
    watcher = Watcher()
    link = a_link(frail_redis.url, watcher)
    link.subscribe(b"channel", heard.append)
    await link.start(5)
    frail_redis.kill()
    await until(lambda: not link.is_up)
    frail_redis.start()
    await until(lambda: link.is_up)
    with frail_redis.client() as other:
        other.publish("channel", "message")
        other.set("test:e:k", "v")
    await until(lambda: heard and [b"test:e:k"] in watcher.invalidated)

    assert heard == [b"message"]
    await link.close()


async def test_aborting_callers_of_a_slow_redis_never_get_anothers_reply(
    relay: Relay, relayed: RedisLink
) -> None:
    """1,500 commands, many cancelled, the link broken now and then: 0 mixed up."""
    chance = random.Random(11)
    relay.late_s = 0.02

    async def ask(number: int) -> bool:
        future = relayed.execute(b"ECHO", b"%d" % number)
        try:
            async with asyncio.timeout(chance.choice([0.001, 0.02, 0.05, 1.0])):
                return bool(await future == b"%d" % number)
        except (TimeoutError, StoreError):
            return True

    for round_number in range(30):
        assert all(await asyncio.gather(*(ask(round_number * 50 + n) for n in range(50))))
        if round_number % 10 == 5:
            relay.reset()
            relay.late_s = 0.0
            await until(lambda: relayed.is_up, BACK_WITHIN_S)
            relay.late_s = 0.02


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for localhost that signs itself."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", "key.pem", "-out", "cert.pem"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


async def test_tls_is_verified_against_the_ca_file(
    real_redis: RealRedis, certificates: Path
) -> None:
    """rediss://: with the right CA it works, without it stays down."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    relay = Relay(real_redis.socket_path)
    await relay.listen(context)
    url = f"rediss://localhost:{relay.port}"

    trusting = a_link(url, ca_file=certificates / "cert.pem")
    await trusting.start(5)
    assert await trusting.execute(b"PING") == b"PONG"
    await trusting.close()
    watcher = Watcher()
    wary = a_link(url, watcher)
    await wary.start(0.5)
    assert not wary.is_up
    assert "certificate verify failed" in watcher.states[0][1]
    await wary.close()
    elsewhere = a_link(url.replace("localhost", "127.0.0.1"), ca_file=certificates / "cert.pem")
    await elsewhere.start(0.5)
    assert not elsewhere.is_up
    await elsewhere.close()
    await relay.close()


def test_a_ca_file_that_cannot_be_read_is_refused_at_once(tmp_path: Path) -> None:
    """A setting that is wrong is told at start-up, not at the first request."""
    with pytest.raises(ValueError, match="CA file"):
        RedisLink("rediss://cache", deadline_s=1, ca_file=tmp_path / "none.pem")


async def test_a_host_that_cannot_be_named_keeps_the_link_down() -> None:
    """A label of more than 63 characters fails before any look-up; it is tried again."""
    watcher = Watcher()
    link = a_link(f"redis://{'x' * 70}", watcher)
    await link.start(0.3)

    assert [is_up for is_up, _ in watcher.states] == [False]
    assert "redis link" in {task.get_name() for task in asyncio.all_tasks()}
    await link.close()
