"""One request and its answer on the wire: ASGI in, ASGI out, and the fields we add.

The fields are the standards' own: `Cache-Status` (RFC 9211), `Age` (RFC 9111 §5.1), and
`x-request-id`, kept where the client or the upstream set one.
"""

import asyncio
import hmac
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from email.utils import formatdate
from typing import Any, Final
from urllib.parse import quote_from_bytes

from proxy.errors import ErrorAnswer
from proxy.metrics import Outcome
from proxy.wire.fields import by_name

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_PRINTABLE: Final = "".join(map(chr, range(0x21, 0x7F)))
_REQUEST_ID_BYTES: Final = 16
_MAX_REQUEST_ID_BYTES: Final = 128


class BodyTooLarge(Exception):
    """The request's content is over the limit."""


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


class Exchange:
    """One HTTP request and the sending of its answer.

    Attributes:
        headers: The request's header fields, names in lower case.
        named: The same by name; the lines of a repeated field in one.
        endpoint: The label that metrics and logs carry.
        outcome: How it was answered, for metrics and logs.
        status: The status code sent, 0 before that.
        cache_status: What `Cache-Status` said.
        began: When its handling began, on the performance counter.
    """

    __slots__ = (
        "_content_read",
        "_receive",
        "_send",
        "began",
        "cache_status",
        "endpoint",
        "headers",
        "named",
        "outcome",
        "scope",
        "status",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, endpoint: str) -> None:
        self.scope = scope
        self.headers: Headers = scope["headers"]
        self.named = by_name(self.headers)
        self.endpoint = endpoint
        self.outcome = Outcome.GONE
        self.status = 0
        self.cache_status = b""
        self.began = time.perf_counter()
        self._content_read = asyncio.Event()
        self._receive = receive
        self._send = send

    @property
    def path(self) -> str:
        """The path as the client sent it, percent-encoding and all."""
        return _on_the_wire(self.scope["raw_path"])

    @property
    def target(self) -> bytes:
        """The path and query, to the byte."""
        path: bytes = self.scope["raw_path"]
        query: bytes = self.scope["query_string"]
        return path + b"?" + query if query else path

    @property
    def query(self) -> str:
        """The raw query string."""
        return _on_the_wire(self.scope["query_string"])

    @property
    def request_id(self) -> bytes:
        """The client's own request id, else a new one."""
        return request_id(self.named)

    # The request's content.

    async def body(self, max_bytes: int) -> bytes:
        """Return the whole content.

        Raises:
            BodyTooLarge: It is longer than `max_bytes`, said or seen.
            ClientGone: The client left.
        """
        stated = self.named.get(b"content-length")
        # The HTTP parser has refused a length that is no number.
        if stated is not None and int(stated) > max_bytes:
            raise BodyTooLarge
        # Nearly every request comes in one piece; the loop below is for the others.
        message = await self._receive()
        first: bytes = message.get("body", b"")
        if message["type"] == "http.disconnect":
            raise ClientGone
        if len(first) > max_bytes:
            raise BodyTooLarge
        if not message.get("more_body", False):
            self._content_read.set()
            return first
        parts, total = [first], len(first)
        async for piece in self.body_pieces():
            parts.append(piece)
            total += len(piece)
            if total > max_bytes:
                raise BodyTooLarge
        return b"".join(parts)

    async def body_pieces(self) -> AsyncIterator[bytes]:
        """Yield the content as it comes.

        Raises:
            ClientGone: The client left.
        """
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            if message["body"]:
                yield message["body"]
            if not message.get("more_body", False):
                self._content_read.set()
                return

    def has_no_content(self) -> None:
        """Note that there is no content to wait for."""
        self._content_read.set()

    async def gone(self) -> None:
        """Return when the client has left; its content must have been received before that."""
        await self._content_read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    # The answer.

    async def begin(self, status: int, headers: Headers) -> None:
        """Send the answer's head."""
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, piece: bytes) -> None:
        """Send some of the answer's content."""
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self, piece: bytes = b"") -> None:
        """Send the last of the answer's content."""
        await self._send({"type": "http.response.body", "body": piece})

    async def refuse(self, error: ErrorAnswer, outcome: Outcome) -> None:
        """Answer with an error of our own."""
        self.outcome = outcome
        content = error.content()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(content)),
            (b"date", http_date()),
            (b"x-request-id", self.request_id),
            *error.headers,
        ]
        if self.cache_status:
            headers += [(b"cache-status", self.cache_status), (b"age", b"0")]
        await self.begin(error.status, headers)
        await self.end(content)

    def forwarded_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Return an upstream's fields with ours added."""
        answer = list(headers)
        names = {name for name, _ in answer}
        answer.append((b"cache-status", self.cache_status))
        if b"age" not in names:
            answer.append((b"age", b"0"))
        if b"x-request-id" not in names:
            answer.append((b"x-request-id", self.request_id))
        return answer


class watching:
    """Cancel the block when the client leaves; then raise ClientGone in its place."""

    __slots__ = ("_exchange", "_is_gone", "_is_over", "_task", "_watch")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._is_gone = False
        self._is_over = False

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        self._watch = asyncio.get_running_loop().create_task(self._exchange.gone())
        self._watch.add_done_callback(self._leave)

    def _leave(self, watch: "asyncio.Task[None]") -> None:
        if not watch.cancelled() and self._task is not None and not self._is_over:
            self._is_gone = True
            self._task.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # The callback may be scheduled already.
        self._is_over = True
        self._watch.cancel()
        if not self._is_gone or self._task is None or kind is not asyncio.CancelledError:
            return
        # Cancelled by others too (the server is ending): then that goes on.
        if self._task.uncancel() == 0:
            raise ClientGone


def _on_the_wire(raw: bytes) -> str:
    # Bytes that a target should not hold (RFC 3986 §2.1) travel on percent-encoded.
    return raw.decode() if raw.isascii() else quote_from_bytes(raw, safe=_PRINTABLE)


def request_id(named: Mapping[bytes, bytes]) -> bytes:
    """Return the request id among a client's header fields, else a new one."""
    given = named.get(b"x-request-id")
    if given and len(given) <= _MAX_REQUEST_ID_BYTES:
        return given
    return os.urandom(_REQUEST_ID_BYTES).hex().encode()


_date_second = 0
_date_text = b""


def shows_token(named: Mapping[bytes, bytes], token: str) -> bool:
    """Return whether a request's header fields show `token` as a bearer token (RFC 6750 §2.1)."""
    scheme, _, given = named.get(b"authorization", b"").partition(b" ")
    is_right = hmac.compare_digest(given.strip(), token.encode())
    return scheme.lower() == b"bearer" and is_right


def http_date() -> bytes:
    """Return the current Date field, made once a second (RFC 9110 §6.6.1)."""
    global _date_second, _date_text
    second = int(time.time())
    if second != _date_second:
        _date_second, _date_text = second, formatdate(second, usegmt=True).encode()
    return _date_text
