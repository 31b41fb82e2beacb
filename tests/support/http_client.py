"""A client that shows HTTP/1.1 as it is on the wire.

Made for what comfortable clients hide or refuse: raw header bytes, when each piece
arrived, whether an answer was cut, requests that stop half-way. One connection per
request unless told otherwise, so that workers sharing a port all get their share.
"""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.support import sse
from tests.support.cache_status import CacheStatus, parse_cache_status

Headers = Sequence[tuple[str, str]]

DEFAULT_KEY = "sk-test-0123456789abcdef"


@dataclass(slots=True)
class Answer:
    """One HTTP answer, or as much of it as came before the connection ended."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    is_complete: bool = False
    head_s: float = 0.0
    """Seconds from the request's last byte to the end of the answer's head."""
    total_s: float = 0.0
    """Seconds from the request's last byte to the answer's end."""

    def all(self, name: str) -> list[str]:
        """Return every value of header `name`, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name: str) -> str:
        """Return header `name`, several values joined as RFC 9110 §5.3 allows; "" if absent."""
        return ", ".join(self.all(name))

    @property
    def cache(self) -> CacheStatus:
        """What `Cache-Status` says."""
        return parse_cache_status(self.header("cache-status"))

    @property
    def is_stream(self) -> bool:
        """Whether the body is an event stream."""
        return self.header("content-type").startswith("text/event-stream")

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """What the model said in its first choice, whichever endpoint and form."""
        if self.is_stream:
            return next(sse.texts(self.body), "")
        choice = self.json["choices"][0]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        return str(text)


def wire(
    method: str, target: str, host: str, headers: Headers = (), body: bytes | None = None
) -> bytes:
    """Return the request as bytes; `Content-Length` is added when there is a body."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


def json_headers(key: str = DEFAULT_KEY, extra: Mapping[str, str] | None = None) -> Headers:
    """Return the headers an OpenAI client sends, with `extra` ones after them."""
    own = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    return [*own.items(), *(extra or {}).items()]


class Connection:
    """One TCP connection, driven by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._sent_at = time.monotonic()

    @classmethod
    async def open(cls, origin: str, kernel_bytes: int | None = None) -> "Connection":
        """Connect to `origin` (http://host:port), until the calling task is done at the latest.

        `kernel_bytes` bounds what the kernel receives before anybody reads it: else it may take
        many megabytes, and nobody is a slow reader.
        """
        parts = urlsplit(origin)
        sock = socket.socket()
        sock.setblocking(False)
        if kernel_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, kernel_bytes)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
        except BaseException:
            sock.close()
            raise
        connection = cls(*await asyncio.open_connection(sock=sock, limit=2**18))
        # A test that fails leaves no connection to trouble the next one.
        if (task := asyncio.current_task()) is not None:
            task.add_done_callback(lambda _: connection.abort())
        return connection

    async def send(self, raw: bytes) -> None:
        """Write `raw` and wait until the kernel has taken most of it."""
        self._writer.write(raw)
        await self._writer.drain()
        self._sent_at = time.monotonic()

    async def read_head(self) -> Answer:
        """Read status line and headers."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        headers = [(name, value.strip()) for name, _, value in (x.partition(":") for x in lines)]
        answer = Answer(status=int(first.split()[1]), headers=headers)
        answer.head_s = time.monotonic() - self._sent_at
        return answer

    async def read_until(self, wanted: bytes) -> bytes:
        """Read on, framing included, until `wanted` was seen; return all that was read."""
        seen = b""
        while wanted not in seen:
            piece = await self._reader.read(65536)
            if not piece:
                raise ConnectionError(f"ended before {wanted!r}: {seen[-200:]!r}")
            seen += piece
        return seen

    async def read_body(self, answer: Answer) -> Answer:
        """Read the rest of `answer`; a cut leaves it incomplete instead of raising."""
        body = bytearray()
        # Both are ways a connection can end early; how early is what the test looks at.
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            answer.is_complete = await self._read_framed(answer, body)
        answer.body = bytes(body)
        answer.total_s = time.monotonic() - self._sent_at
        return answer

    async def _read_framed(self, answer: Answer, body: bytearray) -> bool:
        if answer.header("transfer-encoding").lower() == "chunked":
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                await self._read_exactly(size, body)
                await self._reader.readexactly(2)
            await self._reader.readuntil(b"\r\n")
            return True
        if (length := answer.header("content-length")) != "":
            await self._read_exactly(int(length), body)
            return True
        if answer.status in (204, 304):
            return True
        while piece := await self._reader.read(65536):
            body += piece
        return True

    async def _read_exactly(self, size: int, body: bytearray) -> None:
        while size > 0:
            piece = await self._reader.read(min(size, 2**18))
            if not piece:
                raise ConnectionError("ended early")
            body += piece
            size -= len(piece)

    def abort(self) -> None:
        """Leave without a word: what was not sent is dropped."""
        self._writer.transport.abort()


async def exchange(origin: str, raw: bytes, timeout_s: float = 30.0) -> Answer:
    """Send `raw` on a new connection and read one answer."""
    async with asyncio.timeout(timeout_s):
        connection = await Connection.open(origin)
        try:
            await connection.send(raw)
            head = await connection.read_head()
            if raw.startswith(b"HEAD "):  # has no body whatever its length says
                return head
            return await connection.read_body(head)
        finally:
            connection.abort()


def post_bytes(
    origin: str,
    path: str,
    body: object,
    *,
    key: str = DEFAULT_KEY,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """Return a POST of `body` (JSON unless it is bytes already) as bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    host = urlsplit(origin).netloc
    return wire("POST", path, host, json_headers(key, headers), content)


def strip_volatile(value: Any) -> Any:
    """Return `value` without what is fresh on every answer: top-level `id` and `created`."""
    if not isinstance(value, dict):
        return value
    kept = {k: v for k, v in value.items() if k not in ("id", "created", "created_at")}
    if isinstance(kept.get("response"), dict):
        kept["response"] = strip_volatile(kept["response"])
    return kept


def comparable(answer: Answer) -> Any:
    """Return all that must be equal between an answer and its repetition in the same form."""
    if answer.is_stream:
        return [strip_volatile(chunk) for chunk in sse.chunks_of(answer.body)]
    return strip_volatile(answer.json)


def ids_of(answer: Answer) -> Iterator[str]:
    """Yield the id of the answer, once per event if it is a stream."""
    for item in sse.chunks_of(answer.body) if answer.is_stream else [answer.json]:
        inner = item.get("response", item)
        if isinstance(inner.get("id"), str):
            yield inner["id"]
