"""What our HTTP/1.1 adds to uvicorn's: limits, errors, one timer, a gentle end."""

import asyncio
import gc
import json
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy.protocol import LimitedProtocol
from tests.proxy.connection_rig import KEEP_ALIVE_S, Answer, Connection, chunked, post
from tests.proxy.fakes import settle

pytestmark = pytest.mark.virtual_time

LIMIT = 4096
READ = 262144
GET = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"


class Protocol(LimitedProtocol):
    """The protocol with a small limit."""

    max_header_bytes = LIMIT


@dataclass
class Handed:
    """One request as the application got it."""

    scope: dict[str, Any]
    content: bytes = b""
    is_gone: bool = False


@dataclass
class App:
    """Reads each request, and answers when its gate is open with the path that was asked for.

    Attributes:
        gates: Path by path, what is waited for before the answer's head (none: nothing).
        begins_first: Whether an answer begins before the request's content and its gate.
        reads: Whether it reads the request's content.
    """

    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    begins_first: bool = False
    reads: bool = True
    handed: list[Handed] = field(default_factory=list)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        handed = Handed(scope)
        self.handed.append(handed)
        if self.begins_first:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begun ", "more_body": True})
        more = self.reads
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                handed.is_gone = True
                return
            handed.content += message["body"]
            more = message["more_body"]
        if scope["path"] in self.gates:
            await self._wait(handed, self.gates[scope["path"]], receive)
        if not self.begins_first:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    @staticmethod
    async def _wait(handed: Handed, gate: asyncio.Event, receive: Any) -> None:
        waits = [asyncio.ensure_future(gate.wait()), asyncio.ensure_future(receive())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        handed.is_gone = waits[1].done()
        for wait in waits:
            wait.cancel()

    @property
    def paths(self) -> list[str]:
        """What was asked for, in order."""
        return [handed.scope["path"] for handed in self.handed]


def get(path: str, *fields: bytes) -> bytes:
    """Return a GET as bytes."""
    lines = [f"GET {path} HTTP/1.1".encode(), b"Host: x", *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def sized(size: int, shape: str) -> bytes:
    """Return a GET whose target and fields have `size` bytes as they are counted."""
    left = size - len("/v1") - len("hostx") - 4
    match shape:
        case "field":
            return get("/v1", b"X: " + b"x" * (left - 5))
        case "fields":
            fields = [b"A: b"] * (left // 6 - 1)
            return get("/v1", *fields, b"A: " + b"b" * (left - 6 * len(fields) - 5))
        case _:
            return get("/v1" + "x" * left)


def code_of(answer: Answer) -> str:
    """Return the code in an error of ours, which must have the envelope's form."""
    error = json.loads(answer.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert answer.one(b"content-type") == b"application/json"
    assert answer.one(b"connection") == b"close"
    return str(error["code"])


# The header's size.


@pytest.mark.parametrize("shape", ["field", "fields", "target"])
async def test_header_exactly_at_the_limit_passes(shape: str) -> None:
    """The limit is the most there may be."""
    app = App()
    connection = Connection(Protocol, app)

    answer = await connection.ask(sized(LIMIT, shape))

    assert answer.status == 200
    assert not connection.is_closed


@pytest.mark.parametrize("shape", ["field", "fields", "target"])
async def test_header_over_the_limit_is_refused(shape: str) -> None:
    """431 (RFC 6585 §5) in our envelope, and the application sees nothing of it."""
    app = App()
    connection = Connection(Protocol, app)

    answer = await connection.ask(sized(LIMIT + 1, shape))

    assert answer.status == 431
    assert code_of(answer) == "header_too_large"
    assert str(LIMIT) in json.loads(answer.body)["error"]["message"]
    assert connection.is_closed
    assert app.handed == []


def endless(shape: str) -> Iterator[bytes]:
    """Yield a request that never ends its header, or its trailer."""
    piece = b"x" * 65536
    match shape:
        case "field":
            yield b"GET / HTTP/1.1\r\nX: "
        case "target":
            yield b"GET /"
        case "fields":
            yield b"GET / HTTP/1.1\r\n"
            piece = b"A: b\r\n" * 10_000
        case "trailer field":
            yield chunked(b"content")[:-2] + b"X: "
        case "trailer fields":
            yield chunked(b"content")[:-2]
            piece = b"A: b\r\n" * 10_000
    while True:
        yield piece


@pytest.mark.parametrize("shape", ["field", "target", "fields", "trailer field", "trailer fields"])
async def test_what_never_ends_is_refused_while_it_comes(shape: str) -> None:
    """Nothing is collected without a bound: the parser itself has none."""
    connection = Connection(Protocol, App(gates={"/v1/chat/completions": asyncio.Event()}))
    sent = 0
    for piece in endless(shape):
        if connection.is_closed:
            break
        sent += len(piece)
        assert sent < LIMIT + 3 * READ
        await connection.send(piece)

    (answer,) = connection.answers
    assert answer.status == 431
    assert code_of(answer) == "header_too_large"


async def test_each_request_has_the_limit_for_itself() -> None:
    """A connection may be used for ever; content does not count."""
    connection = Connection(Protocol, App())
    for _ in range(3):
        assert (await connection.ask(sized(LIMIT, "field"))).status == 200
        assert (await connection.ask(post(b"x" * READ * 2))).status == 200


async def test_content_in_tiny_chunks_is_no_trailer() -> None:
    """However much their framing takes."""
    app = App()
    connection = Connection(Protocol, app)
    head, _, _ = chunked(b"").partition(b"0\r\n")

    await connection.send(head, *[b"1\r\nx\r\n" * 10_000] * 8)
    answer = await connection.ask(b"0\r\n\r\n")

    assert answer.status == 200
    assert app.handed[0].content == b"x" * 80_000


async def test_slow_chunk_is_no_trailer() -> None:
    """Its content may come long after its size, and in any number of packets."""
    app = App()
    connection = Connection(Protocol, app)
    head, _, _ = chunked(b"").partition(b"0\r\n")
    size = 6 * 65536

    await connection.send(head, b"%x\r\n" % size, *[b"x" * 65536] * 6)
    answer = await connection.ask(b"\r\n0\r\n\r\n")

    assert answer.status == 200
    assert len(app.handed[0].content) == size


async def test_content_does_not_count_as_trailer() -> None:
    """Nor do empty lines after it (RFC 9112 §2.2)."""
    connection = Connection(Protocol, App())
    head, _, _ = chunked(b"").partition(b"0\r\n")
    size = 6 * 65536

    await connection.send(head, b"%x\r\n" % size, *[b"x" * 65536] * 6)
    await connection.send(b"\r\n0\r\n", b"X: a", b"\r\n\r\n", *[b"\r\n" * 40_000] * 5)
    await connection.send(GET)

    assert [answer.status for answer in connection.answers] == [200, 200]


async def test_header_that_came_with_content_before_it_has_its_whole_limit() -> None:
    """Bytes of the request before it are not taken for its own."""
    connection = Connection(Protocol, App())
    following = sized(LIMIT, "field")

    await connection.send(post(b"x" * (READ - 200)) + following[:50], following[50:-1])
    await connection.send(following[-1:])

    assert [answer.status for answer in connection.answers] == [200, 200]


async def test_header_that_came_with_another_request_is_limited_too() -> None:
    """In one packet with the request before it; that one is answered, and the last."""
    app = App()
    connection = Connection(Protocol, app)

    await connection.send(get("/v1/one") + sized(LIMIT + 1, "field"))

    assert app.paths == ["/v1/one"]
    (answer,) = connection.answers
    assert answer.body == b"/v1/one"
    assert answer.one(b"connection") == b"close"
    assert connection.is_closed


# Trailers.


async def test_trailer_fields_are_no_header_fields() -> None:
    """RFC 9110 §6.5.1: else what a gateway strips from headers comes in behind the content."""
    app = App()
    connection = Connection(Protocol, app)
    raw = chunked(b"content", trailer=b"Authorization: Bearer other\r\nX-Tenant: other\r\n")

    assert (await connection.ask(raw)).status == 200

    names = [name for name, _ in app.handed[0].scope["headers"]]
    assert names == [b"host", b"transfer-encoding"]
    assert app.handed[0].content == b"content"
    await connection.ask(get("/v1", b"X-Own: 1"))
    assert (b"x-own", b"1") in app.handed[1].scope["headers"]


# What is no HTTP.


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Name: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: a\0b\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /v1/\xc3\xa9 HTTP/1.1\r\n\r\n",
        b"CONNECT host:443 HTTP/1.1\r\n\r\n",
    ],
)
async def test_garbage_is_refused_in_our_envelope(garbage: bytes) -> None:
    """400, and the end of the connection: where the next request begins is unknown."""
    app = App()
    connection = Connection(Protocol, app)

    answer = await connection.ask(garbage)

    assert answer.status == 400
    assert code_of(answer) == "invalid_http"
    assert connection.is_closed
    assert app.handed == []


async def test_garbage_behind_a_request_does_not_spoil_its_answer() -> None:
    """The answer is whole and the last one; nothing is written into it."""
    gate = asyncio.Event()
    app = App(gates={"/v1/one": gate}, begins_first=True)
    connection = Connection(Protocol, app)
    await connection.send(get("/v1/one"), b"\0\0\0\r\n\r\n", get("/v1/two"))
    assert not connection.is_closed

    gate.set()
    await settle()

    (answer,) = connection.answers
    assert answer.is_complete
    assert answer.body == b"begun /v1/one"
    assert connection.is_closed
    assert app.paths == ["/v1/one"]


async def test_broken_content_is_refused_while_nothing_was_answered() -> None:
    """And the application learns that no more will come."""
    app = App()
    connection = Connection(Protocol, app)
    head, _, _ = chunked(b"").partition(b"0\r\n")

    answer = await connection.ask(head + b"3\r\nabc\r\n", b"not a size\r\n")
    await settle()

    assert answer.status == 400
    assert connection.is_closed
    assert app.handed[0].is_gone


async def test_broken_content_cuts_an_answer_that_has_begun() -> None:
    """No second head in its midst."""
    app = App(begins_first=True)
    connection = Connection(Protocol, app)
    head, _, _ = chunked(b"").partition(b"0\r\n")

    await connection.send(head, b"not a size\r\n")

    (answer,) = connection.answers
    assert answer.body == b"begun "
    assert not answer.is_complete
    assert connection.is_closed
    assert app.handed[0].is_gone


async def test_broken_content_of_a_waiting_request_is_not_answered_before_its_turn() -> None:
    """A client would take it for the answer to the request before."""
    app = App(gates={"/v1/one": asyncio.Event()})
    connection = Connection(Protocol, app)
    head, _, _ = chunked(b"").partition(b"0\r\n")

    await connection.send(get("/v1/one") + head, b"not a size\r\n")

    assert connection.answers == []
    assert connection.is_closed
    assert app.paths == ["/v1/one"]
    assert app.handed[0].is_gone


async def test_nothing_is_written_to_a_connection_that_is_ending() -> None:
    """Garbage that comes while it closes."""
    connection = Connection(Protocol, App())
    connection.leave()

    connection.protocol.data_received(b"\0\r\n\r\n")

    assert connection.transport.written == b""


# Requests one after another.


async def test_pipelined_requests_are_answered_in_order() -> None:
    """RFC 9112 §9.3.2."""
    gate = asyncio.Event()
    app = App(gates={"/v1/one": gate})
    connection = Connection(Protocol, app)
    await connection.send(get("/v1/one") + get("/v1/two") + get("/v1/three"))
    assert app.paths == ["/v1/one"]

    gate.set()
    await settle()

    assert [a.body for a in connection.answers] == [b"/v1/one", b"/v1/two", b"/v1/three"]
    assert connection.state.total_requests == 3
    assert connection.transport.is_reading_wanted


async def test_answer_before_the_content_lets_the_rest_of_it_come() -> None:
    """The content is not wanted, but the next request stands behind it."""
    connection = Connection(Protocol, App(reads=False))
    raw = post(b"x" * 200_000)
    connection.protocol.data_received(raw[:150_000])
    assert not connection.transport.is_reading_wanted
    await settle()
    assert connection.transport.is_reading_wanted

    await connection.send(raw[150_000:], GET)

    assert [answer.status for answer in connection.answers] == [200, 200]


# The timer.


async def test_idle_connection_is_closed_after_its_time() -> None:
    """Counted from its last answer."""
    connection = Connection(Protocol, App())
    await connection.ask(GET)
    await asyncio.sleep(KEEP_ALIVE_S - 25)
    await connection.ask(GET)

    await asyncio.sleep(KEEP_ALIVE_S - 1)
    assert not connection.is_closed
    await asyncio.sleep(2)

    assert connection.is_closed


async def test_one_timer_serves_all_requests_of_a_connection() -> None:
    """To cancel and renew one with every request costs as much as a look-up."""
    connection = Connection(Protocol, App())
    await connection.ask(GET)
    timer = connection.protocol.timeout_keep_alive_task
    for _ in range(3):
        await connection.ask(GET)

    assert timer is not None
    assert connection.protocol.timeout_keep_alive_task is timer
    assert not timer.cancelled()


async def test_connection_in_use_is_not_closed() -> None:
    """Neither while a request is answered nor while the next one's header comes."""
    gate = asyncio.Event()
    app = App(gates={"/v1/slow": gate})
    connection = Connection(Protocol, app)
    await connection.ask(GET)
    await connection.send(get("/v1/slow"))
    await asyncio.sleep(3 * KEEP_ALIVE_S)
    assert not connection.is_closed
    gate.set()
    await settle()

    await connection.send(GET[:10])
    await asyncio.sleep(3 * KEEP_ALIVE_S)
    assert not connection.is_closed
    assert (await connection.ask(GET[10:])).status == 200

    await asyncio.sleep(2 * KEEP_ALIVE_S)
    assert connection.is_closed


async def test_timer_of_a_connection_that_is_ending_does_nothing() -> None:
    """It may be due in the same turn of the loop."""
    connection = Connection(Protocol, App())
    await connection.ask(GET)
    connection.leave()

    connection.protocol.timeout_keep_alive_handler()

    assert connection.protocol.timeout_keep_alive_task is None


# When the connection is gone.


async def test_nothing_is_left_of_a_lost_connection() -> None:
    """Promise 14: neither a timer nor a set of the server holds it."""
    connection = Connection(Protocol, App())
    await connection.ask(GET)
    state, protocol = connection.state, weakref.ref(connection.protocol)
    assert state.connections

    connection.leave()
    await settle()
    del connection
    gc.collect()

    assert not state.connections
    assert not state.tasks
    assert protocol() is None


async def test_applications_learn_that_their_client_is_gone() -> None:
    """Promise 9: also the one that is being answered while others wait behind it."""
    app = App(gates={"/v1/one": asyncio.Event()})
    connection = Connection(Protocol, app)
    await connection.send(get("/v1/one") + get("/v1/two"))

    connection.leave()
    await settle()

    assert app.handed[0].is_gone
    assert not connection.state.tasks
    assert app.paths == ["/v1/one"]


async def test_answer_that_ends_with_its_connection_starts_nothing() -> None:
    """No timer, and none of the requests that waited."""
    app = App()
    connection = Connection(Protocol, app)

    await connection.send(get("/v1/one", b"Connection: close"))

    assert connection.is_closed
    assert connection.state.total_requests == 1
    assert connection.protocol.timeout_keep_alive_task is None


# The end of the server.


async def test_request_that_comes_as_the_server_ends_is_answered() -> None:
    """It was on its way when the connection looked idle; a client cannot know."""
    connection = Connection(Protocol, App())
    await connection.ask(GET)
    connection.protocol.shutdown()
    await asyncio.sleep(0.45)
    assert not connection.is_closed

    answer = await connection.ask(GET)

    assert answer.status == 200
    assert answer.one(b"connection") == b"close"
    assert connection.is_closed


@pytest.mark.parametrize("was_used", [True, False])
async def test_idle_connection_is_closed_soon_when_the_server_ends(was_used: bool) -> None:
    """Nobody waits for a client that has nothing to ask."""
    connection = Connection(Protocol, App())
    if was_used:
        await connection.ask(GET)

    connection.protocol.shutdown()
    await asyncio.sleep(0.55)

    assert connection.is_closed


async def test_answer_under_way_is_finished_when_the_server_ends() -> None:
    """However long it takes; then the connection is closed."""
    gate = asyncio.Event()
    connection = Connection(Protocol, App(gates={"/v1/slow": gate}))
    await connection.send(get("/v1/slow"))
    connection.protocol.shutdown()
    await asyncio.sleep(10)
    assert not connection.is_closed

    gate.set()
    await settle()

    (answer,) = connection.answers
    assert answer.is_complete
    assert answer.one(b"connection") == b"close"
    assert connection.is_closed


async def test_request_that_came_late_is_not_cut() -> None:
    """It is under way when the moment of grace is over."""
    gate = asyncio.Event()
    connection = Connection(Protocol, App(gates={"/v1/slow": gate}))
    connection.protocol.shutdown()
    await asyncio.sleep(0.3)
    await connection.send(get("/v1/slow"))
    await asyncio.sleep(10)
    assert not connection.is_closed

    gate.set()
    await settle()

    assert [answer.is_complete for answer in connection.answers] == [True]
    assert connection.is_closed


async def test_client_may_leave_while_the_server_ends() -> None:
    """What is closed is not closed again."""
    connection = Connection(Protocol, App())
    connection.protocol.shutdown()
    connection.leave()

    await asyncio.sleep(1)

    assert connection.is_closed
    assert not connection.state.connections
