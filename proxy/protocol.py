"""What this server asks of HTTP/1.1 beyond uvicorn: a limit on the header, and our error form.

uvicorn's parser takes a header of any length, and answers what is no HTTP in plain text.
"""

from typing import Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from proxy.errors import ErrorAnswer

_READ_BYTES: Final = 262144
"""The most that is read at once."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection, with a limit on the size of a request's header.

    Attributes:
        max_header_bytes: The most bytes a request's target and header fields may have together.
    """

    max_header_bytes: int
    _header_bytes = 0
    _is_in_header = False

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
