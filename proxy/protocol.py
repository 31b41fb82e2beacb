"""What this server asks of HTTP/1.1 beyond uvicorn.

A limit on the header, which uvicorn's parser takes at any length. Our error form for what is no
HTTP. And a gentle end: uvicorn closes idle connections the moment it is told to end, under
requests that are on their way.
"""

from typing import Final

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


class LimitedProtocol(HttpToolsProtocol):
    """One connection, with a limit on the size of a request's header.

    Attributes:
        max_header_bytes: The most bytes a request's target and header fields may have together.
    """

    max_header_bytes: int
    _header_bytes = 0
    _is_in_header = False
    _is_draining = False

    def shutdown(self) -> None:
        """Answer what comes within a moment with `Connection: close`; then close, if idle."""
        self._is_draining = True
        if self._is_idle():
            self.loop.call_later(_LAST_REQUEST_S, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    def _close_if_idle(self) -> None:
        if self._is_idle() and not self.transport.is_closing():
            self.transport.close()

    def _is_idle(self) -> bool:
        # None before the first request, whatever its declared type says.
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def data_received(self, data: bytes) -> None:
        """Take what has come, and see that a single endless field ends too."""
        super().data_received(data)
        if self._is_in_header:
            # The parser hands over whole fields only; until then it collects.
            self._header_bytes += len(data)
            if self._header_bytes > self.max_header_bytes + _READ_BYTES:
                self.send_400_response("")

    def on_message_begin(self) -> None:
        """Start counting anew with each request."""
        self._header_bytes = 0
        self._is_in_header = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Go over to the content."""
        self._is_in_header = False
        super().on_headers_complete()
        if self._is_draining:
            self.cycle.keep_alive = False

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header field."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser could not read, and close."""
        if self.transport.is_closing():
            return
        if self._header_bytes > self.max_header_bytes:
            most = self.max_header_bytes
            self._refuse(
                ErrorAnswer(431, f"The header is larger than {most} bytes.", "header_too_large")
            )
        else:
            self._refuse(ErrorAnswer(400, "This is not a valid HTTP request.", "invalid_http"))

    def _count(self, more_bytes: int) -> None:
        self._header_bytes += more_bytes
        if self._header_bytes > self.max_header_bytes:
            # The parser turns this into an error of its own, and reads no further.
            raise ValueError("header too large")

    def _refuse(self, error: ErrorAnswer) -> None:
        content = error.content()
        self.transport.write(
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (STATUS_LINE[error.status], len(content), content)
        )
        self.transport.close()
