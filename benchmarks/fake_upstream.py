"""An LLM server that costs next to nothing: fixed answers, straight from an asyncio protocol.

`python -m benchmarks.fake_upstream` prints its port and serves until it is ended.
A burst stream is written at once. A paced stream gets one chunk per step of
2 ms, and all running streams get theirs in the same step, as from a server with
continuous batching: chunks reach the proxy one at a time and do not coalesce.
`GET /calls` tells how many POST requests have come.
"""

import asyncio
import functools
import re
from collections import deque

import httptools
import uvloop

from benchmarks import traffic

STEP_S = 0.002
_MODEL = re.compile(rb'"model":"([a-z]+)-([a-z0-9]+)"')


class _Upstream:
    """What all connections share: the count of calls and the streams that are running."""

    def __init__(self) -> None:
        self.calls = 0
        self._running: dict[asyncio.WriteTransport, deque[bytes]] = {}

    def pace(self, transport: asyncio.WriteTransport, pieces: list[bytes]) -> None:
        if not self._running:
            asyncio.get_running_loop().call_later(STEP_S, self._step)
        self._running[transport] = deque(pieces)

    def stop(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            self._running.pop(transport, None)

    def _step(self) -> None:
        for transport, pieces in list(self._running.items()):
            transport.write(pieces.popleft())
            if not pieces:
                del self._running[transport]
        if self._running:
            asyncio.get_running_loop().call_later(STEP_S, self._step)


class _Connection(asyncio.Protocol):
    """One client; httptools calls the `on_` methods."""

    def __init__(self, upstream: _Upstream) -> None:
        self._upstream = upstream
        self._body = b""
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are registered as asyncio's, not derived from them.
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.stop(self._transport)

    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._parser.get_method() != b"POST":
            self._transport.write(_with_length(b"text/plain", b"%d" % self._upstream.calls))
            return
        self._upstream.calls += 1
        model = _MODEL.search(self._body)
        if model is None:
            raise ValueError(f"not a request of the benchmarks: {self._body!r}")
        kind, manner = model[1].decode(), model[2].decode()
        if kind == "json":
            self._transport.write(_json(int(manner)))
        elif manner == "burst":
            self._transport.write(b"".join(_stream_pieces(traffic.BURST_MODEL)))
        else:
            self._upstream.pace(self._transport, _stream_pieces(traffic.PACED_MODEL))


@functools.cache
def _json(body_bytes: int) -> bytes:
    answer = traffic.json_answer(f"json-{body_bytes}", body_bytes)
    return _with_length(b"application/json", answer)


@functools.cache
def _stream_pieces(model: str) -> list[bytes]:
    events = traffic.stream_events(model)
    pieces = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    # The terminator comes with the last chunk, the end with the terminator, as from real servers.
    return [head + pieces[0], *pieces[1:-2], pieces[-2] + pieces[-1] + b"0\r\n\r\n"]


def _with_length(content_type: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    return head % (content_type, len(body)) + body


async def _serve() -> None:
    upstream = _Upstream()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(upstream), "127.0.0.1", 0, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
