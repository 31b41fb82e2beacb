"""What this server asks of HTTP/1.1 beyond uvicorn.

A limit on the header and the trailer, which uvicorn's parser takes at any length. Our error form
for what is no HTTP. And a gentle end: uvicorn closes idle connections the moment it is told to
end, under requests that are on their way.
"""

from typing import Final

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from proxy.errors import ErrorAnswer

_READ_BYTES: Final = 262144
"""The most that is read at once."""

_LAST_REQUEST_S: Final = 0.5
"""How long a client that has just sent a request may still be heard while draining."""


class _Dropped(list[tuple[bytes, bytes]]):
    """Where trailer fields go: they must not be taken for header fields (RFC 9110 §6.5.1)."""

    def append(self, _: tuple[bytes, bytes]) -> None:
        """Drop a field."""


_TRAILER: Final = _Dropped()


class LimitedProtocol(HttpToolsProtocol):
    """One connection, with a limit on the size of a request's header.

    Attributes:
        max_header_bytes: The most bytes a request's target and header fields may have together.
    """

    max_header_bytes: int
    _received_bytes = 0
    _read_bytes = 0
    _is_in_header = False
    _may_be_trailer = False
    _is_draining = False
    _is_header_too_large = False
    _last_used = 0.0
    _running: RequestResponseCycle | None = None

    # The header's size is looked at only when as many bytes have come as it may have: a callback
    # for each field would cost more than the rest of a hit.

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        self._read_bytes = len(data)
        self._received_bytes += len(data)
        super().data_received(data)
        # A single endless field is handed over only at its end; until then the parser collects.
        if self._received_bytes > self.max_header_bytes + _READ_BYTES and (
            self._is_in_header or self._may_be_trailer
        ):
            self._is_header_too_large = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """Start with the next request."""
        self._is_in_header = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Check the header, and go over to the content."""
        self.end_header()
        self.begin_request()

    def begin_request(self) -> None:
        """Hand the request to the application, once its header has ended."""
        super().on_headers_complete()
        if self._is_draining:
            self.cycle.keep_alive = False

    def end_header(self) -> None:
        """Check the header's size, and take no more fields into it.

        Raises:
            ValueError: It is too large. The parser turns that into an error of its own, which
                ends in `send_400_response`, and reads no further.
        """
        self._is_in_header = False
        if self._received_bytes > self.max_header_bytes:
            fields_bytes = sum(len(name) + len(value) + 4 for name, value in self.headers)
            if len(self.url) + fields_bytes > self.max_header_bytes:
                self._is_header_too_large = True
                raise ValueError("header too large")
        self.headers = _TRAILER

    def on_chunk_header(self) -> None:
        """Note that the trailer begins here, if the chunk is the last one: it has no content."""
        self._may_be_trailer = True
        self._received_bytes = 0

    def on_body(self, body: bytes) -> None:
        """Take some of the content."""
        self._may_be_trailer = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Go over to the next request."""
        self.end_message()
        super().on_message_complete()

    def end_message(self) -> None:
        """Count anew; what was read together with this request's end may be the next one's."""
        self._may_be_trailer = False
        self._received_bytes = self._read_bytes

    # One timer per connection that looks when it was last used, not one per answer.

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for it."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._last_used = self.loop.time()
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self.timeout_keep_alive_task is None:
            self._look_later(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle for long enough."""
        self.timeout_keep_alive_task = None
        if self.transport.is_closing():
            return
        idle_s = self.loop.time() - self._last_used
        if not self._is_idle() or self._is_in_header:
            self._look_later(self.timeout_keep_alive)
        elif idle_s < self.timeout_keep_alive:
            self._look_later(self.timeout_keep_alive - idle_s)
        else:
            self.transport.close()

    def _look_later(self, wait_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(wait_s, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        """Leave the timer alone: uvicorn would cancel and renew it with every request."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        # uvicorn tells the newest request only; the one being answered may be an older one.
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Answer what comes within a moment with `Connection: close`; then close, if idle."""
        self._is_draining = True
        if self._is_answering():
            self.cycle.keep_alive = False
        else:
            self.loop.call_later(_LAST_REQUEST_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._is_idle() and not self.transport.is_closing():
            self.transport.close()

    def _is_idle(self) -> bool:
        return not self._is_answering()

    def _is_answering(self) -> bool:
        # None before the first request, whatever its declared type says.
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser could not read, and close; never in the midst of an answer."""
        if self.transport.is_closing():
            return
        if self._is_answering() and not self.cycle.more_body:
            # The requests before it are whole, and are answered yet. The parser reads no further.
            self.cycle.keep_alive = False
        elif self._is_answering() and (self.cycle.response_started or self.pipeline):
            self.transport.close()
        elif self._is_header_too_large:
            most = self.max_header_bytes
            self._refuse(
                ErrorAnswer(431, f"The header is larger than {most} bytes.", "header_too_large")
            )
        else:
            self._refuse(ErrorAnswer(400, "This is not a valid HTTP request.", "invalid_http"))

    def _refuse(self, error: ErrorAnswer) -> None:
        content = error.content()
        self.transport.write(
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (STATUS_LINE[error.status], len(content), content)
        )
        self.transport.close()
