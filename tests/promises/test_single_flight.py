"""Promises 7 and 8: equal requests at one time cost one upstream call, and wait for no other."""

import asyncio
import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import sse
from tests.support.fake_upstream import FakeUpstream, Play
from tests.support.http_client import Answer, Connection, exchange, post_bytes
from tests.support.loop_thread import Gate
from tests.support.openai_answers import Said
from tests.support.recollect_server import (
    CHAT,
    EMBEDDINGS,
    RESPONSES,
    RecollectServer,
    StartRecollect,
    chat_body,
    unique,
)
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def pair(upstream: FakeUpstream, redis_server: RedisServer) -> Iterator[RecollectServer]:
    """Two workers over one Redis."""
    server = RecollectServer(upstream.url, redis_server.url, {"server": {"workers": 2}})
    yield server
    server.close()


def raw_chat(server: RecollectServer, prompt: str, **fields: Any) -> bytes:
    return post_bytes(server.origin, CHAT, chat_body(prompt, **fields))


async def at_once(server: RecollectServer, raw: bytes, count: int) -> tuple[list[Answer], float]:
    """Send `raw` on `count` connections opened before; return answers and seconds for all."""
    connections = [await Connection.open(server.origin) for _ in range(count)]

    async def one(connection: Connection) -> Answer:
        await connection.send(raw)
        return await connection.read_body(await connection.read_head())

    begun = time.monotonic()
    answers = await asyncio.gather(*(one(connection) for connection in connections))
    taken_s = time.monotonic() - begun
    for connection in connections:
        connection.abort()
    return list(answers), taken_s


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_thousand_equal_requests_make_one_upstream_call(
    is_stream: bool, upstream: FakeUpstream, pair: RecollectServer
) -> None:
    """Over two workers, all answered within the upstream's time and half a second."""
    prompt = unique("thousand")
    upstream_s = 1.0
    upstream.on(prompt, Play(delay_s=upstream_s))

    answers, taken_s = await at_once(pair, raw_chat(pair, prompt, stream=is_stream), 1000)

    assert upstream.calls(prompt) == 1
    assert {answer.status for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert all(answer.is_complete for answer in answers)
    assert sum(answer.cache.fwd == "miss" and not answer.cache.collapsed for answer in answers) == 1
    assert taken_s < upstream_s + 0.5


@pytest.mark.parametrize("path", [EMBEDDINGS, RESPONSES])
async def test_other_endpoints_collapse_too(
    path: str, upstream: FakeUpstream, pair: RecollectServer
) -> None:
    """One call for fifty equal embeddings or responses."""
    prompt = unique(path)
    upstream.on(prompt, Play(delay_s=0.5))
    body = {"model": "m", "input": prompt}
    if path == RESPONSES:
        body["store"] = False  # type: ignore[assignment]

    answers, _ = await at_once(pair, post_bytes(pair.origin, path, body), 50)

    assert upstream.calls(prompt) == 1
    assert {answer.status for answer in answers} == {200}


async def test_two_workers_racing_again_and_again(
    upstream: FakeUpstream, pair: RecollectServer
) -> None:
    """Fifty keys, eight requests each at once on both workers: one call per key, one answer."""
    prompts = [unique("race") for _ in range(50)]
    begun = [at_once(pair, raw_chat(pair, prompt), 8) for prompt in prompts]

    for prompt, (answers, _) in zip(prompts, await asyncio.gather(*begun), strict=True):
        assert upstream.calls(prompt) == 1
        assert len({answer.text for answer in answers}) == 1


async def test_hosts_that_share_a_redis_share_the_flight(
    upstream: FakeUpstream, redis_server: RedisServer, start_recollect: StartRecollect
) -> None:
    """Two hosts are two servers with one tenancy secret."""
    settings = {"tenancy": {"secret": "one secret for all hosts"}}
    hosts = [start_recollect(upstream.url, redis_server.url, settings) for _ in range(2)]
    prompt = unique("hosts")
    upstream.on(prompt, Play(delay_s=0.5))

    both = await asyncio.gather(*(at_once(host, raw_chat(host, prompt), 20) for host in hosts))

    assert upstream.calls(prompt) == 1
    assert len({answer.text for answers, _ in both for answer in answers}) == 1


async def test_late_joiner_of_a_stream_has_all_earlier_text_at_once(
    upstream: FakeUpstream, pair: RecollectServer
) -> None:
    """In under 50 ms, on either worker; the rest comes as it is made."""
    prompt = unique("late joiner")
    gate = Gate()
    mark = b"data: {" + b'"choices":[],"x":"so far"}\n\n'
    upstream.on(prompt, Play(mangle=lambda made: [*made[:8], mark, gate, *made[8:]]))
    raw = raw_chat(pair, prompt, stream=True)
    leader = await Connection.open(pair.origin)
    await leader.send(raw)
    await leader.read_head()
    await leader.read_until(b"so far")
    joined_s: list[float] = []
    joiners: list[tuple[Connection, Answer, bytes]] = []

    async with asyncio.timeout(20):
        for _ in range(8):
            joiner = await Connection.open(pair.origin)
            begun = time.monotonic()
            await joiner.send(raw)
            head = await joiner.read_head()
            earlier = await joiner.read_until(b"so far")
            joined_s.append(time.monotonic() - begun)
            joiners.append((joiner, head, earlier))
        gate.open()
        for joiner, _, earlier in joiners:
            rest = await joiner.read_until(b"[DONE]")
            assert (earlier + rest).count(b"so far") == 1
            joiner.abort()
    leader.abort()

    assert upstream.calls(prompt) == 1
    assert statistics.median(joined_s) < 0.05, joined_s
    assert all(head.cache.collapsed for _, head, _ in joiners)


async def test_followers_get_the_stream_while_it_comes(
    upstream: FakeUpstream, pair: RecollectServer
) -> None:
    """Nobody waits for the end: text arrives at followers while the gate is still shut."""
    prompt = unique("live")
    gate = Gate()
    upstream.on(prompt, Play(mangle=lambda made: [*made[:4], gate, *made[4:]]))
    raw = raw_chat(pair, prompt, stream=True)
    connections = [await Connection.open(pair.origin) for _ in range(10)]

    async with asyncio.timeout(10):
        for connection in connections:
            await connection.send(raw)
        for connection in connections:
            await connection.read_head()
            await connection.read_until(b"R\xc3\xa9p")
        gate.open()
        for connection in connections:
            await connection.read_until(b"[DONE]")
            connection.abort()

    assert upstream.calls(prompt) == 1


async def test_plain_and_streamed_requests_share_one_call(
    upstream: FakeUpstream, pair: RecollectServer
) -> None:
    """The form an answer is asked in is not part of what is asked."""
    prompt = unique("both forms")
    upstream.on(prompt, Play(delay_s=0.5))

    both = await asyncio.gather(
        at_once(pair, raw_chat(pair, prompt, stream=True), 10),
        at_once(pair, raw_chat(pair, prompt), 10),
    )

    texts = {answer.text for answers, _ in both for answer in answers}
    assert len(texts) == 1
    assert upstream.calls(prompt) == 1


FAILURES = {
    "status 500": Play(status=500, body=b'{"error": {"message": "x"}}', delay_s=0.5),
    "status 429": Play(status=429, headers=[("Retry-After", "7")], delay_s=0.5),
    "no answer": Play(is_mute=True, delay_s=0.5),
    "cut in the middle": Play(mangle=lambda made: [made[0][:40], 0.5], is_cut=True),
    "error in a 200": Play(body=b'{"error": {"message": "x"}}', delay_s=0.5),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_leader_that_fails_costs_at_most_one_more_call(
    failure: str, upstream: FakeUpstream, pair: RecollectServer
) -> None:
    """Thirty waiters, a first call that fails: two calls, and nobody queues behind another."""
    prompt = unique(failure)
    upstream.on(prompt, FAILURES[failure], Play(delay_s=0.5))

    answers, taken_s = await at_once(pair, raw_chat(pair, prompt), 30)

    assert upstream.calls(prompt) <= 2
    assert taken_s < 0.5 + 0.5 + 1.0
    good = [
        answer
        for answer in answers
        if answer.status == 200 and answer.is_complete and "choices" in answer.json
    ]
    # Only who made the call that failed is told so; followers on two workers may be two.
    assert len(good) >= 28


async def test_upstream_that_fails_for_good_is_not_asked_by_each_follower(
    upstream: FakeUpstream, pair: RecollectServer
) -> None:
    """Its failure is an answer for all who waited; at most one of them tries again."""
    prompt = unique("down")
    upstream.on(prompt, Play(status=503, body=b'{"error": {}}', delay_s=0.5))

    answers, taken_s = await at_once(pair, raw_chat(pair, prompt), 30)

    assert upstream.calls(prompt) <= 2
    assert {answer.status for answer in answers} == {503}
    assert taken_s < 2.0


@pytest.mark.parametrize("is_stream", [False, True])
async def test_leader_that_leaves_does_not_fail_the_followers(
    is_stream: bool, upstream: FakeUpstream, pair: RecollectServer
) -> None:
    """The flight belongs to all who wait for it; it may cost one more call."""
    prompt = unique("leader leaves")
    gate = Gate()
    upstream.on(prompt, Play(gate=gate))
    raw = raw_chat(pair, prompt, stream=is_stream)
    leader = await Connection.open(pair.origin)
    await leader.send(raw)
    await asyncio.to_thread(upstream.wait_calls, prompt)
    followers = [asyncio.create_task(exchange(pair.origin, raw)) for _ in range(10)]
    await asyncio.sleep(0.3)  # a follower that waits sends nothing one could wait for
    leader.abort()
    await asyncio.sleep(0.3)
    gate.open()

    answers = await asyncio.gather(*followers)

    assert upstream.calls(prompt) <= 2
    assert {answer.status for answer in answers} == {200}
    assert all(answer.is_complete for answer in answers)
    assert len({answer.text for answer in answers}) == 1


async def test_answer_that_may_not_be_stored_is_not_handed_to_followers(
    upstream: FakeUpstream, pair: RecollectServer
) -> None:
    """Each then asks for itself, all at the same time (not one behind the other)."""
    prompt = unique("length")
    cut_off = Said("cut off", finish_reason="length")
    upstream.on(prompt, Play(said=cut_off, delay_s=0.5))
    count = 12

    answers, taken_s = await at_once(pair, raw_chat(pair, prompt), count)

    assert {answer.status for answer in answers} == {200}
    assert upstream.calls(prompt) == count
    assert taken_s < 0.5 * 2 + 1.0


async def test_stream_that_is_cut_is_cut_for_those_who_saw_it(
    upstream: FakeUpstream, pair: RecollectServer
) -> None:
    """Followers who already have text cannot begin anew; no ending is made up for them."""
    prompt = unique("cut for all")
    gate = Gate()
    upstream.on(prompt, Play(mangle=lambda made: [*made[:5], gate], is_cut=True), Play())
    raw = raw_chat(pair, prompt, stream=True)
    connections = [await Connection.open(pair.origin) for _ in range(6)]

    async with asyncio.timeout(10):
        for connection in connections:
            await connection.send(raw)
        heads = [await connection.read_head() for connection in connections]
        for connection in connections:
            await connection.read_until(b"R\xc3\xa9p")
        gate.open()
        for connection, head in zip(connections, heads, strict=True):
            answer = await connection.read_body(head)
            connection.abort()
            assert not answer.is_complete
            assert b"[DONE]" not in answer.body

    assert upstream.calls(prompt) == 1
    again = await exchange(pair.origin, raw)
    assert not again.cache.hit
    assert sse.is_terminated(again.body)
