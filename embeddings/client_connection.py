"""One HTTP/1.1 connection of a worker to the embedding process: bytes out, an answer in.

One request at a time, whose answer is handed over only when it is whole and nothing follows it.
Whatever else comes ends the connection for good. Deadlines are the caller's: it ends a connection
on which it waits no longer (`end`), so that a late answer is never taken for another's.

Imports nothing heavy: workers use it.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Literal, cast

import httptools

from embeddings.wire import MOST_BODY_BYTES

EndedKind = Literal["deadline", "down", "protocol"]

_MOST_ANSWER_BYTES: Final = MOST_BODY_BYTES + 16 * 1024


class Ended(Exception):
    """The connection ended before the answer was whole."""

    def __init__(self, kind: EndedKind, reason: str) -> None:
        super().__init__(reason)
        self.kind: EndedKind = kind
        self.reason = reason


class ClientConnection(asyncio.Protocol):
    """One request at a time; ends for good at the first thing that is not as it should be.

    Attributes:
        has_answered: Whether any byte of the current answer has come.
        is_reusable: Whether another request may follow.
    """

    def __init__(self, on_end: Callable[["ClientConnection"], None]) -> None:
        self._on_end = on_end
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._content: list[bytes] = []
        self._received_bytes = 0
        self._is_whole = False
        self._has_ended = False
        self.has_answered = False
        self.is_reusable = False

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Send a request; the future is the answer's status and content, or fails with Ended."""
        self._answer = asyncio.get_running_loop().create_future()
        self._received_bytes = 0
        self._is_whole = self.has_answered = self.is_reusable = False
        if self._transport is None or self._has_ended:
            self._answer.set_exception(Ended("down", "connection closed"))
        else:
            self._transport.write(request)
        return self._answer

    def end(self, reason: str, kind: EndedKind = "down") -> None:
        """End the connection at once."""
        if self._has_ended:
            return
        self._has_ended = True
        self.is_reusable = False
        if self._transport is not None:
            self._transport.abort()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Ended(kind, reason))
        self._on_end(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the open connection (asyncio)."""
        # uvloop's transports are not declared to be asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)
        if self._has_ended:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Learn that the connection is closed (asyncio)."""
        self.end("connection closed")

    def data_received(self, data: bytes) -> None:
        """Take some of the answer (asyncio)."""
        answer = self._answer
        if answer is None or answer.done():
            self.end("something came that nobody asked for", "protocol")
            return
        self.has_answered = True
        self._received_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.end("not a valid HTTP answer", "protocol")
            return
        if self._is_whole:
            # Only now: behind the answer, in the same bytes, something else may have come.
            content = self._content
            whole = content[0] if len(content) == 1 else b"".join(content)
            answer.set_result((self._parser.get_status_code(), whole))
        elif self._received_bytes > _MOST_ANSWER_BYTES:
            self.end("the answer is too long", "protocol")

    def on_message_begin(self) -> None:
        """Start with an answer (httptools)."""
        if self._is_whole:
            raise ValueError("a second answer")
        self._content = []

    def on_body(self, body: bytes) -> None:
        """Take some of its content (httptools)."""
        self._content.append(body)

    def on_message_complete(self) -> None:
        """End the answer (httptools)."""
        self._is_whole = True
        self.is_reusable = self._parser.should_keep_alive()
