"""One HTTP connection of a server, with nothing under it: bytes in, bytes out, by hand.

The protocol and its configuration are uvicorn's real ones; only the transport is played.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import httptools
from uvicorn import Config
from uvicorn.server import ServerState

from proxy.protocol import LimitedProtocol
from tests.proxy.fakes import settle

KEEP_ALIVE_S = 75


class FakeTransport(asyncio.Transport):
    """Keeps what is written, and ends when it is told to.

    Attributes:
        written: All that was written.
        is_reading_wanted: Whether the protocol wants to hear more.
    """

    def __init__(self, port: int) -> None:
        super().__init__({"sockname": ("127.0.0.1", port), "peername": ("127.0.0.1", 50000)})
        self.written = b""
        self.is_reading_wanted = True
        self.protocol: asyncio.Protocol | None = None
        self._is_closing = False

    def write(self, data: Any) -> None:
        """Keep `data`; nobody may write after the end."""
        assert not self._is_closing, "written after the end"
        self.written += data

    def close(self) -> None:
        """End, and tell the protocol in the loop's next turn, as a real one does."""
        if not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_soon(self._lose)

    def _lose(self) -> None:
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            protocol.connection_lost(None)

    def is_closing(self) -> bool:
        """Whether it was told to end."""
        return self._is_closing

    def pause_reading(self) -> None:
        """Note it."""
        self.is_reading_wanted = False

    def resume_reading(self) -> None:
        """Note it."""
        self.is_reading_wanted = True


@dataclass
class Answer:
    """One answer as a client's parser reads it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    is_complete: bool = False

    def one(self, name: bytes) -> bytes:
        """Return the only value of a header field."""
        (value,) = [value for key, value in self.headers if key.lower() == name]
        return value

    def has(self, name: bytes) -> bool:
        """Whether there is such a header field."""
        return any(key.lower() == name for key, _ in self.headers)


class _Reader:
    """Reads answers with httptools."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self._fields: list[tuple[bytes, bytes]] = []
        self.parser = httptools.HttpResponseParser(self)

    def on_message_begin(self) -> None:
        self._fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.answers.append(Answer(self.parser.get_status_code(), self._fields))

    def on_body(self, body: bytes) -> None:
        self.answers[-1].body += body

    def on_message_complete(self) -> None:
        self.answers[-1].is_complete = True


class Connection:
    """A client's connection to a protocol under test.

    Args:
        protocol_class: What is tested.
        app: What it hands requests to.
        port: The port on which the client came.
        state: What connections of one server share.
    """

    def __init__(
        self,
        protocol_class: type[LimitedProtocol],
        app: Any,
        port: int = 8080,
        state: ServerState | None = None,
    ) -> None:
        config = Config(
            app,
            http=protocol_class,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        loop = asyncio.get_running_loop()
        self.state = state or ServerState()
        self.transport = FakeTransport(port)
        self.protocol = protocol_class(config, self.state, {}, loop)
        self.transport.protocol = self.protocol
        self.protocol.connection_made(self.transport)

    @property
    def is_closed(self) -> bool:
        """Whether the server has ended the connection."""
        return self.transport.is_closing()

    async def send(self, *pieces: bytes) -> None:
        """Send pieces, each in a packet of its own, and let the server do what it can."""
        for piece in pieces:
            if not self.is_closed:
                self.protocol.data_received(piece)
            await settle()

    def leave(self) -> None:
        """Close the connection from the client's side."""
        self.transport.close()

    @property
    def answers(self) -> list[Answer]:
        """All that has been answered so far."""
        reader = _Reader()
        reader.parser.feed_data(self.transport.written)
        return reader.answers

    async def ask(self, *pieces: bytes) -> Answer:
        """Send one request and return its answer."""
        before = len(self.answers)
        await self.send(*pieces)
        answer = self.answers[before]
        assert answer.is_complete
        return answer


def post(
    content: bytes = b"",
    path: str = "/v1/chat/completions",
    *fields: tuple[str, str],
    version: str = "1.1",
) -> bytes:
    """Return a POST as bytes."""
    lines = [f"POST {path} HTTP/{version}", "Host: x", *(f"{n}: {v}" for n, v in fields)]
    lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def chunked(content: bytes, path: str = "/v1/chat/completions", trailer: bytes = b"") -> bytes:
    """Return a POST of one chunk, with trailer fields (each with its line end)."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(content), content, trailer)
