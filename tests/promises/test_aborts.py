"""Promise 9: clients that leave cost the upstream nothing more and leave nothing behind."""

import asyncio
import random

import pytest

from tests.support.fake_upstream import FakeUpstream, Play
from tests.support.http_client import Connection, exchange, post_bytes
from tests.support.loop_thread import Gate
from tests.support.openai_answers import digest_of
from tests.support.recollect_server import (
    CHAT,
    EMBEDDINGS,
    RESPONSES,
    RecollectServer,
    StartRecollect,
    chat_body,
    unique,
)

GONE_S = 5.0


@pytest.mark.parametrize("is_stream", [False, True])
async def test_upstream_call_ends_when_its_client_leaves(
    is_stream: bool, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """After fifty aborts none is still running five seconds later."""
    mark = unique("abort")
    upstream.on(mark, Play(gate=Gate()))
    connections = []
    for number in range(50):
        connection = await Connection.open(recollect.origin)
        body = chat_body(f"{mark} {number}", stream=is_stream)
        await connection.send(post_bytes(recollect.origin, CHAT, body))
        connections.append(connection)
    await asyncio.to_thread(upstream.wait_calls, mark, 50)
    assert upstream.running(mark) == 50

    for connection in connections:
        connection.abort()

    none_left = await asyncio.to_thread(
        upstream.wait_until, lambda: upstream.running(mark) == 0, GONE_S
    )
    assert none_left, f"{upstream.running(mark)} of 50 still running"


@pytest.mark.parametrize("path", [EMBEDDINGS, RESPONSES, "/v1/files", "/v1/audio/speech"])
async def test_other_endpoints_calls_end_too(
    path: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Cached or passed through."""
    mark = unique("abort")
    upstream.on(mark, Play(gate=Gate()))
    connection = await Connection.open(recollect.origin)
    await connection.send(post_bytes(recollect.origin, path, {"model": "m", "input": mark}))
    await asyncio.to_thread(upstream.wait_calls, mark)

    connection.abort()

    assert await asyncio.to_thread(upstream.wait_until, lambda: upstream.running(mark) == 0, GONE_S)


async def test_client_that_leaves_in_the_middle_of_a_stream(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """The call ends, and what came so far is not stored."""
    prompt = unique("mid-stream")
    upstream.on(prompt, Play(mangle=lambda made: [*made[:6], Gate(), *made[6:]]), Play())
    raw = post_bytes(recollect.origin, CHAT, chat_body(prompt, stream=True))
    connection = await Connection.open(recollect.origin)
    await connection.send(raw)
    await connection.read_head()
    await connection.read_until(b"R\xc3\xa9p")

    connection.abort()

    assert await asyncio.to_thread(
        upstream.wait_until, lambda: upstream.running(prompt) == 0, GONE_S
    )
    again = await exchange(recollect.origin, raw)
    assert not again.cache.hit
    assert again.is_complete
    assert again.body.rstrip().endswith(b"[DONE]")


async def test_flight_goes_on_while_somebody_waits(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Nine of ten leave: the call goes on, and the tenth has its answer."""
    prompt = unique("one stays")
    gate = Gate()
    upstream.on(prompt, Play(gate=gate))
    raw = post_bytes(recollect.origin, CHAT, chat_body(prompt))
    connections = [await Connection.open(recollect.origin) for _ in range(10)]
    for connection in connections:
        await connection.send(raw)
    await asyncio.to_thread(upstream.wait_calls, prompt)

    *leaving, staying = connections
    for connection in leaving:
        connection.abort()
    await asyncio.sleep(0.3)  # that nothing happens sends no event
    gate.open()

    async with asyncio.timeout(10):
        answer = await staying.read_body(await staying.read_head())
    assert answer.status == 200
    assert upstream.calls(prompt) <= 2
    staying.abort()


PHASES = ["connected", "in the head", "in the body", "sent", "in the answer"]


async def test_aborts_in_every_phase_exhaust_nothing(
    upstream: FakeUpstream, start_recollect: StartRecollect
) -> None:
    """400 aborts on a pool of 20: the next request is answered, nothing partial is stored."""
    server = start_recollect(upstream.url, settings={"upstream": {"max_connections": 20}})
    mark = unique("phases")
    upstream.on(mark, Play(delay_s=0.02, mangle=lambda made: [*made[:4], 0.02, *made[4:]]))
    chance = random.Random(9)
    limit = asyncio.Semaphore(40)

    async def leave_in(phase: str, number: int) -> None:
        body = chat_body(f"{mark} {number}", stream=number % 2 == 0)
        raw = post_bytes(server.origin, CHAT, body)
        async with limit:
            connection = await Connection.open(server.origin)
            match phase:
                case "in the head":
                    await connection.send(raw[:50])
                case "in the body":
                    await connection.send(raw[:-5])
                case "sent":
                    await connection.send(raw)
                    await asyncio.sleep(chance.random() * 0.06)
                case "in the answer":
                    await connection.send(raw)
                    await connection.read_head()
            connection.abort()

    async with asyncio.timeout(60):
        await asyncio.gather(*(leave_in(PHASES[n % len(PHASES)], n) for n in range(400)))
        assert await asyncio.to_thread(
            upstream.wait_until, lambda: upstream.running(mark) == 0, GONE_S
        )
        for number in range(0, 400, 7):
            body = chat_body(f"{mark} {number}", stream=number % 2 == 0)
            raw = post_bytes(server.origin, CHAT, body)
            answer = await exchange(server.origin, raw, 5)
            assert answer.status == 200
            assert answer.is_complete
            assert digest_of(raw.partition(b"\r\n\r\n")[2]) in answer.text
            assert answer.text.endswith("too.")
