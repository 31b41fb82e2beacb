"""Promises 13 and 14: slow neighbours do not slow hits, and load leaves nothing behind."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fake_upstream import FakeUpstream, Play
from tests.support.http_client import Connection, exchange, post_bytes
from tests.support.loop_thread import Gate
from tests.support.processes import open_files, resident_bytes, wait_until
from tests.support.recollect_server import (
    CHAT,
    EMBEDDINGS,
    RecollectServer,
    StartRecollect,
    chat_body,
    unique,
)
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.alone

WORST_HIT_S = 0.1
FRESH_S = 0.5
MEBIBYTE = 1024**2


async def test_hits_stay_fast_beside_slow_neighbours(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """50 slow misses, 20 slow readers, 300 half-open connections: hits < 100 ms, fresh < 500."""
    gate = Gate()
    slow, large, known = unique("slow"), unique("large"), unique("known")
    upstream.on(slow, Play(gate=gate))
    upstream.on(large, Play(body=b"x" * 64 * MEBIBYTE, headers=[("Content-Type", "audio/mpeg")]))
    origin = recollect.origin
    hit = post_bytes(origin, CHAT, chat_body(known))
    await exchange(origin, hit)
    neighbours = [await Connection.open(origin, kernel_bytes=65536) for _ in range(370)]
    misses, readers, half_open = neighbours[:50], neighbours[50:70], neighbours[70:]
    for number, connection in enumerate(misses):
        body = chat_body(f"{slow} {number}", stream=number % 2 == 0)
        await connection.send(post_bytes(origin, CHAT, body))
    for connection in readers:
        await connection.send(post_bytes(origin, "/v1/audio/speech", {"input": large}))
    for connection in half_open:
        await connection.send(hit[:40])
    await asyncio.to_thread(upstream.wait_calls, slow, 50)
    await asyncio.to_thread(upstream.wait_calls, large, 20)
    await asyncio.sleep(1)  # until the readers' buffers are full, which nobody announces
    assert upstream.running(large) == 20, "they are not slow readers"

    taken_s = []
    for _ in range(300):
        answer = await exchange(origin, hit)
        assert answer.cache.hit
        taken_s.append(answer.total_s)
    fresh_s = []
    for _ in range(10):
        raw = post_bytes(origin, CHAT, chat_body(unique("fresh")))
        fresh_s.append((await exchange(origin, raw)).total_s)

    assert max(taken_s) < WORST_HIT_S, sorted(taken_s)[-5:]
    assert max(fresh_s) < FRESH_S
    gate.open()
    for connection in neighbours:
        connection.abort()


def test_upstream_that_is_down_fails_misses_at_once_and_no_hit(
    upstream: FakeUpstream, redis_server: RedisServer, start_recollect: StartRecollect
) -> None:
    """Misses get 502 in OpenAI's form, without waiting for any deadline."""
    other = FakeUpstream()
    server = start_recollect(other.url, redis_server.url)
    prompt = unique("down")
    known = server.chat(prompt)
    other.go_down()

    hit = server.chat(prompt)
    miss = server.chat(unique("miss"))
    stream = server.chat(unique("miss"), stream=True)
    passed = server.get("/v1/models")

    assert hit.cache.hit
    assert hit.text == known.text
    for failed in (miss, stream, passed):
        assert failed.status in (502, 503)
        assert failed.total_s < 1.0
        assert set(failed.json["error"]) == {"message", "type", "param", "code"}
        assert str(other.port) not in failed.body.decode(), "its address is nobody's business"
    other.come_back()
    assert wait_until(lambda: server.chat(unique("back")).status == 200, 10)
    other.close()


def test_upstream_that_does_not_answer_in_time_is_a_504(
    upstream: FakeUpstream, start_recollect: StartRecollect
) -> None:
    """The first-byte deadline, and the idle deadline within a stream."""
    settings = {"upstream": {"first_byte_timeout_s": 0.5, "idle_timeout_s": 0.5}}
    server = start_recollect(upstream.url, settings=settings)
    silent, stuck = unique("silent"), unique("stuck")
    upstream.on(silent, Play(gate=Gate()))
    upstream.on(stuck, Play(mangle=lambda made: [*made[:4], Gate()]))

    none, half = server.chat(silent), server.chat(stuck, stream=True)

    assert none.status == 504
    assert none.json["error"]["type"]
    assert 0.4 < none.total_s < 2.0
    assert half.status == 200
    assert not half.is_complete
    assert half.total_s < 3.0
    assert upstream.wait_until(lambda: not upstream.running(silent) + upstream.running(stuck), 5)


@pytest.fixture(scope="module")
def small(upstream: FakeUpstream, redis_server: RedisServer) -> Iterator[RecollectServer]:
    """A Recollect whose memory tier is soon full, so that memory can be seen to stay."""
    settings = {"cache": {"l1_bytes": MEBIBYTE}, "redis": {"namespace": "small"}}
    server = RecollectServer(upstream.url, redis_server.url, settings)
    yield server
    server.close()


async def load(server: RecollectServer, label: str, count: int, aborts: int) -> None:
    """Send `count` distinct requests over 16 at a time, and leave `aborts` others half-way."""
    limit = asyncio.Semaphore(16)

    async def ask(number: int) -> None:
        body = chat_body(f"{unique(label)} {number}" + "x" * 1000, stream=number % 4 == 0)
        raw = post_bytes(server.origin, CHAT, body)
        async with limit:
            if number < aborts:
                connection = await Connection.open(server.origin)
                await connection.send(raw)
                await asyncio.sleep(0.001 * (number % 5))
                connection.abort()
            else:
                assert (await exchange(server.origin, raw)).status == 200

    await asyncio.gather(*(ask(number) for number in range(count + aborts)))


async def test_descriptors_and_memory_return_after_load(small: RecollectServer) -> None:
    """2,000 distinct requests and 200 aborts: as much is open and resident as after 500."""
    (pid,) = small.worker_pids()
    await load(small, "warm", 500, 50)
    idle = lambda: open_files(pid) <= 40  # noqa: E731
    await asyncio.to_thread(wait_until, idle, 20)
    files, memory = open_files(pid), resident_bytes(pid)

    await load(small, "load", 2000, 200)

    back = lambda: open_files(pid) <= files + 4  # noqa: E731
    assert await asyncio.to_thread(wait_until, back, 30), (files, open_files(pid))
    assert resident_bytes(pid) < memory + 16 * MEBIBYTE


HUGE = 10**12


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"n": HUGE}),
        (CHAT, {"max_tokens": HUGE}),
        (CHAT, {"max_completion_tokens": HUGE, "stream": True}),
        (CHAT, {"top_k": HUGE, "top_logprobs": HUGE, "seed": -HUGE}),
        (CHAT, {"n": 10**300}),
        (EMBEDDINGS, {"dimensions": HUGE}),
        (EMBEDDINGS, {"input": [HUGE, HUGE]}),
    ],
)
def test_nothing_is_allocated_from_a_number_a_client_sends(
    path: str, fields: dict[str, Any], upstream: FakeUpstream, small: RecollectServer
) -> None:
    """Such a request goes through at once, and memory stays."""
    (pid,) = small.worker_pids()
    small.chat(unique("before"))
    before = resident_bytes(pid)
    prompt = unique("number")
    begun = time.monotonic()

    answer = small.post(path, {**chat_body(prompt), "input": prompt, **fields, "user": prompt})

    assert answer.status == 200
    assert upstream.calls(prompt) == 1
    assert time.monotonic() - begun < 1.0
    assert resident_bytes(pid) < before + 8 * MEBIBYTE
