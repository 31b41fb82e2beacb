"""One client's connection to the embedding process: HTTP/1.1, written for speed.

One task per request and nothing else. Requests are answered in order. What a client can make the
process hold is bounded: the header, the body, the requests that wait; the rest is not read.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol, cast

import httptools

from embeddings.service.endpoints import Answer, Endpoints, Refusal
from embeddings.wire import MOST_BODY_BYTES

_MOST_HEAD_BYTES: Final = 16 * 1024
_MOST_WAITING: Final = 8
"""Whole requests that may wait behind one that is being answered; beyond, none are read."""

_PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


class Host(Protocol):
    """Whose connection it is: a `Server`."""

    @property
    def is_closing(self) -> bool:
        """Whether the next answer is the last one."""
        ...

    def take(self, connection: "ServerConnection") -> bool:
        """Take a new connection, if there is room for it."""
        ...

    def let_go(self, connection: "ServerConnection") -> None:
        """Forget a connection that has ended."""
        ...


def _invalid() -> Refusal:
    return Refusal(400, "invalid_http", "This is not a valid HTTP request.")


def _too_large() -> Refusal:
    return Refusal(431, "header_too_large", "The header is too large.")


@dataclass(slots=True)
class _Request:
    path: bytes
    body: bytes
    refusal: Refusal | None
    """Set where the request is not answered but refused, and nothing is read after it."""
    is_last: bool


class ServerConnection(asyncio.Protocol):
    """One client."""

    def __init__(self, host: Host, endpoints: Endpoints) -> None:
        self._host = host
        self._endpoints = endpoints
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
        if not self._host.take(self):
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything; nobody waits for the answer any more (asyncio)."""
        self._transport = None
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
        self._host.let_go(self)

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
            if not isinstance(why, Refusal):
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
        self._endpoints.admit(self._parser.get_method(), self._url, self._authorization)
        if self._is_chunked:
            raise Refusal(411, "length_required", "The body needs a Content-Length.")
        if self._length > MOST_BODY_BYTES:
            raise Refusal(413, "body_too_large", f"At most {MOST_BODY_BYTES} bytes are taken.")

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

    def look(self, stall_s: float, idle_s: float) -> None:
        """End the connection if its client is too slow, or has not been heard of for long.

        Args:
            stall_s: The longest a request may take to arrive, and an answer to be fetched.
            idle_s: How long nothing may be asked.
        """
        now = self._loop.time()
        since = self._begun_at if self._stalled_since is None else self._stalled_since
        if since is not None:
            if now - since > stall_s:
                self.abort()
        elif now - self._last_used > idle_s:
            self.close_if_idle()

    def close_if_idle(self) -> None:
        """Close the connection if nothing has been asked."""
        if self._transport is not None and self._task is None and not self._waiting:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _refuse(self, why: Refusal) -> None:
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
            if request.refusal is not None:
                raise request.refusal
            answer = await self._endpoints.answer(request.path, request.body)
        except Refusal as refusal:
            answer = refusal.answer()
        self._task = None
        transport = self._transport
        if transport is None:
            return
        self._last_used = self._loop.time()
        is_last = request.is_last or self._host.is_closing
        transport.write(_to_bytes(answer, is_last))
        if is_last:
            transport.close()
        elif self._waiting:
            if len(self._waiting) < _MOST_WAITING:
                transport.resume_reading()
            self._go_on()


def _to_bytes(answer: Answer, is_last: bool) -> bytes:
    close = b"connection: close\r\n" if is_last else b""
    if answer.status == 204:  # has no content, and says nothing of it (RFC 9110 §8.6)
        return b"HTTP/1.1 204 No Content\r\n%b\r\n" % close
    return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n%b" % (
        answer.status,
        _PHRASES[answer.status],
        answer.kind,
        len(answer.content),
        answer.field,
        close,
        answer.content,
    )
