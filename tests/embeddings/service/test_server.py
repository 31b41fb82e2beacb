"""The embedding process' HTTP server, over real sockets."""

import asyncio
import contextlib
import os
import re
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from embeddings.service.http_server import Limits, Server, serve
from embeddings.wire import MOST_BODY_BYTES, Feedback, Found, LookUp, keys_to_bytes
from tests.embeddings.fake_service import FakeService, found_for

_KEY = b"k" * 32
_PARTITION = b"p" * 32


class Client:
    """Raw bytes to the server, and its answers one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, raw: bytes) -> None:
        """Write."""
        self.writer.write(raw)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Return status, header and content of the next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:] if line)
        content = await self.reader.readexactly(int(fields.get("content-length", 0)))
        return int(lines[0].split()[1]), fields, content

    async def ask(self, raw: bytes) -> tuple[int, dict[str, str], bytes]:
        """Write, and return the next answer."""
        self.send(raw)
        return await self.answer()

    async def is_closed(self) -> bool:
        """Wait until the server closes the connection; whatever came before is dropped."""
        with contextlib.suppress(ConnectionError):
            await self.reader.read()
        return True


def post(path: str, body: bytes, *fields: str) -> bytes:
    """Return a request."""
    head = [f"POST {path} HTTP/1.1", "host: x", *fields, f"content-length: {len(body)}"]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def look_up(text: str) -> bytes:
    """Return a look-up."""
    return post("/look-up", LookUp(_PARTITION, text, 3).to_bytes())


def get(path: str, *fields: str) -> bytes:
    """Return a request."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "host: x", *fields, "\r\n"]).encode()


def code(content: bytes) -> str:
    """Return the error's code; the envelope is checked on the way."""
    error = orjson.loads(content)["error"]
    assert error.keys() == {"message", "type", "code"}
    return str(error["code"])


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def limits(request: pytest.FixtureRequest) -> Limits:
    """What clients may ask: what the test says, or as it is in production."""
    return getattr(request, "param", Limits())


@pytest.fixture
async def server(service: FakeService, tmp_path: Path, limits: Limits) -> AsyncIterator[Server]:
    """A server on a UNIX socket."""
    server = await serve(
        lambda: service,
        f"unix://{tmp_path}/e.sock",
        None,
        lambda: b"lookups 1\n",
        lambda: False,
        limits=limits,
    )
    yield server
    service.may_end.set()
    await server.close()


Connect = Callable[[], Awaitable[Client]]


@pytest.fixture
async def connect(server: Server) -> AsyncIterator[Connect]:
    """Return new connections to the server."""
    clients: list[Client] = []

    async def connect() -> Client:
        clients.append(Client(*await asyncio.open_unix_connection(server.address.socket_path)))
        return clients[-1]

    yield connect
    for client in clients:
        client.writer.transport.abort()


async def test_a_look_up_is_answered(connect: Connect, service: FakeService) -> None:
    """The text arrives, the answer arrives, and the connection stays for the next."""
    client = await connect()

    for text in ("how do I pay?", "où puis-je payer ?"):
        status, fields, content = await client.ask(look_up(text))
        assert status == 200
        assert Found.from_bytes(content) == found_for(text)
        assert "connection" not in fields
    assert service.texts == ["how do I pay?", "où puis-je payer ?"]


async def test_hints_are_passed_on(connect: Connect, service: FakeService) -> None:
    """`/add` says that something was stored, `/remove` that an entry was found gone."""
    client = await connect()

    assert (await client.ask(post("/add", keys_to_bytes([_KEY]))))[0] == 204
    assert (await client.ask(post("/remove", keys_to_bytes([_KEY]))))[0] == 204
    assert (service.refreshed, service.forgotten) == ([[_KEY]], [[_KEY]])


async def test_what_operators_ask_is_answered(connect: Connect) -> None:
    """Statistics, life and readiness, metrics."""
    client = await connect()

    assert orjson.loads((await client.ask(get("/stats")))[2]) == {"vectors": {"flat": 1}}
    assert orjson.loads((await client.ask(get("/healthz")))[2]) == {"is_ready": False}
    _, fields, content = await client.ask(get("/metrics"))
    assert content == b"lookups 1\n"
    assert fields["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    ("request_", "status", "word"),
    [
        (look_up("busy"), 503, "busy"),
        (look_up("index down"), 503, "index_unavailable"),
        (look_up("defect"), 500, "defect"),
        (post("/look-up", b"{}"), 400, "invalid_request"),
        (post("/add", b'{"keys": ["zz"]}'), 400, "invalid_request"),
    ],
    ids=["busy", "index", "defect", "no-look-up", "no-keys"],
)
async def test_a_request_that_fails_leaves_the_connection(
    connect: Connect, request_: bytes, status: int, word: str
) -> None:
    """An error is an answer like any other: the worker's connection is used again."""
    client = await connect()

    assert (await client.ask(request_))[0::2] == (status, (await client.ask(request_))[2])
    assert code((await client.ask(request_))[2]) == word
    assert (await client.ask(look_up("hello")))[0] == 200


async def test_a_store_that_is_away_is_told(connect: Connect, service: FakeService) -> None:
    """A hint that could not be followed is no success."""
    service.is_store_down = True
    client = await connect()

    status, _, content = await client.ask(post("/add", keys_to_bytes([_KEY])))

    assert (status, code(content)) == (503, "store_unavailable")


@pytest.mark.parametrize(
    ("raw", "status", "word"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, "invalid_http"),
        (b"hello\r\n\r\n", 400, "invalid_http"),
        (get("/look-up"), 405, "method_not_allowed"),
        (post("/stats", b""), 405, "method_not_allowed"),
        (get("/"), 404, "not_found"),
        (get("/look-up?x"), 404, "not_found"),
        (get("/healthz", "upgrade: websocket", "connection: upgrade"), 400, "invalid_http"),
        (
            b"POST /add HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
            411,
            "length_required",
        ),
        (
            f"POST /add HTTP/1.1\r\ncontent-length: {MOST_BODY_BYTES + 1}\r\n\r\n".encode(),
            413,
            "body_too_large",
        ),
        (b"POST /add HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400, "invalid_http"),
        (get("/healthz", "x: " + "y" * 20_000), 431, "header_too_large"),
        (b"GET /healthz HTTP/1.1\r\nx: " + b"y" * 20_000, 431, "header_too_large"),
        (b"GET /" + b"y" * 20_000, 431, "header_too_large"),
        (b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 4_000, 431, "header_too_large"),
    ],
)
async def test_what_is_not_asked_for_is_refused_and_the_connection_closed(
    connect: Connect, raw: bytes, status: int, word: str
) -> None:
    """Each with its status and word, before anything of a body is kept."""
    client = await connect()

    answered, fields, content = await client.ask(raw)

    assert (answered, code(content)) == (status, word)
    assert fields["connection"] == "close"
    assert ("allow" in fields) == (status == 405)
    assert await client.is_closed()


async def test_a_request_may_come_byte_by_byte(connect: Connect) -> None:
    """TCP knows no messages."""
    client = await connect()

    for byte in look_up("hello"):
        client.send(bytes([byte]))
        await asyncio.sleep(0)

    assert Found.from_bytes((await client.answer())[2]) == found_for("hello")


async def test_requests_sent_at_once_are_answered_in_order(
    connect: Connect, service: FakeService
) -> None:
    """Pipelined requests are answered one after the other (RFC 9112 §9.3.2), however many."""
    client = await connect()
    texts = ["wait"] + [f"question {number}" for number in range(100)]
    client.send(b"".join(map(look_up, texts)) + get("/nowhere"))
    await service.has_begun.wait()
    service.may_end.set()

    for text in texts:
        assert Found.from_bytes((await client.answer())[2]) == found_for(text)
    assert (await client.answer())[0] == 404
    assert await client.is_closed()


async def test_a_client_that_leaves_cancels_its_look_up(
    connect: Connect, service: FakeService
) -> None:
    """Nobody waits for the vector any more: its place in the queue is free."""
    client = await connect()
    client.send(look_up("wait") + look_up("never asked"))
    await service.has_begun.wait()

    client.writer.transport.abort()

    await service.was_cancelled.wait()
    assert service.texts == ["wait"]


async def test_a_client_that_wants_the_connection_closed_gets_it(connect: Connect) -> None:
    """`Connection: close`, and HTTP/1.0 (RFC 9112 §9.3)."""
    for raw in (get("/healthz", "connection: close"), b"GET /healthz HTTP/1.0\r\n\r\n"):
        client = await connect()
        status, fields, _ = await client.ask(raw)
        assert (status, fields["connection"]) == (200, "close")
        assert await client.is_closed()


@pytest.mark.parametrize("limits", [Limits(stall_s=0.2, look_every_s=0.05)], indirect=True)
async def test_slow_clients_are_let_go(connect: Connect, service: FakeService) -> None:
    """A request must come whole within a time; one that has come may take its time."""
    waiting = await connect()
    waiting.send(look_up("wait"))
    await service.has_begun.wait()
    half_a_head, half_a_body = await connect(), await connect()
    half_a_head.send(b"POST /look-up HTTP/1.1\r\nx:")
    half_a_body.send(look_up("hello")[:-1])

    assert await half_a_head.is_closed()
    assert await half_a_body.is_closed()
    service.may_end.set()
    assert (await waiting.answer())[0] == 200


@pytest.mark.parametrize("limits", [Limits(idle_s=1.0, look_every_s=0.05)], indirect=True)
async def test_idle_clients_are_let_go(connect: Connect, service: FakeService) -> None:
    """An unused connection ends, one that waits for its answer does not."""
    waiting = await connect()
    waiting.send(look_up("wait"))
    await service.has_begun.wait()

    assert await (await connect()).is_closed()
    service.may_end.set()
    assert (await waiting.answer())[0] == 200


@pytest.mark.parametrize("limits", [Limits(stall_s=0.3, look_every_s=0.05)], indirect=True)
async def test_a_client_that_fetches_no_answers_is_let_go(
    connect: Connect, server: Server, service: FakeService
) -> None:
    """Its answers do not pile up in memory: none is made while it fetches none, and it is ended."""
    loop = asyncio.get_running_loop()
    raw = socket.socket(socket.AF_UNIX)
    raw.setblocking(False)
    raw.connect(server.address.socket_path)
    request = look_up("hello")

    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while True:
            await loop.sock_sendall(raw, request * 100)

    raw.close()
    assert len(service.texts) < 2000
    assert (await (await connect()).ask(look_up("hello")))[0] == 200


async def service_rests(service: FakeService) -> None:
    """Wait until nothing is asked any more: client and server share the loop, whose turns count."""
    texts, turns = 0, 0
    while not texts or turns < 100:
        turns = turns + 1 if len(service.texts) == texts else 0
        texts = len(service.texts)
        await asyncio.sleep(0)


async def test_a_client_that_fetches_its_answers_late_gets_all(
    connect: Connect, service: FakeService
) -> None:
    """They are made when there is room for them, in order."""
    client = await connect()
    client.send(b"".join(look_up(f"question {number}") for number in range(1000)))
    await service_rests(service)
    assert 0 < len(service.texts) < 1000

    for number in range(1000):
        assert Found.from_bytes((await client.answer())[2]) == found_for(f"question {number}")


@pytest.mark.parametrize("limits", [Limits(connections=1)], indirect=True)
async def test_more_connections_than_the_bound_are_refused(connect: Connect) -> None:
    """And those that are there are served on."""
    first = await connect()
    assert (await first.ask(get("/healthz")))[0] == 200

    assert await (await connect()).is_closed()
    assert (await first.ask(get("/healthz")))[0] == 200


async def test_a_socket_is_for_its_owner_only(server: Server) -> None:
    """Whoever may open the file may ask, without a token: so nobody else may open it."""
    assert stat.S_IMODE(os.stat(server.address.socket_path).st_mode) == 0o600


async def test_a_socket_left_by_a_killed_process_is_taken_over(
    service: FakeService, tmp_path: Path
) -> None:
    """A restart after a kill must not fail; but one that answers, or another file, stays."""
    path = tmp_path / "e.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    server = await serve(lambda: service, f"unix://{path}", None, bytes, lambda: True)
    with pytest.raises(OSError, match="in use"):
        await serve(lambda: service, f"unix://{path}", None, bytes, lambda: True)
    await server.close()
    assert not path.exists()

    path.write_text("mine")
    with pytest.raises(OSError, match="in use"):
        await serve(lambda: service, f"unix://{path}", None, bytes, lambda: True)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("limits", [Limits(drain_s=30)], indirect=True)
async def test_closing_answers_what_was_asked(
    connect: Connect, server: Server, service: FakeService
) -> None:
    """A drain: idle connections end at once, a look-up that has begun is answered yet."""
    idle, waiting = await connect(), await connect()
    waiting.send(look_up("wait"))
    await service.has_begun.wait()

    closing = asyncio.create_task(server.close())
    assert await idle.is_closed()
    with pytest.raises(OSError, match=r".+"):
        await connect()
    service.may_end.set()

    status, fields, _ = await waiting.answer()
    assert (status, fields["connection"]) == (200, "close")
    await closing


@pytest.mark.parametrize("limits", [Limits(drain_s=0.05)], indirect=True)
async def test_closing_does_not_wait_for_long(
    connect: Connect, server: Server, service: FakeService
) -> None:
    """A look-up that takes longer than the drain is cancelled."""
    client = await connect()
    client.send(look_up("wait"))
    await service.has_begun.wait()

    await server.close()

    assert await client.is_closed()
    await service.was_cancelled.wait()


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([], 401),
        (["authorization: Bearer wrong"], 401),
        (["authorization: Bearer secret2"], 401),
        (["authorization: Basic secret"], 401),
        (["Authorization: Bearer secret"], 200),
    ],
)
async def test_over_tcp_a_token_is_asked_for(
    service: FakeService, fields: list[str], status: int
) -> None:
    """Who has it not learns nothing but that the process lives (RFC 9110 §11.6.1)."""
    server = await serve(lambda: service, "http://127.0.0.1:0", "secret", lambda: b"", lambda: True)
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*", str(server.address))

    async def ask(raw: bytes) -> tuple[int, dict[str, Any]]:
        client = Client(*await asyncio.open_connection("127.0.0.1", server.address.port))
        answer = await client.ask(raw)
        client.writer.close()
        return answer[:2]

    body = LookUp(_PARTITION, "hello", 1).to_bytes()
    for raw in (
        post("/look-up", body, *fields),
        get("/stats", *fields),
        get("/metrics", *fields),
    ):
        answered, head = await ask(raw)
        assert answered == status
        assert ("www-authenticate" in head) == (status == 401)
    assert (await ask(get("/nowhere", *fields)))[0] == (401 if status == 401 else 404)
    assert (await ask(get("/healthz", *fields)))[0] == 200
    assert len(service.texts) == (1 if status == 200 else 0)
    await server.close()


async def test_explanations_and_feedback_are_passed_on(
    connect: Connect, service: FakeService
) -> None:
    """And answered as JSON."""
    client = await connect()
    feedback = Feedback(_KEY, None, False)

    status, _, content = await client.ask(post("/explain", LookUp(_KEY, "why?", 1).to_bytes()))
    assert (status, orjson.loads(content)) == (200, {"verdict": "why?"})
    status, _, content = await client.ask(post("/feedback", feedback.to_bytes()))
    assert (status, orjson.loads(content)) == (200, {"is_of_use": True})
    assert service.feedback == [feedback]


@pytest.mark.parametrize("path", ["/explain", "/feedback"])
async def test_what_operators_ask_wrongly_is_refused(connect: Connect, path: str) -> None:
    """And a store that is away is told."""
    client = await connect()

    status, _, content = await client.ask(post(path, b"{}"))
    assert (status, code(content)) == (400, "invalid_request")
    assert (await client.ask(get(path)))[0] == 405


async def test_store_that_is_away_is_told_to_operators(
    connect: Connect, service: FakeService
) -> None:
    """Worth another try."""
    service.is_store_down = True
    client = await connect()

    for request in (
        post("/explain", LookUp(_KEY, "why?", 1).to_bytes()),
        post("/feedback", Feedback(_KEY, None, True).to_bytes()),
    ):
        assert (await client.ask(request))[0] == 503
