"""Promise 4: however a stream is written and delivered, it says the same fresh and replayed."""

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.support import sse
from tests.support.fake_upstream import FakeUpstream, Piece, Play
from tests.support.http_client import Connection, comparable, post_bytes
from tests.support.loop_thread import Gate
from tests.support.recollect_server import CHAT, RESPONSES, RecollectServer, chat_body, unique

Mangle = Callable[[list[bytes]], Iterable[Piece]]


def whole(made: list[bytes]) -> bytes:
    return b"".join(made)


def in_pieces(raw: bytes, size: int) -> list[Piece]:
    return [raw[at : at + size] for at in range(0, len(raw), size)]


def over_lines(event: bytes) -> bytes:
    """Spread one event's JSON over several `data:` lines; the line end counts as white space."""
    if b"[DONE]" in event:
        return event
    return event.replace(b'"choices": ', b'"choices":\ndata: ').replace(b', "id"', b',\ndata:"id"')


WAYS: dict[str, Mangle] = {
    "CRLF": lambda made: [event.replace(b"\n", b"\r\n") for event in made],
    "CR": lambda made: [event.replace(b"\n", b"\r") for event in made],
    "mixed line ends": lambda made: [
        event.replace(b"\n", (b"\n", b"\r\n", b"\r")[i % 3]) for i, event in enumerate(made)
    ],
    "CRLF split between pieces": lambda made: in_pieces(whole(made).replace(b"\n", b"\r\n"), 7),
    "comments": lambda made: [b": keep-alive\n\n" + event for event in made],
    "comment inside an event": lambda made: [b": x\n" + event for event in made],
    "fields nobody asked for": lambda made: [b"id: 7\nretry: 10\nx: y\n" + event for event in made],
    "no space after the colon": lambda made: [event.replace(b"data: ", b"data:") for event in made],
    "data over several lines": lambda made: [over_lines(event) for event in made],
    "byte order mark": lambda made: [b"\xef\xbb\xbf" + whole(made)],
    "byte by byte": lambda made: in_pieces(whole(made), 1),
    "everything in one packet": lambda made: [whole(made)],
    "two events in a packet": lambda made: [
        whole(made[at : at + 2]) for at in range(0, len(made), 2)
    ],
    "split UTF-8, delivered slowly": lambda made: (
        [piece for part in in_pieces(whole(made[:3]), 37) for piece in (part, 0.002)]
        + in_pieces(whole(made[3:]), 11)
    ),
    "empty deltas": lambda made: [
        piece
        for event in made
        for piece in (
            [b'data: {"id":"e","choices":[{"index":0,"delta":{},"finish_reason":null}]}\n\n', event]
            if b"[DONE]" not in event
            else [event]
        )
    ],
}


@pytest.mark.parametrize("way", WAYS)
def test_stream_says_the_same_fresh_and_replayed(
    way: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """The events are those of the WHATWG format, in whatever packets they come."""
    prompt = unique(way)
    upstream.on(prompt, Play(mangle=WAYS[way]))

    first = recollect.chat(prompt, stream=True)
    second = recollect.chat(prompt, stream=True)

    assert second.cache.hit
    assert upstream.calls(prompt) == 1
    assert first.text.startswith("Réponse ")
    assert "🦊" in first.text
    assert second.text == first.text
    assert comparable(second) == comparable(first)
    assert sse.is_terminated(second.body)


@pytest.mark.parametrize("way", ["CRLF", "comments", "byte by byte", "byte order mark", "CR"])
def test_first_client_gets_the_bytes_as_sent(
    way: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """A forwarded stream is not rewritten."""
    prompt = unique(way)
    sent: list[bytes] = []

    def remember(made: list[bytes]) -> list[Piece]:
        pieces = list(WAYS[way](made))
        sent.extend(piece for piece in pieces if isinstance(piece, bytes))
        return pieces

    upstream.on(prompt, Play(mangle=remember))

    assert recollect.chat(prompt, stream=True).body == b"".join(sent)


@pytest.mark.parametrize("way", ["CRLF", "byte by byte", "comments"])
def test_responses_stream_says_the_same_fresh_and_replayed(
    way: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """The same for the Responses API, whose events have names."""
    prompt = unique(way)
    upstream.on(prompt, Play(mangle=WAYS[way]))
    body = {"model": "m", "input": prompt, "store": False, "stream": True}

    given = [recollect.post(RESPONSES, body) for _ in range(2)]

    assert given[1].cache.hit
    assert comparable(given[0]) == comparable(given[1])
    assert b"event: response.completed" in given[1].body


ASKED: dict[str, Any] = {"stream_options": {"include_usage": True}}


@pytest.mark.parametrize("is_asked_first", [False, True])
@pytest.mark.parametrize("is_asked_then", [False, True])
def test_usage_comes_only_when_asked_for(
    is_asked_first: bool, is_asked_then: bool, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """One chunk without choices before the terminator, for those who asked, and only them."""
    prompt = unique("usage")
    first = recollect.chat(prompt, stream=True, **(ASKED if is_asked_first else {}))
    then = recollect.chat(prompt, stream=True, **(ASKED if is_asked_then else {}))

    for answer, is_asked in ((first, is_asked_first), (then, is_asked_then)):
        with_usage = [chunk for chunk in sse.chunks_of(answer.body) if chunk.get("usage")]
        assert len(with_usage) == is_asked
        assert all(chunk["choices"] == [] for chunk in with_usage)
        assert sse.is_terminated(answer.body)
    if is_asked_first or not is_asked_then:
        assert then.text == first.text
        assert upstream.calls(prompt) == 1


def test_stream_that_is_asked_for_usage_later_is_forwarded_rather_than_wrong(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """A record without usage cannot answer; the upstream's numbers are in the second answer."""
    prompt = unique("usage later")
    recollect.chat(prompt, stream=True)

    asked = recollect.chat(prompt, stream=True, **ASKED)
    again = recollect.chat(prompt, stream=True, **ASKED)

    assert sse.chunks_of(asked.body)[-1]["usage"]["total_tokens"] > 0
    assert upstream.calls(prompt) <= 2
    assert again.cache.hit
    assert sse.chunks_of(again.body)[-1]["usage"] == sse.chunks_of(asked.body)[-1]["usage"]


def test_pieces_reach_the_client_as_they_come(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Nothing waits for the stream's end, nor for the end of an event."""
    prompt = unique("as they come")
    gate = Gate()
    upstream.on(prompt, Play(mangle=lambda made: [*made[:3], b"data: {", gate, b"}\n\n"]))

    async def read_half() -> None:
        async with asyncio.timeout(10):
            connection = await Connection.open(recollect.origin)
            body = chat_body(prompt, stream=True)
            await connection.send(post_bytes(recollect.origin, CHAT, body))
            await connection.read_head()
            await connection.read_until(b"data: {\r\n")
            connection.abort()

    asyncio.run(read_half())
    gate.open()


def test_logprobs_and_numbers_survive_the_replay(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Numbers are replayed as they were written, not rounded through a float."""
    prompt = unique("numbers")
    numbers = b'{"content":[{"token":"a","logprob":-0.10000000000000000555,"bytes":[97]}]}'
    exact = b'"x_big":123456789012345678901234567890,"x_float":1.10,"x_exp":1E-7'

    def mangle(made: list[bytes]) -> list[bytes]:
        return [
            event.replace(b'"logprobs": null', b'"logprobs": ' + numbers).replace(
                b'"system_fingerprint"', exact + b', "system_fingerprint"'
            )
            for event in made
        ]

    upstream.on(prompt, Play(mangle=mangle))

    for answer in [recollect.chat(prompt, stream=True) for _ in range(2)]:
        assert answer.body.count(b"123456789012345678901234567890") >= 3
        read = [json.loads(data, parse_float=str) for data in sse.data_of(answer.body)[:-1]]
        assert {chunk["x_float"] for chunk in read} <= {"1.10", "1.1"}
        token = read[1]["choices"][0]["logprobs"]["content"][0]
        assert float(token["logprob"]) == -0.1
