"""An OpenAI-compatible server that does what a test tells it to.

It speaks HTTP/1.1 over a bare asyncio protocol, because most of what it is told to do
(cut an answer, end it half-way, claim a wrong length) no HTTP library lets one do.

A test scripts it by the prompt's text: `upstream.on(text, Play(...), Play(...))` gives the
plays of the first, second, … request whose bytes hold `text`; the last one repeats. So no
header and no field is needed that a proxy in between might treat specially.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.support import openai_answers as answers
from tests.support.loop_thread import Gate, LoopThread

_SLICE_BYTES = 65536

Piece = bytes | float | Gate
"""Bytes to send, seconds to pause, or a gate to wait at."""


@dataclass(frozen=True, slots=True)
class Play:
    """How one request is answered; the default is an immediate, proper answer."""

    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    """Added to the answer's own; a `Content-Type` here replaces it."""
    delay_s: float = 0.0
    gate: Gate | None = None
    """Waited for before the head is sent, after `delay_s`."""
    body: bytes | None = None
    """Sent instead of the made-up answer."""
    said: answers.Said | None = None
    """What the model says instead of the made-up text."""
    mangle: Callable[[list[bytes]], Iterable[Piece]] | None = None
    """Rewrites what is sent: one piece per event of a stream, else the whole body."""
    missing_bytes: int = 0
    """By how much `Content-Length` is too large."""
    is_cut: bool = False
    """The connection is reset where the answer would end."""
    is_mute: bool = False
    """The connection is closed without any answer."""
    is_close_delimited: bool = False
    """The body ends with the connection (RFC 9112 §6.3)."""


@dataclass(slots=True)
class Seen:
    """One request, exactly as it came."""

    number: int
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    arrived_at: float
    end: str = ""
    """How it ended: "" (still running), "answered" or "left" (the client did)."""

    def all(self, name: str) -> list[str]:
        """Return every value of header `name`."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object; {} if it is none."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


@dataclass(slots=True)
class _Script:
    plays: Sequence[Play]
    used: int = 0

    def next(self) -> Play:
        play = self.plays[min(self.used, len(self.plays) - 1)]
        self.used += 1
        return play


@dataclass(slots=True)
class _Record:
    seen: list[Seen] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)


class FakeUpstream:
    """The server; it runs in a thread of its own until `close`."""

    def __init__(self) -> None:
        self._scripts: dict[bytes, _Script] = {}
        self._record = _Record()
        self._thread = LoopThread("fake-upstream")
        self._server = self._thread.call(self._listen(0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        """The address without a path."""
        return f"http://127.0.0.1:{self.port}"

    def on(self, text: str, *plays: Play) -> None:
        """Answer requests whose bytes hold `text` by `plays`."""
        self._scripts[text.encode()] = _Script(plays)

    def seen(self, text: str = "") -> list[Seen]:
        """Return the requests whose target or body holds `text`, in the order they came."""
        mark = text.encode()
        with self._record.changed:
            return [s for s in self._record.seen if mark in s.body or text in s.target]

    def calls(self, text: str = "") -> int:
        """Return how many requests held `text`."""
        return len(self.seen(text))

    def running(self, text: str = "") -> int:
        """Return how many requests that held `text` are still being answered."""
        return sum(not s.end for s in self.seen(text))

    def wait_until(self, is_so: Callable[[], bool], timeout_s: float = 10.0) -> bool:
        """Wait until `is_so` after some request has come or ended; False when it never was."""
        with self._record.changed:
            return self._record.changed.wait_for(is_so, timeout_s)

    def wait_calls(self, text: str, count: int = 1, timeout_s: float = 10.0) -> None:
        """Return when `count` requests that hold `text` have come."""
        assert self.wait_until(lambda: self.calls(text) >= count, timeout_s), (
            f"{self.calls(text)} of {count} calls for {text!r}"
        )

    def go_down(self) -> None:
        """Refuse connections, and drop those there are."""
        self._thread.call(self._stop())

    def come_back(self) -> None:
        """Listen again on the same port."""
        self._server = self._thread.call(self._listen(self.port))

    def close(self) -> None:
        """End the server and its thread."""
        self._thread.call(self._stop())
        self._thread.close()

    async def _listen(self, port: int) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        # Connections are known to the server only from Python 3.13 on: kept here.
        self._connections: set[_Connection] = set()
        return await loop.create_server(lambda: _Connection(self), "127.0.0.1", port, backlog=4096)

    async def _stop(self) -> None:
        self._server.close()
        for connection in list(self._connections):
            connection.drop()

    def joined(self, connection: "_Connection") -> None:
        """Note an open connection."""
        self._connections.add(connection)

    def left(self, connection: "_Connection") -> None:
        """Forget a closed connection."""
        self._connections.discard(connection)

    def begin(
        self, method: str, target: str, headers: list[tuple[str, str]], body: bytes
    ) -> tuple[Seen, Play]:
        """Record a request and choose how it is answered."""
        with self._record.changed:
            number = len(self._record.seen) + 1
            seen = Seen(number, method, target, headers, body, time.monotonic())
            self._record.seen.append(seen)
            self._record.changed.notify_all()
        for mark, script in self._scripts.items():
            if mark in body or mark.decode() in target:
                return seen, script.next()
        return seen, Play()

    def end(self, seen: Seen, how: str) -> None:
        """Record how a request ended."""
        with self._record.changed:
            seen.end = how
            self._record.changed.notify_all()


def emulate(seen: Seen, play: Play) -> tuple[list[bytes], str]:
    """Return the pieces and the content type of the proper answer to `seen`."""
    request = seen.json
    path = urlsplit(seen.target).path
    if play.body is not None:
        return [play.body], "application/json"
    if path.endswith("/embeddings"):
        return [answers.embeddings_json(request, seen.number)], "application/json"
    said = play.said or answers.said_to(seen.body, request, seen.number)
    usage = answers.usage_of(seen.body, said)
    forms = _FORMS.get(path.rsplit("/", 1)[-1] if seen.method == "POST" else "")
    if path.endswith("/chat/completions"):
        forms = _CHAT
    if forms is None:
        return [_echo(seen)], "application/json"
    whole, events = forms
    if request.get("stream") is True:
        return list(events(request, said, seen.number, usage)), "text/event-stream"
    return [whole(request, said, seen.number, usage)], "application/json"


def _echo(seen: Seen) -> bytes:
    digest = answers.digest_of(seen.body)
    echoed = {"method": seen.method, "target": seen.target, "digest": digest, "call": seen.number}
    return json.dumps({"object": "echo", "data": [], **echoed}).encode()


_CHAT = (answers.chat_json, answers.chat_events)
_FORMS = {
    "completions": (answers.completion_json, answers.completion_events),
    "responses": (answers.responses_json, answers.responses_events),
}


class _Connection(asyncio.Protocol):
    """One connection: parses requests, plays the answers one after another."""

    def __init__(self, upstream: FakeUpstream) -> None:
        self._upstream = upstream
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._upstream.joined(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._upstream.left(self)
        if self._task is not None:
            self._task.cancel()

    def drop(self) -> None:
        """End the connection at once."""
        assert self._transport is not None
        self._transport.abort()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._advance()

    def _advance(self) -> None:
        if self._task is not None and not self._task.done():
            return
        if (parsed := _take_request(self._buffer)) is not None:
            seen, play = self._upstream.begin(*parsed)
            self._task = asyncio.get_running_loop().create_task(self._answer(seen, play))

    async def _answer(self, seen: Seen, play: Play) -> None:
        assert self._transport is not None
        how = "left"
        try:
            await asyncio.sleep(play.delay_s)
            if play.gate is not None:
                await play.gate.passed()
            if not play.is_mute:
                await self._send(seen, play)
            how = "answered"
        finally:
            self._upstream.end(seen, how)
        if play.is_cut:
            self._transport.abort()
        elif play.is_mute or play.is_close_delimited or play.missing_bytes:
            self._transport.close()
        else:
            # Not from here: this task must be done before the next one may begin.
            asyncio.get_running_loop().call_soon(self._advance)

    async def _send(self, seen: Seen, play: Play) -> None:
        made, content_type = emulate(seen, play)
        pieces = list(made if play.mangle is None else play.mangle(made))
        is_stream = content_type == "text/event-stream" or len(pieces) > 1
        headers = dict.fromkeys(name.lower() for name, _ in play.headers)
        lines = [f"HTTP/1.1 {play.status} Scripted"]
        lines += [f"{name}: {value}" for name, value in play.headers]
        if "content-type" not in headers:
            lines.append(f"Content-Type: {content_type}")
        is_chunked = is_stream and not play.is_close_delimited and not play.missing_bytes
        if is_chunked:
            lines.append("Transfer-Encoding: chunked")
        elif not play.is_close_delimited and "content-length" not in headers:
            length = sum(len(piece) for piece in pieces if isinstance(piece, bytes))
            lines.append(f"Content-Length: {length + play.missing_bytes}")
        await self._write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        if seen.method == "HEAD" or play.status in (204, 304):
            return
        for piece in pieces:
            await self._play_piece(piece, is_chunked)
        if is_chunked and not play.is_cut:
            await self._write(b"0\r\n\r\n")

    async def _play_piece(self, piece: Piece, is_chunked: bool) -> None:
        if isinstance(piece, Gate):
            await piece.passed()
        elif isinstance(piece, float):
            await asyncio.sleep(piece)
        elif is_chunked:
            await self._write(b"%x\r\n%b\r\n" % (len(piece), piece))
        else:
            await self._write(piece)

    async def _write(self, raw: bytes) -> None:
        assert self._transport is not None
        # In slices: a transport moves all it still holds each time the kernel takes some of it.
        for at in range(0, len(raw), _SLICE_BYTES):
            await self._writable.wait()
            self._transport.write(raw[at : at + _SLICE_BYTES])


def _take_request(
    buffer: bytearray,
) -> tuple[str, str, list[tuple[str, str]], bytes] | None:
    """Take one whole request from the front of `buffer`, or None while it is not all there."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = buffer[:end].decode("latin-1").split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (x.partition(":") for x in lines)]
    named = {name.lower(): value for name, value in headers}
    if named.get("transfer-encoding", "").lower() == "chunked":
        taken = _take_chunks(buffer, end + 4)
    else:
        size = int(named.get("content-length", "0"))
        at = end + 4 + size
        taken = (bytes(buffer[end + 4 : at]), at) if len(buffer) >= at else None
    if taken is None:
        return None
    body, at = taken
    del buffer[:at]
    method, target, _ = first.split(" ")
    return method, target, headers, body


def _take_chunks(buffer: bytearray, at: int) -> tuple[bytes, int] | None:
    body = bytearray()
    while (end := buffer.find(b"\r\n", at)) >= 0:
        size = int(buffer[at:end], 16)
        if len(buffer) < end + 2 + size + 2:
            return None
        body += buffer[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
        if size == 0:
            return bytes(body), at
    return None
