"""The embedding process' HTTP server, written for speed: one task per request and nothing else.

HTTP/1.1 on a UNIX socket (mode 0600: whoever may open it may ask) or on TCP (a bearer token).
Requests of one connection are answered in order. What it can be made to hold is bounded: the
header, the body, the connections, and the time that a request may take to arrive or an answer to
be fetched.
"""

import asyncio
import contextlib
import hmac
import logging
import os
import socket
import stat
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Protocol, cast

import httptools
import orjson

from embeddings.address import Address
from embeddings.batching import Busy
from embeddings.index import IndexUnavailable
from embeddings.source import SourceUnavailable
from embeddings.wire import MOST_BODY_BYTES, Found, LookUp, WireError, keys_from_bytes

logger = logging.getLogger("recollect.embeddings")

_MOST_HEAD_BYTES: Final = 16 * 1024
_MOST_CONNECTIONS: Final = 1024
_MOST_WAITING: Final = 8
"""Whole requests that may wait behind one that is being answered; beyond, none are read."""
_BACKLOG: Final = 1024

_LOOK_EVERY_S: Final = 1.0
_STALL_S: Final = 5.0
"""The longest a request may take to arrive, and an answer to be fetched."""
_IDLE_S: Final = 60.0
_DRAIN_S: Final = 1.0

_OCTETS: Final = b"application/octet-stream"
_JSON: Final = b"application/json"
_METRICS: Final = b"text/plain; version=0.0.4; charset=utf-8"

_METHODS: Final = {
    b"/look-up": b"POST",
    b"/add": b"POST",
    b"/remove": b"POST",
    b"/stats": b"GET",
    b"/healthz": b"GET",
    b"/metrics": b"GET",
}


class Service(Protocol):
    """What is served: an `Engine`."""

    async def look_up(self, partition: bytes, text: str, k: int) -> Found:
        """Return what is stored near `text`."""
        ...

    async def refresh(self, keys: Sequence[bytes]) -> None:
        """Look at `keys` in the store now."""
        ...

    async def forget(self, keys: Sequence[bytes]) -> None:
        """Let go of those among `keys` whose entry is gone."""
        ...

    async def stats(self) -> dict[str, Any]:
        """Return how much is held, as JSON."""
        ...


class _Refusal(Exception):
    """A request gets an error for an answer."""

    def __init__(self, status: int, code: str, message: str, field: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field  # one header field that the status asks for, with its line end


def _invalid() -> _Refusal:
    return _Refusal(400, "invalid_http", "This is not a valid HTTP request.")


def _too_large() -> _Refusal:
    return _Refusal(431, "header_too_large", "The header is too large.")


@dataclass(slots=True)
class _Request:
    path: bytes
    body: bytes
    refusal: _Refusal | None
    """Set where the request is not answered but refused, and nothing is read after it."""
    is_last: bool


class Server:
    """A running server; made by `serve`."""

    def __init__(
        self,
        current: Callable[[], Service],
        is_ready: Callable[[], bool],
        token: str | None,
        metrics: Callable[[], bytes],
    ) -> None:
        """Use `serve` instead."""
        self.current = current
        self.is_ready = is_ready
        self.metrics = metrics
        self.authorization = None if token is None else b"Bearer " + token.encode()
        self.is_closing = False
        self.address = Address()
        """Where it listens, with the port it really has."""
        self._listener: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._all_gone = asyncio.Event()
        self._look_timer: asyncio.TimerHandle | None = None

    async def listen(self, address: Address) -> None:
        """Begin to accept connections.

        Raises:
            OSError: The address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        listener = _bound(address)
        try:
            if address.socket_path:
                self._listener = await loop.create_unix_server(
                    lambda: _Connection(self), sock=listener, backlog=_BACKLOG
                )
                self.address = address
            else:
                self._listener = await loop.create_server(
                    lambda: _Connection(self), sock=listener, backlog=_BACKLOG
                )
                self.address = Address(host=address.host, port=listener.getsockname()[1])
        except BaseException:
            listener.close()
            raise
        self._look_timer = loop.call_later(_LOOK_EVERY_S, self._look)

    async def close(self) -> None:
        """Accept nothing more, answer what has been asked, within a moment, and end."""
        self.is_closing = True
        if self._look_timer is not None:
            self._look_timer.cancel()
        if self._listener is not None:
            self._listener.close()
            if self.address.socket_path:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.address.socket_path)
        for connection in list(self._connections):
            connection.close_if_idle()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_S):
                    await self._all_gone.wait()
        for connection in list(self._connections):
            connection.abort()

    def take(self, connection: "_Connection") -> bool:
        """Take a new connection, if there is room for it."""
        if self.is_closing or len(self._connections) >= _MOST_CONNECTIONS:
            return False
        self._connections.add(connection)
        return True

    def let_go(self, connection: "_Connection") -> None:
        """Forget a connection that has ended."""
        self._connections.discard(connection)
        if self.is_closing and not self._connections:
            self._all_gone.set()

    # One timer for all connections, not one for each request.

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._look_timer = loop.call_later(_LOOK_EVERY_S, self._look)
        for connection in list(self._connections):
            connection.look(loop.time())


async def serve(
    current: Callable[[], Service],
    address: str,
    token: str | None,
    metrics: Callable[[], bytes],
    is_ready: Callable[[], bool],
) -> Server:
    """Serve look-ups until the returned server is closed.

    Args:
        current: Returns the engine to ask now; called for each request.
        address: `unix:///path` or `http://host:port`, port 0 for a free one.
        token: What clients show as bearer token; None: none is asked for, as on a UNIX socket,
            where the file's mode decides.
        metrics: Returns what `/metrics` answers, in Prometheus' text format.
        is_ready: Whether the index has caught up once; told by `/healthz`.

    Raises:
        ValueError: `address` is none.
        OSError: It cannot be listened on.
    """
    server = Server(current, is_ready, token, metrics)
    await server.listen(Address.parse(address))
    return server


class _Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[_Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._last_used = self._loop.time()
        self._stalled_since: float | None = None  # the client does not fetch its answers
        self._begun_at: float | None = None  # a request has begun to come, and is not whole
        self._is_deaf = False  # nothing more is read
        self._is_in_head = True
        self._received_bytes = 0
        self._head_bytes = 0
        self._url = b""
        self._length = 0
        self._authorization = b""
        self._is_chunked = False
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the open connection (asyncio)."""
        # uvloop's transports are not declared to be asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)
        if not self._server.take(self):
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything; nobody waits for the answer any more (asyncio)."""
        self._transport = None
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
        self._server.let_go(self)

    def data_received(self, data: bytes) -> None:
        """Take what has come (asyncio)."""
        if self._is_deaf:
            return
        if self._begun_at is None:
            self._begun_at = self._loop.time()
        self._received_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            # What our own callbacks raise comes wrapped.
            why = error.__context__
            if not isinstance(why, _Refusal):
                raise
            self._refuse(why)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(_invalid())
        # A single endless field is handed over only at its end; until then the parser collects.
        if self._is_in_head and self._received_bytes > _MOST_HEAD_BYTES and not self._is_deaf:
            self._refuse(_too_large())

    def on_message_begin(self) -> None:
        """Start with the next request (httptools)."""
        self._is_in_head = True
        self._head_bytes = 0
        self._url = b""
        self._length = 0
        self._authorization = b""
        self._is_chunked = False
        self._body = []

    def on_url(self, url: bytes) -> None:
        """Take the target, or some of it (httptools)."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field (httptools)."""
        self._head_bytes += len(name) + len(value) + 4
        name = name.lower()
        if name == b"content-length":
            # The parser has made sure that it is a number, and no absurd one.
            self._length = int(value)
        elif name == b"authorization":
            self._authorization = value
        elif name == b"transfer-encoding":
            self._is_chunked = True

    def on_headers_complete(self) -> None:
        """Decide, before any of the body is kept, whether it is wanted (httptools)."""
        self._is_in_head = False
        if self._head_bytes + len(self._url) > _MOST_HEAD_BYTES:
            raise _too_large()
        if self._parser.should_upgrade():
            raise _invalid()
        method = _METHODS.get(self._url)
        expected = self._server.authorization
        if (
            expected is not None
            and self._url != b"/healthz"
            and not hmac.compare_digest(self._authorization, expected)
        ):
            field = b"www-authenticate: Bearer\r\n"
            raise _Refusal(401, "unauthorized", "The bearer token is missing or wrong.", field)
        if method is None:
            raise _Refusal(404, "not_found", "There is no such path.")
        if self._parser.get_method() != method:
            field = b"allow: %b\r\n" % method
            raise _Refusal(405, "method_not_allowed", "The path has another method.", field)
        if self._is_chunked:
            raise _Refusal(411, "length_required", "The body needs a Content-Length.")
        if self._length > MOST_BODY_BYTES:
            raise _Refusal(413, "body_too_large", f"At most {MOST_BODY_BYTES} bytes are taken.")

    def on_body(self, body: bytes) -> None:
        """Take some of the body (httptools)."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer the request, when its turn comes (httptools)."""
        self._begun_at = None
        self._received_bytes = 0
        self._is_in_head = True
        body = self._body
        self._put(
            _Request(
                self._url,
                body[0] if len(body) == 1 else b"".join(body),
                None,
                not self._parser.should_keep_alive(),
            )
        )

    def pause_writing(self) -> None:
        """Answer no more until the client has fetched what it was sent (asyncio)."""
        self._stalled_since = self._loop.time()

    def resume_writing(self) -> None:
        """Go on (asyncio)."""
        self._stalled_since = None
        self._go_on()

    def look(self, now: float) -> None:
        """End the connection if its client is too slow, or has not been heard of for long."""
        since = self._begun_at if self._stalled_since is None else self._stalled_since
        if since is not None:
            if now - since > _STALL_S:
                self.abort()
        elif now - self._last_used > _IDLE_S:
            self.close_if_idle()

    def close_if_idle(self) -> None:
        """Close the connection if nothing has been asked."""
        if self._transport is not None and self._task is None and not self._waiting:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _refuse(self, why: _Refusal) -> None:
        self._put(_Request(b"", b"", why, True))

    def _put(self, request: _Request) -> None:
        if self._is_deaf:
            return
        self._waiting.append(request)
        self._is_deaf = request.is_last
        self._go_on()
        if self._transport is not None and len(self._waiting) >= _MOST_WAITING:
            self._transport.pause_reading()

    def _go_on(self) -> None:
        """Begin to answer the next request, if it is its turn."""
        if self._waiting and self._task is None and self._stalled_since is None:
            self._task = self._loop.create_task(self._answer(self._waiting.popleft()))

    async def _answer(self, request: _Request) -> None:
        try:
            status, kind, body, field = await self._answered(request)
        except _Refusal as refusal:
            status, kind, body, field = _error(refusal)
        self._task = None
        transport = self._transport
        if transport is None:
            return
        self._last_used = self._loop.time()
        is_last = request.is_last or self._server.is_closing
        transport.write(_head(status, kind, len(body), field, is_last) + body)
        if is_last:
            transport.close()
        elif self._waiting:
            if len(self._waiting) < _MOST_WAITING:
                transport.resume_reading()
            self._go_on()

    async def _answered(self, request: _Request) -> tuple[int, bytes, bytes, bytes]:
        """Return status, content type, content and a field of the header.

        Raises:
            _Refusal: The answer is an error.
        """
        if request.refusal is not None:
            raise request.refusal
        service = self._server.current()
        try:
            match request.path:
                case b"/look-up":
                    look_up = LookUp.from_bytes(request.body)
                    found = await service.look_up(look_up.partition, look_up.text, look_up.k)
                    return 200, _OCTETS, found.to_bytes(), b""
                case b"/add":
                    await service.refresh(keys_from_bytes(request.body))
                    return 204, b"", b"", b""
                case b"/remove":
                    await service.forget(keys_from_bytes(request.body))
                    return 204, b"", b"", b""
                case b"/stats":
                    return 200, _JSON, orjson.dumps(await service.stats()), b""
                case b"/healthz":
                    ready = {"is_ready": self._server.is_ready()}
                    return 200, _JSON, orjson.dumps(ready), b""
                case _:
                    return 200, _METRICS, self._server.metrics(), b""
        except WireError as error:
            raise _Refusal(
                400, "invalid_request", f"The body is no such message: {error}."
            ) from None
        except Busy:
            raise _Refusal(503, "busy", "Too much waits to be encoded.") from None
        except IndexUnavailable as error:
            raise _Refusal(503, "index_unavailable", str(error)) from None
        except SourceUnavailable as error:
            raise _Refusal(503, "store_unavailable", str(error)) from None
        except Exception:
            # The last resort: one request's defect is not the end of its connection.
            logger.exception("a request failed by a defect")
            raise _Refusal(500, "defect", "This failed by a defect; the log has it.") from None


def _head(status: int, kind: bytes, length: int, field: bytes, is_last: bool) -> bytes:
    close = b"connection: close\r\n" if is_last else b""
    if status == 204:  # has no content, and says nothing of it (RFC 9110 §8.6)
        return b"HTTP/1.1 204 No Content\r\n%b\r\n" % close
    return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n" % (
        status,
        _PHRASES[status],
        kind,
        length,
        field,
        close,
    )


_PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


def _error(refusal: _Refusal) -> tuple[int, bytes, bytes, bytes]:
    kind = "invalid_request_error" if refusal.status < 500 else "api_error"
    envelope = {"error": {"message": str(refusal), "type": kind, "code": refusal.code}}
    return refusal.status, _JSON, orjson.dumps(envelope), refusal.field


def _bound(address: Address) -> socket.socket:
    """Return a socket bound to `address`; of a UNIX socket only this user may open the file."""
    if address.socket_path:
        _remove_dead_socket(address.socket_path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        where: Any = address.socket_path
    else:
        family, _, _, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(where)
        if address.socket_path:
            # Before listen(): until then nobody can connect, whatever the mode.
            os.chmod(address.socket_path, 0o600)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_dead_socket(path: str) -> None:
    """Remove the socket of a process that was killed; leave one that answers, and other files."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
