"""The upstream client against servers that do what a test tells them, byte for byte."""

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from proxy.upstreams.upstream import (
    Answer,
    Limits,
    UnsendableHeader,
    Upstream,
    UpstreamCut,
    UpstreamTimeout,
    UpstreamUnreachable,
    end_to_end,
)

LIMITS = Limits(connect_s=5.0, first_byte_s=5.0, idle_s=5.0, connections=10)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

Talk = Callable[["Request", asyncio.StreamWriter], Awaitable[None]]


class Request:
    """One request as it stood on the wire."""

    def __init__(self, head: bytes, content: bytes) -> None:
        self.head = head
        self.content = content
        self.line, *fields = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        self.fields = [(name, value) for name, _, value in (f.partition(b": ") for f in fields)]

    def all(self, name: bytes) -> list[bytes]:
        """Return every value of a field."""
        return [value for key, value in self.fields if key.lower() == name]


class Server:
    """Reads requests; each is answered by the test's own coroutine."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self.requests: list[Request] = []
        self.connections = 0
        self.closed = asyncio.Event()
        """Set when a client closes a connection."""
        self._came = asyncio.Condition()
        self.port = 0

    async def listen(self, tls: ssl.SSLContext | None = None) -> None:
        """Listen on a port of the kernel's choice."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def has(self, requests: int) -> None:
        """Wait until so many requests have come."""
        async with self._came:
            await self._came.wait_for(lambda: len(self.requests) >= requests)

    async def close(self) -> None:
        """Close all connections."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                request = Request(head, await _content(head, reader))
                self.requests.append(request)
                async with self._came:
                    self._came.notify_all()
                await self._talk(request, writer)
                await writer.drain()
        self.closed.set()
        writer.close()


async def _content(head: bytes, reader: asyncio.StreamReader) -> bytes:
    lowered = head.lower()
    if b"transfer-encoding: chunked" in lowered:
        content = b""
        while size := int((await reader.readline()).strip(), 16):
            content += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return content
    _, found, rest = lowered.partition(b"content-length: ")
    return await reader.readexactly(int(rest.split(b"\r\n")[0])) if found else b""


def says(*pieces: bytes, then: str = "") -> Talk:
    """Answer with `pieces`, then "close" or "hang" or wait for the next request."""

    async def talk(request: Request, writer: asyncio.StreamWriter) -> None:
        for place, piece in enumerate(pieces):
            if place:
                await asyncio.sleep(0.05)  # else both would travel in one packet
            writer.write(piece)
            await writer.drain()
        if then == "close":
            writer.close()
        elif then == "hang":
            await asyncio.Event().wait()

    return talk


Connect = Callable[..., Awaitable[tuple[Upstream, Server]]]


@pytest_asyncio.fixture
async def connect() -> AsyncIterator[Connect]:
    """Start a server and an upstream that talks to it."""
    started: list[tuple[Upstream, Server]] = []

    async def start(
        talk: Talk,
        *,
        host: str = "127.0.0.1",
        base: str = "",
        limits: Limits = LIMITS,
        api_key: str | None = None,
    ) -> tuple[Upstream, Server]:
        server = Server(talk)
        await server.listen()
        base_url = f"http://{host}:{server.port}{base}"
        upstream = Upstream(base_url, api_key=api_key, limits=limits)
        upstream.start()
        started.append((upstream, server))
        return upstream, server

    yield start
    for upstream, server in started:
        await upstream.stop()
        await server.close()


async def send(upstream: Upstream, method: str = "POST", **given: Any) -> Answer:
    """Send a request; what is not given has a plain default."""
    request: dict[str, Any] = {"path": "/x", "query": "", "headers": [], "content": b"{}", **given}
    return await upstream.send(
        method, request["path"], request["query"], request["headers"], request["content"]
    )


async def read(answer: Answer, got: list[bytes] | None = None) -> bytes:
    """Read an answer to its end; `got` keeps what comes before it breaks off."""
    pieces = [] if got is None else got
    try:
        async for piece in answer.pieces():
            pieces.append(piece)
    finally:
        answer.close()
    return b"".join(pieces)


# What goes out.


@pytest.mark.parametrize(
    ("base", "path", "query", "target"),
    [
        ("", "/chat/completions", "", b"/v1/chat/completions"),
        ("/", "/models", "", b"/v1/models"),
        ("/v1", "/models", "", b"/v1/models"),
        ("/v1/", "/models", "", b"/v1/models"),
        ("/openai/v1", "/models", "", b"/openai/v1/models"),
        ("/a%20b", "/models", "", b"/a%20b/models"),
        ("", "/files/a%2Fb%20c%7E", "", b"/v1/files/a%2Fb%20c%7E"),
        ("", "/files/~a'(b)*!", "", b"/v1/files/~a'(b)*!"),
        ("", "/m", "q=%7E+x&b=&a=1&a=2;c", b"/v1/m?q=%7E+x&b=&a=1&a=2;c"),
        ("", "/m", "q=a%2Bb%26&x=?/", b"/v1/m?q=a%2Bb%26&x=?/"),
        ("", "//double///slash", "", b"/v1//double///slash"),
    ],
)
async def test_target_is_what_the_client_sent_under_the_base(
    base: str, path: str, query: str, target: bytes, connect: Connect
) -> None:
    """Promise 3: query strings and percent-encoding are nobody's to tidy up."""
    upstream, server = await connect(says(OK), base=base)

    await read(await send(upstream, path=path, query=query))

    assert server.requests[0].line == b"POST " + target + b" HTTP/1.1"


async def test_nothing_is_added_to_a_request_but_what_http_demands(connect: Connect) -> None:
    """Promise 3: no agent, no accepted codings, no content type of our own."""
    upstream, server = await connect(says(OK))

    await read(await send(upstream, headers=[(b"x-own", b"1"), (b"x-own", b"2")]))

    (request,) = server.requests
    names = [name.lower() for name, _ in request.fields]
    assert sorted(names) == [b"content-length", b"host", b"x-own", b"x-own"]
    assert request.all(b"x-own") == [b"1", b"2"]
    assert request.all(b"host") == [f"127.0.0.1:{server.port}".encode()]
    assert request.content == b"{}"


async def test_fields_between_two_hops_do_not_go_on(connect: Connect) -> None:
    """RFC 9110 §7.6.1 and promise 20: hop-by-hop, nominated, proxy's, and cookies."""
    kept = [(b"accept", b"*/*"), (b"authorization", b"Bearer key"), (b"x-kept", "é".encode())]
    dropped = [
        (b"host", b"evil.example"),
        (b"connection", b"close, X-Nominated"),
        (b"connection", b"x-other"),
        (b"x-nominated", b"1"),
        (b"X-Other", b"1"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"close"),
        (b"te", b"trailers"),
        (b"trailer", b"x"),
        (b"upgrade", b"websocket"),
        (b"transfer-encoding", b"chunked"),
        (b"proxy-authorization", b"Basic secret"),
        (b"cookie", b"session=secret"),
        (b"expect", b"100-continue"),
        (b"content-length", b"999"),
    ]
    upstream, server = await connect(says(OK))

    await read(await send(upstream, headers=[*dropped, *kept]))

    (request,) = server.requests
    own = (b"host", b"content-length")
    assert [f for f in request.fields if f[0].lower() not in own] == kept
    assert request.all(b"content-length") == [b"2"]
    assert b"evil" not in request.head
    assert b"secret" not in request.head


async def test_clients_credential_is_passed_on(connect: Connect) -> None:
    """Issue §4."""
    upstream, server = await connect(says(OK))
    credentials = [(b"authorization", b"Bearer a"), (b"x-api-key", b"b"), (b"api-key", b"c")]

    await read(await send(upstream, headers=credentials))

    assert [f for f in server.requests[0].fields if f in credentials] == credentials


async def test_clients_credential_is_replaced_by_the_configured_one(connect: Connect) -> None:
    """None of the client's own is seen upstream, under whatever name it came."""
    upstream, server = await connect(says(OK), api_key="configured")
    credentials = [(b"Authorization", b"Bearer a"), (b"X-API-Key", b"b"), (b"api-key", b"c")]

    await read(await send(upstream, headers=credentials))

    (request,) = server.requests
    assert request.all(b"authorization") == [b"Bearer configured"]
    assert not request.all(b"x-api-key")
    assert not request.all(b"api-key")


async def test_configured_credential_is_sent_where_the_client_has_none(connect: Connect) -> None:
    """Applications then need no key at all."""
    upstream, server = await connect(says(OK), api_key="configured")

    await read(await send(upstream))

    assert server.requests[0].all(b"authorization") == [b"Bearer configured"]


async def test_header_that_is_not_utf8_is_refused_before_anything_is_sent(
    connect: Connect,
) -> None:
    """The client library would change its bytes."""
    upstream, server = await connect(says(OK))

    with pytest.raises(UnsendableHeader):
        await send(upstream, headers=[(b"x-name", b"caf\xe9")])

    assert not server.requests


async def test_upload_goes_out_as_it_comes(connect: Connect) -> None:
    """With its stated length, or in chunks where none was stated."""
    upstream, server = await connect(says(OK))

    async def content() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    await read(await send(upstream, headers=[(b"content-length", b"7")], content=content()))
    await read(await send(upstream, content=content()))
    await read(await send(upstream, "GET", content=None))

    stated, chunked, none = server.requests
    assert [r.content for r in server.requests] == [b"one two", b"one two", b""]
    assert stated.all(b"content-length") == [b"7"]
    assert not stated.all(b"transfer-encoding")
    assert chunked.all(b"transfer-encoding") == [b"chunked"]
    assert not none.all(b"content-length")
    assert not none.all(b"transfer-encoding")


# What comes back.


async def test_answer_comes_back_as_it_stood_on_the_wire(connect: Connect) -> None:
    """Promise 3: status, fields in their order and the content in its coding."""
    content = b"\x1f\x8b not really gzip"
    head = (
        b"HTTP/1.1 207 Odd\r\nX-B: 1\r\nx-a: 2\r\nX-B: 3\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
        b"Content-Encoding: gzip\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    upstream, _ = await connect(says(head % len(content) + content))

    answer = await send(upstream)

    assert answer.status == 207
    assert answer.headers == [
        (b"x-b", b"1"),
        (b"x-a", b"2"),
        (b"x-b", b"3"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"content-encoding", b"gzip"),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(content)),
    ]
    assert await read(answer) == content


async def test_answers_fields_between_two_hops_do_not_come_back(connect: Connect) -> None:
    """RFC 9110 §7.6.1, the other way."""
    head = (
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Private\r\nX-Private: 1\r\n"
        b"Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\n"
        b"Transfer-Encoding: chunked\r\nX-Kept: 1\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    )
    upstream, _ = await connect(says(head))

    answer = await send(upstream)

    assert answer.headers == [(b"x-kept", b"1")]
    assert await read(answer) == b"ok"


async def test_pieces_come_as_they_were_sent(connect: Connect) -> None:
    """A stream's first event does not wait for the second."""
    more = asyncio.Event()

    async def talk(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await writer.drain()
        await more.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

    upstream, _ = await connect(talk)
    answer = await send(upstream)
    pieces = answer.pieces()

    assert await anext(pieces) == b"one"
    more.set()
    assert await anext(pieces) == b"two"
    await pieces.aclose()
    answer.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_the_clients_to_follow(status: int, connect: Connect) -> None:
    """Promise 17 [LiteLLM followed a 307 with the prompt]."""
    upstream, server = await connect(
        says(b"HTTP/1.1 %d Moved\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n" % status)
    )

    answer = await send(upstream)

    assert answer.status == status
    assert (b"location", b"/elsewhere") in answer.headers
    await read(answer)
    assert len(server.requests) == 1


async def test_no_cookie_is_kept(connect: Connect) -> None:
    """Promise 17 [LiteLLM sent one caller's upstream cookie with the others' requests]."""
    # By name: jars keep no cookies of servers known by their number alone.
    upstream, server = await connect(
        says(b"HTTP/1.1 200 OK\r\nset-cookie: a=1; Path=/\r\ncontent-length: 2\r\n\r\nok"),
        host="localhost",
    )

    for _ in range(2):
        await read(await send(upstream))

    assert not server.requests[1].all(b"cookie")


async def test_proxies_of_the_environment_are_not_used(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 17: addresses come from configuration only."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    upstream, server = await connect(says(OK))

    assert await read(await send(upstream)) == b"ok"
    assert len(server.requests) == 1


# Connections.


async def test_connection_is_used_again(connect: Connect) -> None:
    """HTTP keep-alive, after an answer that was read to its end."""
    upstream, server = await connect(says(OK))

    for _ in range(3):
        await read(await send(upstream))

    assert server.connections == 1


async def test_connection_of_an_answer_half_read_is_closed(connect: Connect) -> None:
    """Promise 11: what is left in it must not become the next one's answer."""
    upstream, server = await connect(
        says(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", then="hang")
    )
    answer = await send(upstream)
    pieces = answer.pieces()
    assert await anext(pieces) == b"half"
    await pieces.aclose()

    answer.close()
    other = await send(upstream)

    assert server.connections == 2
    other.close()


async def test_cancelled_request_closes_its_connection(connect: Connect) -> None:
    """Promises 9 and 11."""

    async def mute(request: Request, writer: asyncio.StreamWriter) -> None:
        return

    upstream, server = await connect(mute)
    sending = asyncio.ensure_future(send(upstream))
    await server.has(1)

    sending.cancel()

    async with asyncio.timeout(5):
        await server.closed.wait()
    with pytest.raises(asyncio.CancelledError):
        await sending


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
async def test_request_lost_on_a_used_connection_is_not_sent_twice(
    method: str, connect: Connect
) -> None:
    """Promise 15: one try, whatever the method: whether to try again is the client's to say."""
    upstream: Upstream

    async def talk(request: Request, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 1:
            writer.write(OK)
        else:
            writer.close()

    upstream, server = await connect(talk)
    await read(await send(upstream, method))

    with pytest.raises(UpstreamUnreachable):
        await send(upstream, method)

    assert len(server.requests) == 2


async def test_pool_is_as_large_as_configured(connect: Connect) -> None:
    """The next request waits its turn."""
    gate = asyncio.Event()

    async def talk(request: Request, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.write(OK)

    upstream, server = await connect(talk, limits=Limits(5, 5, 5, connections=2))
    sending = [asyncio.ensure_future(send(upstream)) for _ in range(3)]
    await server.has(2)
    await asyncio.sleep(0.05)
    assert len(server.requests) == 2
    gate.set()

    for task in sending:
        assert await read(await task) == b"ok"


# Failures.


async def test_refused_connection_is_unreachable() -> None:
    """502, at once."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        upstream = Upstream(
            f"http://127.0.0.1:{unused.getsockname()[1]}", api_key=None, limits=LIMITS
        )
        upstream.start()
        with pytest.raises(UpstreamUnreachable):
            await send(upstream)
        await upstream.stop()


@pytest.mark.parametrize(
    "talk",
    [
        says(then="close"),
        says(b"HTTP/1.1 200", then="close"),
        says(b"no HTTP at all\r\n\r\n", then="close"),
        says(b"HTTP/1.1 200 OK\r\nx-large: " + b"x" * 70_000 + b"\r\n\r\n"),
    ],
    ids=["nothing", "half a head", "no HTTP", "endless field"],
)
async def test_connection_without_a_sound_head_is_unreachable(talk: Talk, connect: Connect) -> None:
    """There is no answer to pass on; a header is bounded in both directions."""
    upstream, _ = await connect(talk)

    with pytest.raises(UpstreamUnreachable):
        await send(upstream)


async def test_large_field_within_the_limit_is_passed_on(connect: Connect) -> None:
    """A token of 60 KB is unusual, not wrong."""
    upstream, _ = await connect(
        says(b"HTTP/1.1 200 OK\r\nx-large: " + b"x" * 60_000 + b"\r\ncontent-length: 0\r\n\r\n")
    )

    answer = await send(upstream)

    assert len(dict(answer.headers)[b"x-large"]) == 60_000
    await read(answer)


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", b"no size\r\n"),
    ],
    ids=["short of its length", "no last chunk", "a broken chunk"],
)
async def test_content_that_breaks_off_is_a_cut(
    pieces: tuple[bytes, ...], connect: Connect
) -> None:
    """Promise 2: what came is passed on, and then the cut."""
    upstream, _ = await connect(says(*pieces, then="close"))
    got: list[bytes] = []

    with pytest.raises(UpstreamCut):
        await read(await send(upstream), got)

    assert got == [b"half"]


async def test_content_that_ends_with_its_connection_is_whole(connect: Connect) -> None:
    """RFC 9112 §6.3: there is no length to fall short of."""
    upstream, _ = await connect(says(b"HTTP/1.1 200 OK\r\n\r\nall of it", then="close"))

    assert await read(await send(upstream)) == b"all of it"


async def test_connecting_has_a_deadline() -> None:
    """Issue §4. A listener with a full queue answers no connection."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        upstream = Upstream(
            f"http://127.0.0.1:{address[1]}", api_key=None, limits=Limits(0.1, 30.0, 30.0, 10)
        )
        upstream.start()
        async with asyncio.timeout(10):
            with pytest.raises(UpstreamTimeout):
                await send(upstream)
        await upstream.stop()
        for filler in fillers:
            filler.close()


async def test_first_byte_has_a_deadline(connect: Connect) -> None:
    """Issue §4: and the connection is closed, so that nothing goes on up there."""

    async def mute(request: Request, writer: asyncio.StreamWriter) -> None:
        return

    upstream, server = await connect(mute, limits=Limits(5.0, 0.1, 30.0, 10))

    async with asyncio.timeout(10):
        with pytest.raises(UpstreamTimeout):
            await send(upstream)
        await server.closed.wait()


async def test_pause_within_the_content_has_a_deadline(connect: Connect) -> None:
    """Issue §4: counted from the last byte, not from the first."""

    async def talk(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(6):
            writer.write(b"1\r\nx\r\n")
            await writer.drain()
            await asyncio.sleep(0.1)

    upstream, server = await connect(talk, limits=Limits(5.0, 5.0, 0.3, 10))
    got: list[bytes] = []

    async with asyncio.timeout(10):
        with pytest.raises(UpstreamTimeout):
            await read(await send(upstream), got)
        await server.closed.wait()

    assert b"".join(got) == b"xxxxxx"


async def test_time_a_client_takes_is_not_the_upstreams_pause(connect: Connect) -> None:
    """Promise 13: a slow reader's stream is not cut by a deadline of the upstream's."""
    upstream, _ = await connect(
        says(
            b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\none",
            b"two",
        ),
        limits=Limits(5.0, 5.0, 0.1, 10),
    )
    answer = await send(upstream)
    got = b""

    async for piece in answer.pieces():
        got += piece
        await asyncio.sleep(0.3)

    assert got == b"onetwo"
    answer.close()


async def test_sending_before_start_is_a_mistake_of_the_caller() -> None:
    """Said plainly."""
    upstream = Upstream("http://127.0.0.1:1", api_key=None, limits=LIMITS)

    with pytest.raises(RuntimeError, match="before start"):
        await send(upstream)
    await upstream.stop()


# TLS.


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


async def test_upstream_over_tls_is_trusted_by_the_configured_authority_alone(
    certificate: tuple[Path, Path],
) -> None:
    """`upstream.ca_file` takes the place of the system's authorities."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    server = Server(says(OK))
    await server.listen(tls)
    base_url = f"https://localhost:{server.port}"
    trusting = Upstream(base_url, api_key=None, limits=LIMITS, ca_file=certificate[0])
    doubting = Upstream(base_url, api_key=None, limits=LIMITS)
    for upstream in (trusting, doubting):
        upstream.start()

    assert await read(await send(trusting)) == b"ok"
    with pytest.raises(UpstreamUnreachable):
        await send(doubting)

    for upstream in (trusting, doubting):
        await upstream.stop()
    await server.close()


def test_nominated_fields_are_left_out_whatever_their_case() -> None:
    """RFC 9110 §7.6.1: names of fields and options are case-insensitive."""
    headers = [(b"CONNECTION", b" X-One ,x-two"), (b"x-ONE", b"1"), (b"X-Two", b"2"), (b"A", b"b")]

    assert end_to_end(headers, frozenset({b"connection"})) == [(b"a", b"b")]
