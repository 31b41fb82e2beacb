"""One request and its answer on the wire; and what happens when the client leaves."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from proxy.errors import ErrorAnswer
from proxy.exchange import BodyTooLarge, ClientGone, Exchange, http_date, watching
from proxy.metrics import Outcome
from tests.proxy.fakes import scope_of, settle

pytestmark = pytest.mark.virtual_time


class Wire:
    """ASGI's two callables; what is received is queued by the test."""

    def __init__(self, *received: MutableMapping[str, Any]) -> None:
        self.incoming: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self.sent: list[MutableMapping[str, Any]] = []
        for message in received:
            self.incoming.put_nowait(message)

    async def receive(self) -> MutableMapping[str, Any]:
        """Return the next message."""
        return await self.incoming.get()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Take a message."""
        self.sent.append(message)

    def exchange(self, **scope: Any) -> Exchange:
        """Return an exchange over this wire."""
        return Exchange(scope_of(**scope), self.receive, self.send, "chat")


def part(body: bytes, more: bool = False) -> dict[str, Any]:
    """Return one message with content."""
    return {"type": "http.request", "body": body, "more_body": more}


GONE = {"type": "http.disconnect"}


@pytest.mark.parametrize(
    ("parts", "content"),
    [
        ([part(b"")], b""),
        ([part(b"all")], b"all"),
        ([part(b"a", True), part(b"b", True), part(b"c")], b"abc"),
        ([part(b"a", True), part(b"")], b"a"),
        ([part(b"", True), part(b"12345")], b"12345"),
    ],
)
async def test_content_comes_in_any_number_of_parts(
    parts: list[dict[str, Any]], content: bytes
) -> None:
    """As servers see fit."""
    assert await Wire(*parts).exchange().body(5) == content


@pytest.mark.parametrize(
    "parts", [[part(b"123456")], [part(b"123", True), part(b"456", True)], [part(b"123456", True)]]
)
async def test_content_over_the_limit_is_not_read_on(parts: list[dict[str, Any]]) -> None:
    """Promise 14: no more is held than the limit and one part."""
    wire = Wire(*parts, part(b"never read"))

    with pytest.raises(BodyTooLarge):
        await wire.exchange().body(5)

    assert not wire.incoming.empty()


async def test_stated_length_over_the_limit_is_enough() -> None:
    """Nothing is read at all."""
    wire = Wire(part(b"x"))

    with pytest.raises(BodyTooLarge):
        await wire.exchange(headers=[(b"content-length", b"6")]).body(5)

    assert not wire.incoming.empty()


@pytest.mark.parametrize("parts", [[GONE], [part(b"a", True), GONE]])
async def test_client_that_leaves_within_its_content_is_gone(parts: list[dict[str, Any]]) -> None:
    """Half a request is none."""
    with pytest.raises(ClientGone):
        await Wire(*parts).exchange().body(5)


async def test_block_is_cancelled_when_the_client_leaves() -> None:
    """And ClientGone takes the cancellation's place: the request's task goes on."""
    wire = Wire(part(b"x"))
    exchange = wire.exchange()
    await exchange.body(5)
    was_cancelled = False

    async def answer() -> str:
        nonlocal was_cancelled
        try:
            async with watching(exchange):
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    was_cancelled = True
                    raise
        except ClientGone:
            await asyncio.sleep(0)
            return "gone"
        return "answered"

    task = asyncio.ensure_future(answer())
    await settle()
    wire.incoming.put_nowait(GONE)

    assert await task == "gone"
    assert was_cancelled


async def test_content_is_not_taken_away_from_who_reads_it() -> None:
    """Watching begins when the content has been read: both ask the same source."""
    wire = Wire()
    exchange = wire.exchange()
    parts = []

    async with watching(exchange):
        reading = asyncio.ensure_future(_all_of(exchange))
        wire.incoming.put_nowait(part(b"a", True))
        await settle()
        wire.incoming.put_nowait(part(b"b"))
        parts = await reading

    assert parts == [b"a", b"b"]


async def _all_of(exchange: Exchange) -> list[bytes]:
    return [piece async for piece in exchange.body_pieces()]


@pytest.mark.parametrize("turns", range(6))
async def test_client_that_leaves_as_the_block_ends_cancels_nothing_after_it(turns: int) -> None:
    """The watch may have ended, and its callback be due, in the turn in which the block ends."""
    wire = Wire()
    exchange = wire.exchange()
    exchange.has_no_content()
    is_after = False

    async def answer() -> None:
        nonlocal is_after
        async with watching(exchange):
            await settle()
            wire.incoming.put_nowait(GONE)
            for _ in range(turns):
                await asyncio.sleep(0)
        is_after = True
        await settle()

    try:
        await asyncio.ensure_future(answer())
    except ClientGone:
        assert not is_after


async def test_watch_that_ends_with_the_block_leaves_no_task() -> None:
    """Promise 14."""
    exchange = Wire().exchange()
    exchange.has_no_content()

    async with watching(exchange):
        await settle()
    await settle()

    assert len(asyncio.all_tasks()) == 1


async def test_end_of_the_server_is_not_taken_for_the_client_leaving() -> None:
    """Who cancels the task means the task."""
    wire = Wire()
    exchange = wire.exchange()
    exchange.has_no_content()

    async def answer() -> None:
        async with watching(exchange):
            await asyncio.Event().wait()

    task = asyncio.ensure_future(answer())
    await settle()
    wire.incoming.put_nowait(GONE)
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_failure_within_the_block_is_passed_on() -> None:
    """It is not the client's doing."""
    exchange = Wire().exchange()
    exchange.has_no_content()

    with pytest.raises(ZeroDivisionError):
        async with watching(exchange):
            raise ZeroDivisionError


@pytest.mark.parametrize(
    ("path", "query", "target"),
    [
        ("/v1/a%2Fb", "x=%20", ("/v1/a%2Fb", "x=%20")),
        ("/v1/caf\xc3\xa9", "q=\xe9", ("/v1/caf%C3%A9", "q=%E9")),
    ],
)
async def test_target_is_passed_on_as_it_came(
    path: str, query: str, target: tuple[str, str]
) -> None:
    """Promise 3; bytes that no target may hold are written as what they stand for."""
    exchange = Wire().exchange(path=path, query=query)

    assert (exchange.path, exchange.query) == target


async def test_target_to_the_byte_is_path_and_query() -> None:
    """By which a request is known again."""
    assert Wire().exchange(path="/v1/a", query="x=%20").target == b"/v1/a?x=%20"
    assert Wire().exchange(path="/v1/a").target == b"/v1/a"


async def test_request_id_of_the_client_is_kept_unless_it_is_unreasonable() -> None:
    """Issue §2: kept or made."""
    given = Wire().exchange(headers=[(b"x-request-id", b"mine")])
    absurd = Wire().exchange(headers=[(b"x-request-id", b"x" * 129)])
    empty = Wire().exchange(headers=[(b"x-request-id", b"")])
    none = Wire().exchange()

    assert given.request_id == b"mine"
    made = {exchange.request_id for exchange in (absurd, empty, none)}
    assert len(made) == 3
    assert all(len(made_id) == 32 for made_id in made)


async def test_fields_of_ours_are_added_where_the_upstream_has_none() -> None:
    """`Age` and `x-request-id` are the upstream's if it set them; `Cache-Status` is a list."""
    exchange = Wire().exchange(headers=[(b"x-request-id", b"mine")])
    exchange.cache_status = b"recollect; fwd=miss"
    theirs = [(b"age", b"7"), (b"x-request-id", b"theirs"), (b"cache-status", b"cdn; hit")]

    assert exchange.forwarded_headers([]) == [
        (b"cache-status", b"recollect; fwd=miss"),
        (b"age", b"0"),
        (b"x-request-id", b"mine"),
    ]
    assert exchange.forwarded_headers(theirs) == [
        *theirs,
        (b"cache-status", b"recollect; fwd=miss"),
    ]


async def test_refusal_is_one_whole_answer_in_openais_envelope() -> None:
    """Promise 19."""
    wire = Wire()
    exchange = wire.exchange()
    exchange.cache_status = b"recollect; fwd=bypass; detail=refused"

    await exchange.refuse(ErrorAnswer(413, "Too large.", "body_too_large"), Outcome.REFUSED)

    start, body = wire.sent
    headers = dict(start["headers"])
    assert start["status"] == exchange.status == 413
    assert headers[b"content-length"] == b"%d" % len(body["body"])
    assert headers[b"cache-status"] == exchange.cache_status
    assert not body.get("more_body", False)
    assert exchange.outcome is Outcome.REFUSED


def test_date_is_in_the_form_of_http() -> None:
    """RFC 9110 §5.6.7."""
    text = http_date().decode()

    assert text.endswith(" GMT")
    assert len(text) == 29
    assert http_date() == http_date()
