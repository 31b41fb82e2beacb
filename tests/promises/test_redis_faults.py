"""Promises 10 and 11: whatever Redis does, every request gets its own right answer, soon."""

import asyncio
import contextlib
import os
import pickle
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.support.fake_upstream import FakeUpstream
from tests.support.http_client import Answer, Connection, exchange, post_bytes
from tests.support.openai_answers import digest_of
from tests.support.processes import wait_until
from tests.support.recollect_server import (
    CHAT,
    RecollectServer,
    StartRecollect,
    chat_body,
    unique,
)
from tests.support.redis_fault import Fault, RedisFault
from tests.support.redis_server import RedisServer

FIRST_S = 2.0
MEDIAN_S = 0.3
RECOVERY_S = 30.0


def is_right(answer: Answer, prompt: str) -> bool:
    """Whether the answer is one to this very request."""
    sent = post_bytes("http://x", CHAT, chat_body(prompt)).partition(b"\r\n\r\n")[2]
    return answer.status == 200 and answer.is_complete and digest_of(sent) in answer.text


def entries(server: RedisServer) -> int:
    """Return how many responses are stored in Redis."""
    with server.client() as client:
        return sum(1 for _ in client.scan_iter("recollect:e:*", count=1000))


def stores_again(server: RecollectServer, store: RedisServer) -> bool:
    """Whether a fresh answer has come to lie in Redis soon after."""
    before = entries(store)
    server.chat(unique("stores"))
    return wait_until(lambda: entries(store) > before, 0.3)


def ask_twenty(server: RecollectServer) -> list[float]:
    """Ask ten new prompts twice, check every answer, and return the seconds each took."""
    prompts = [unique("fault") for _ in range(10)]
    taken_s = []
    for prompt in [*prompts, *prompts]:
        answer = server.chat(prompt, timeout_s=10)
        assert is_right(answer, prompt)
        taken_s.append(answer.total_s)
    return taken_s


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.PASS])
def test_requests_are_answered_while_redis_is_spoilt(
    fault: Fault,
    upstream: FakeUpstream,
    own_redis: RedisServer,
    redis_fault: RedisFault,
    start_recollect: StartRecollect,
) -> None:
    """20 of 20 right answers, the first within 2 s, half within 0.3 s; caching again in 30 s."""
    server = start_recollect(upstream.url, redis_fault.url)
    assert wait_until(lambda: stores_again(server, own_redis), 10)

    redis_fault.set(fault)
    taken_s = ask_twenty(server)
    redis_fault.set(Fault.PASS)

    assert taken_s[0] < FIRST_S
    assert statistics.median(taken_s) < MEDIAN_S
    assert max(taken_s) < FIRST_S
    assert wait_until(lambda: stores_again(server, own_redis), RECOVERY_S)


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.BLACK_HOLE, Fault.CORRUPT])
def test_recollect_starts_beside_a_broken_redis(
    fault: Fault,
    upstream: FakeUpstream,
    own_redis: RedisServer,
    redis_fault: RedisFault,
    start_recollect: StartRecollect,
) -> None:
    """Everything is served, readiness says degraded, and the recovery needs nobody."""
    redis_fault.set(fault)
    server = start_recollect(upstream.url, redis_fault.url)

    taken_s = ask_twenty(server)
    ready = server.get("/readyz")

    assert statistics.median(taken_s) < MEDIAN_S
    assert server.get("/healthz").status == 200
    assert b"degraded" in ready.body
    redis_fault.set(Fault.PASS)
    assert wait_until(lambda: stores_again(server, own_redis), RECOVERY_S)
    assert wait_until(lambda: b"degraded" not in server.get("/readyz").body, RECOVERY_S)


def test_suspended_redis_costs_its_deadline_once(
    upstream: FakeUpstream, own_redis: RedisServer, start_recollect: StartRecollect
) -> None:
    """SIGSTOP: one request waits for the deadline, the others find the breaker open."""
    server = start_recollect(upstream.url, own_redis.url, {"redis": {"deadline_ms": 200}})
    assert wait_until(lambda: stores_again(server, own_redis), 10)

    own_redis.suspend()
    taken_s = ask_twenty(server)
    own_redis.resume()

    assert taken_s[0] < FIRST_S
    assert sum(taken > 0.15 for taken in taken_s) <= 2, taken_s
    assert wait_until(lambda: stores_again(server, own_redis), RECOVERY_S)


async def test_redis_killed_under_load(
    upstream: FakeUpstream, own_redis: RedisServer, start_recollect: StartRecollect
) -> None:
    """SIGKILL of Redis in the middle of 400 requests: none fails; it is used again once back."""
    settings = {"server": {"workers": 2}}
    server = await asyncio.to_thread(start_recollect, upstream.url, own_redis.url, settings)
    prompts = [unique("killed") for _ in range(100)]
    limit = asyncio.Semaphore(16)
    done = 0

    async def ask(prompt: str) -> bool:
        nonlocal done
        async with limit:
            raw = post_bytes(server.origin, CHAT, chat_body(prompt))
            answer = await exchange(server.origin, raw, 10)
            done += 1
            if done == 150:
                await asyncio.to_thread(own_redis.kill)
            return is_right(answer, prompt)

    right = await asyncio.gather(*(ask(prompt) for prompt in prompts * 4))

    assert all(right)
    await asyncio.to_thread(own_redis.start)
    again = lambda: stores_again(server, own_redis)  # noqa: E731
    assert await asyncio.to_thread(wait_until, again, RECOVERY_S)


# --- what Redis may hold or refuse ---


class Executed:
    """A pickle that leaves a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def garbage(raw: bytes, other: bytes, folder: Path) -> dict[str, bytes]:
    """Return values that may lie where `raw` was stored."""
    flipped = bytearray(raw)
    flipped[len(raw) // 2] ^= 0x40
    return {
        "random": random.Random(1).randbytes(500),
        "empty": b"",
        "cut": raw[:-7],
        "cut to the head": raw[:20],
        "longer": raw + b"x",
        "one bit flipped": bytes(flipped),
        "another key's": other,
        "JSON": b'{"choices": [{"message": {"content": "poison"}}]}',
        "pickle": pickle.dumps(Executed(folder / "executed")),
        "huge": b"\x00" * 9_000_000,
        "HTTP": b"HTTP/1.1 200 OK\r\n\r\npoison",
    }


@pytest.fixture(scope="module")
def uncached(upstream: FakeUpstream, redis_server: RedisServer) -> Iterator[RecollectServer]:
    """A Recollect that keeps nothing in its own memory: every hit comes from Redis."""
    settings = {"cache": {"l1_bytes": 0}, "redis": {"namespace": "uncached"}}
    server = RecollectServer(upstream.url, redis_server.url, settings)
    yield server
    server.close()


def stored_key(client: "redis.Redis", ask: Callable[[], object]) -> bytes:
    """Return the key that `ask` makes in Redis."""
    before = set(client.scan_iter("uncached:e:*"))
    ask()
    found: set[bytes] = set()

    def is_there() -> bool:
        found.update(set(client.scan_iter("uncached:e:*")) - before)
        return bool(found)

    assert wait_until(is_there, 5)
    (key,) = found
    return key


def value_of(client: "redis.Redis", key: bytes) -> bytes:
    raw = client.get(key)
    assert isinstance(raw, bytes)
    return raw


KINDS = list(garbage(b"x" * 100, b"", Path("/")))


@pytest.mark.parametrize("kind", KINDS)
def test_foreign_value_is_a_miss_and_is_replaced(
    kind: str,
    upstream: FakeUpstream,
    redis_server: RedisServer,
    uncached: RecollectServer,
    tmp_path: Path,
) -> None:
    """Nothing of it is served or executed, and the next answer takes its place."""
    prompt, other = unique(kind), unique("other")
    with redis_server.client() as client:
        key = stored_key(client, lambda: uncached.chat(prompt))
        other_key = stored_key(client, lambda: uncached.chat(other))
        assert wait_until(lambda: uncached.chat(prompt).cache.hit, 5)
        calls = upstream.calls(prompt)
        value = garbage(value_of(client, key), value_of(client, other_key), tmp_path)[kind]
        client.set(key, value, keepttl=True)

        answer = uncached.chat(prompt)

        assert is_right(answer, prompt)
        assert not answer.cache.hit
        assert upstream.calls(prompt) == calls + 1
        assert wait_until(lambda: uncached.chat(prompt).cache.hit, 5)
        assert is_right(uncached.chat(prompt), prompt)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", ["list", "hash", "stream", "set"])
def test_key_of_another_type_is_a_miss_and_is_replaced(
    kind: str, upstream: FakeUpstream, redis_server: RedisServer, uncached: RecollectServer
) -> None:
    """WRONGTYPE is no failed request."""
    prompt = unique(kind)
    with redis_server.client() as client:
        key = stored_key(client, lambda: uncached.chat(prompt))
        client.delete(key)
        match kind:
            case "list":
                client.rpush(key, b"x")
            case "hash":
                client.hset(key, "a", "b")
            case "stream":
                client.xadd(key, {"a": "b"})
            case "set":
                client.sadd(key, "a")

        answer = uncached.chat(prompt)

        assert is_right(answer, prompt)
        assert not answer.cache.hit
        assert wait_until(lambda: uncached.chat(prompt).cache.hit, 5)


def test_flushall_empties_the_workers_memory_too(
    upstream: FakeUpstream, own_redis: RedisServer, start_recollect: StartRecollect
) -> None:
    """Within one second no worker answers from what Redis no longer holds."""
    server = start_recollect(upstream.url, own_redis.url, {"server": {"workers": 2}})
    prompts = [unique("flushed") for _ in range(10)]
    for prompt in prompts * 3:
        server.chat(prompt)
    assert wait_until(lambda: entries(own_redis) == 10, 5)

    with own_redis.client() as client:
        client.flushall()
    time.sleep(1.0)

    only = {"Cache-Control": "only-if-cached"}
    for prompt in prompts * 3:
        assert server.chat(prompt, headers=only).status == 504
    for prompt in prompts:
        assert is_right(server.chat(prompt), prompt)


def test_entry_deleted_in_redis_leaves_the_workers_memory(
    upstream: FakeUpstream, own_redis: RedisServer, start_recollect: StartRecollect
) -> None:
    """An entry replaced or removed by anybody is dropped by all workers within one second."""
    server = start_recollect(upstream.url, own_redis.url, {"server": {"workers": 2}})
    prompt = unique("deleted")
    for _ in range(8):
        server.chat(prompt)
    assert wait_until(lambda: entries(own_redis) == 1, 5)

    with own_redis.client() as client:
        (key,) = client.scan_iter("recollect:e:*")
        client.delete(key)
    time.sleep(1.0)

    only = {"Cache-Control": "only-if-cached"}
    assert {server.chat(prompt, headers=only).status for _ in range(12)} == {504}


REFUSALS: dict[str, tuple[list[object], ...]] = {
    "OOM": (
        ["CONFIG", "SET", "maxmemory-policy", "noeviction"],
        ["CONFIG", "SET", "maxmemory", "1"],
    ),
    "READONLY": (["REPLICAOF", "127.0.0.1", "1"],),
    "MASTERDOWN": (
        ["CONFIG", "SET", "replica-serve-stale-data", "no"],
        ["REPLICAOF", "127.0.0.1", "1"],
    ),
    "NOPERM for everything": (["ACL", "SETUSER", "default", "-@all", "+acl"],),
    "NOPERM for keys": (["ACL", "SETUSER", "default", "resetkeys"],),
    "NOPERM for writing": (["ACL", "SETUSER", "default", "-@write"],),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_redis_that_refuses_commands_fails_no_request(
    refusal: str, upstream: FakeUpstream, own_redis: RedisServer, start_recollect: StartRecollect
) -> None:
    """Error replies are counted, and are misses."""
    server = start_recollect(upstream.url, own_redis.url)
    assert wait_until(lambda: stores_again(server, own_redis), 10)
    with own_redis.client() as client:
        for command in REFUSALS[refusal]:
            client.execute_command(*command)

    taken_s = ask_twenty(server)

    assert statistics.median(taken_s) < MEDIAN_S
    assert server.metric("recollect_redis_errors_total") > 0


def test_redis_that_wants_a_password_we_lack_fails_no_request(
    upstream: FakeUpstream, own_redis: RedisServer, start_recollect: StartRecollect
) -> None:
    """NOAUTH at the start is a Redis that is down."""
    with own_redis.client() as client:
        client.config_set("requirepass", "secret")

    ask_twenty(start_recollect(upstream.url, own_redis.url))


def test_redis_with_a_password_and_a_database(
    upstream: FakeUpstream, own_redis: RedisServer, start_recollect: StartRecollect
) -> None:
    """Both are taken from the URL."""
    with own_redis.client() as client:
        client.config_set("requirepass", "se:cr@t")
    url = f"redis://default:se%3Acr%40t@127.0.0.1:{own_redis.port}/3"
    server = start_recollect(upstream.url, url)

    server.chat(unique("auth"))

    with redis.Redis(port=own_redis.port, password="se:cr@t", db=3) as client:
        assert wait_until(lambda: client.dbsize() >= 1, 5)


async def test_answers_are_never_mixed_up(
    upstream: FakeUpstream,
    own_redis: RedisServer,
    redis_fault: RedisFault,
    start_recollect: StartRecollect,
) -> None:
    """1,500 requests, a third of them aborted at random, over a Redis that is late, then resets."""
    redis_fault.late_s = 0.05
    settings = {"cache": {"l1_bytes": 0}, "server": {"workers": 2}}
    server = await asyncio.to_thread(start_recollect, upstream.url, redis_fault.url, settings)
    prompts = [unique("mixed") for _ in range(150)]
    chance = random.Random(11)
    limit = asyncio.Semaphore(48)
    wrong: list[str] = []
    whole = hits = 0

    async def ask(number: int) -> None:
        nonlocal whole, hits
        prompt = chance.choice(prompts)
        raw = post_bytes(server.origin, CHAT, chat_body(prompt))
        async with limit:
            if number % 600 == 300:
                redis_fault.set(Fault.RESET)
                redis_fault.set(Fault.LATE)
            connection = await Connection.open(server.origin)
            await connection.send(raw)
            if number % 3 == 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(chance.random() * 0.12):
                        await connection.read_head()
                connection.abort()
                return
            answer = await connection.read_body(await connection.read_head())
            connection.abort()
        whole += 1
        hits += answer.cache.hit
        if not is_right(answer, prompt):
            wrong.append(f"{prompt}: {answer.status} {answer.body[:200]!r}")

    redis_fault.set(Fault.LATE)
    async with asyncio.timeout(120):
        await asyncio.gather(*(ask(number) for number in range(1500)))

    assert not wrong
    assert whole == 1000
    assert hits > 100, "the store was hardly used: nothing was proved"
