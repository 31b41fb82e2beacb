"""The fakes do what the tests believe of them: else those would prove nothing."""

import asyncio
import time

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support import sse
from tests.support.fake_upstream import FakeUpstream, Play
from tests.support.http_client import Answer, Connection, exchange, post_bytes
from tests.support.loop_thread import Gate
from tests.support.recollect_server import CHAT, chat_body, samples, unique
from tests.support.redis_fault import Fault, RedisFault
from tests.support.redis_server import RedisServer


def ask(upstream: FakeUpstream, prompt: str, **fields: object) -> Answer:
    body = chat_body(prompt, **fields)
    return asyncio.run(exchange(upstream.url, post_bytes(upstream.url, CHAT, body)))


def test_answers_of_two_calls_can_be_told_apart(upstream: FakeUpstream) -> None:
    """Else a replay would look like a fresh answer."""
    prompt = unique("twice")

    first, second = ask(upstream, prompt), ask(upstream, prompt)

    assert first.text != second.text
    assert upstream.calls(prompt) == 2


def test_stream_says_what_the_json_form_says(upstream: FakeUpstream) -> None:
    """Both forms are made from one text, with the terminator at the stream's end."""
    answer = ask(upstream, unique("stream"), stream=True)

    assert answer.is_complete
    assert answer.text.startswith("Réponse ")
    assert sse.is_terminated(answer.body)


def test_usage_is_sent_only_when_asked_for(upstream: FakeUpstream) -> None:
    """`stream_options.include_usage` adds one chunk without choices."""
    plain = ask(upstream, unique("usage"), stream=True)
    asked = ask(upstream, unique("usage"), stream=True, stream_options={"include_usage": True})

    assert not any("usage" in chunk for chunk in sse.chunks_of(plain.body))
    assert sse.chunks_of(asked.body)[-1]["choices"] == []


def test_cut_answer_is_incomplete(upstream: FakeUpstream) -> None:
    """A reset in the middle is seen as one."""
    prompt = unique("cut")
    upstream.on(prompt, Play(is_cut=True, mangle=lambda made: made[:3]))

    answer = ask(upstream, prompt, stream=True)

    assert not answer.is_complete
    assert len(sse.chunks_of(answer.body)) <= 3


def test_client_that_leaves_is_noticed(upstream: FakeUpstream) -> None:
    """A request counts as running until its client has its answer or is gone."""
    prompt = unique("left")
    upstream.on(prompt, Play(gate=Gate()))

    async def leave() -> None:
        connection = await Connection.open(upstream.url)
        await connection.send(post_bytes(upstream.url, CHAT, chat_body(prompt)))
        await asyncio.to_thread(upstream.wait_calls, prompt)
        assert upstream.running(prompt) == 1
        connection.abort()

    asyncio.run(leave())

    assert upstream.wait_until(lambda: upstream.running(prompt) == 0)
    assert upstream.seen(prompt)[0].end == "left"


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.RESET])
def test_broken_redis_connection_fails_at_once(redis_fault: RedisFault, fault: Fault) -> None:
    """Refused and reset connections are errors, not silence."""
    client = redis.Redis(port=redis_fault.port, socket_timeout=5, retry=Retry(NoBackoff(), 0))
    assert client.ping()

    redis_fault.set(fault)

    with pytest.raises(redis.exceptions.ConnectionError):
        client.ping()
    client.close()


@pytest.mark.parametrize("fault", [Fault.BLACK_HOLE, Fault.STALL, Fault.LATE])
def test_silent_redis_connection_stays_silent(redis_fault: RedisFault, fault: Fault) -> None:
    """These three look like a Redis that does not answer in time."""
    client = redis.Redis(port=redis_fault.port, socket_timeout=0.3, retry=Retry(NoBackoff(), 0))
    assert client.ping()

    redis_fault.set(fault)

    with pytest.raises(redis.exceptions.TimeoutError):
        client.ping()
    client.close()


def test_slow_and_corrupt_connections(redis_fault: RedisFault, own_redis: RedisServer) -> None:
    """1 kB/s is 1 kB/s; a corrupt reply is another one."""
    with own_redis.client() as behind:
        behind.set("k", b"x" * 1000)
    with redis.Redis(
        port=redis_fault.port, socket_timeout=5, retry=Retry(NoBackoff(), 0)
    ) as client:
        redis_fault.set(Fault.SLOW)
        begun = time.monotonic()
        assert len(client.get("k") or b"") == 1000
        assert time.monotonic() - begun > 0.8

    assert redis_fault.spoil(b"+OK\r\n") != b"+OK\r\n"


def test_exposition_is_read_with_its_labels() -> None:
    """Escaped quotes in a label do not end it; anything else than a sample is refused."""
    text = '# HELP a b\na_total{x="1",y="q\\"}"} 2.0\nb 1e-05\n'

    assert list(samples(text)) == [
        ("a_total", {"x": "1", "y": 'q\\"}'}, 2.0),
        ("b", {}, 1e-05),
    ]
    with pytest.raises(ValueError, match="not a sample"):
        list(samples("injected line\n"))
