"""What passes through: any method, any content, both ways, while its client is there."""

import asyncio

import pytest

from proxy.exchange import ClientGone
from proxy.forward import failure
from proxy.upstreams.upstream import (
    UnsendableHeader,
    UpstreamCut,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from tests.proxy.fakes import FakeUpstream, Play, Worker, settle, stream_play

pytestmark = pytest.mark.virtual_time


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_request_of_any_method_reaches_the_upstream_as_it_came(method: str) -> None:
    """Promise 3: path, query, fields and content, percent-encoding and all."""
    upstream = FakeUpstream(Play([b"ans", b"wer"], status=207, headers=[(b"x-own", b"1")]))
    fields = [(b"content-length", b"6"), (b"x-twice", b"a"), (b"x-twice", b"b")]

    call = await Worker(upstream).get(
        [b"con", b"tent"[:3]],
        "/v1/files/a%2Fb%20c",
        method=method,
        query="q=%7E+x&empty=",
        headers=fields,
    )

    (sent,) = upstream.sent
    assert (sent.method, sent.path, sent.query) == (method, "/files/a%2Fb%20c", "q=%7E+x&empty=")
    assert sent.headers == fields
    assert sent.content == b"conten"
    assert (call.status, call.body, call.is_ended) == (207, b"answer", True)
    assert call.headers == [(b"x-own", b"1"), (b"content-type", b"application/json")]


async def test_request_without_content_is_sent_without() -> None:
    """No `Transfer-Encoding` is invented for a GET."""
    upstream = FakeUpstream(Play([b"{}"]))
    worker = Worker(upstream)

    await worker.get(path="/v1/models", method="GET")
    await worker.get(b"x", "/v1/files", headers={"transfer-encoding": "chunked"})

    assert [sent.has_content for sent in upstream.sent] == [False, True]


async def test_upload_and_answer_pass_piece_by_piece() -> None:
    """Streaming both ways: nothing waits for a whole content."""
    more, rest = asyncio.Event(), asyncio.Event()
    upstream = FakeUpstream(Play([b"first", rest, b"last"]))
    worker = Worker(upstream)
    call = worker.ask([b"one", more, b"two"], "/v1/files", headers={"content-length": "6"})
    await settle()
    assert upstream.sent[0].content == b"one"

    more.set()
    await call.until(lambda c: c.body == b"first")
    assert upstream.sent[0].content == b"onetwo"
    rest.set()
    await call.done()

    assert call.body == b"firstlast"


@pytest.mark.parametrize("phase", ["before the head", "in the content", "in the upload"])
async def test_upstream_call_ends_when_its_client_leaves(phase: str) -> None:
    """Promise 9, for what passes through."""
    never = asyncio.Event()
    play = Play([b"x"], gate=never)
    body: list[bytes | asyncio.Event] = [b"content"]
    if phase == "in the content":
        play = stream_play([b"data: 1\n\n", never])
    elif phase == "in the upload":
        body = [b"con", never]
    upstream = FakeUpstream(play)
    worker = Worker(upstream)
    call = worker.ask(body, "/v1/messages", headers={"content-length": "7"})
    await settle()
    assert upstream.running == 1

    call.leave()
    await call.done()
    await settle()

    assert upstream.sent[0].end == "cancelled"
    assert len(asyncio.all_tasks()) == 1


async def test_upstream_call_without_content_ends_when_its_client_leaves() -> None:
    """A GET has nothing to read; its connection is watched all the same."""
    upstream = FakeUpstream(Play([b"x"], gate=asyncio.Event()))
    call = Worker(upstream).ask(path="/v1/models", method="GET")
    await settle()

    call.leave()
    await call.done()

    assert upstream.sent[0].end == "cancelled"


async def test_upload_broken_off_by_the_client_is_no_fault_of_the_upstream() -> None:
    """The HTTP client library wraps what the upload raised, more than once."""
    inner = ClientGone()
    middle = ConnectionError("failed to send")
    middle.__cause__ = inner
    error = UpstreamUnreachable("unreachable")
    error.__cause__ = middle
    upstream = FakeUpstream(Play(error=error))

    call = await Worker(upstream).get(b"x", "/v1/files", headers={"content-length": "1"})

    assert call.status == 0, "there is nobody to be told"


async def test_answer_that_breaks_off_is_left_open() -> None:
    """Promise 2: the cut is seen; on event streams an error event says so."""
    for content_type, has_event in ((b"text/event-stream", True), (b"audio/mpeg", False)):
        play = Play([b"part", UpstreamCut("cut")], content_type=content_type)

        call = await Worker(FakeUpstream(play)).get(path="/v1/audio", method="GET")

        assert not call.is_ended
        assert call.body.startswith(b"part")
        assert (b"upstream_cut" in call.body) == has_event


async def test_stream_that_stops_says_that_it_stopped() -> None:
    """A deadline of ours is told apart from a cut."""
    play = stream_play([b"data: 1\n\n", UpstreamTimeout("idle")])

    call = await Worker(FakeUpstream(play)).get(path="/v1/messages", method="GET")

    assert b"stopped sending" in call.body


@pytest.mark.parametrize(
    ("cause", "status", "code"),
    [
        (UnsendableHeader("a request header is not valid UTF-8"), 400, "invalid_header"),
        (UpstreamTimeout("late"), 504, "upstream_timeout"),
        (UpstreamUnreachable("refused"), 502, "upstream_unreachable"),
        (UpstreamCut("cut"), 502, "upstream_unreachable"),
        (ConnectionError("gone"), 502, "upstream_lost"),
    ],
)
def test_failure_says_what_failed(cause: Exception, status: int, code: str) -> None:
    """OpenAI's envelope; 4xx for what the client can mend, 5xx for what it cannot."""
    error = failure(cause)

    assert (error.status, error.code) == (status, code)


@pytest.mark.parametrize("error", [UpstreamUnreachable("refused"), UnsendableHeader("not UTF-8")])
async def test_pass_through_without_an_answer_is_told_in_the_common_form(error: Exception) -> None:
    """And carries no `Cache-Status`: the cache had no part in it."""
    call = await Worker(FakeUpstream(Play(error=error))).get(path="/v1/models", method="GET")

    assert call.status in (400, 502)
    assert call.json["error"]["message"]
    assert not call.all(b"cache-status")
