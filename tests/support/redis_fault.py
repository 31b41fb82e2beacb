"""A TCP proxy in front of Redis that can spoil the connection in the ways networks do."""

import asyncio
import contextlib
import enum
import random
import socket
import struct

from tests.support.loop_thread import LoopThread


class Fault(enum.Enum):
    """What becomes of the bytes."""

    PASS = "pass"
    REFUSE = "refuse"
    """Nobody listens; open connections are reset."""
    RESET = "reset"
    """Connections are accepted and reset at once."""
    BLACK_HOLE = "black hole"
    """Connections are accepted, commands vanish."""
    STALL = "stall"
    """Nothing is read any more; what was sent waits, and goes on when the fault ends."""
    LATE = "late"
    """Each reply comes `late_s` later."""
    SLOW = "slow"
    """Replies come at 1 kB/s."""
    CORRUPT = "corrupt"
    """One byte in every reply is another."""


SLOW_BYTES_PER_S = 1000
_TICK_S = 0.05


class RedisFault:
    """The proxy; `set` changes what becomes of open and of new connections."""

    def __init__(self, port: int, late_s: float = 2.0) -> None:
        self.late_s = late_s
        self._target_port = port
        self._fault = Fault.PASS
        self._random = random.Random(1)
        self._links: set[_Link] = set()
        self._thread = LoopThread("redis-fault")
        self._server: asyncio.Server | None = None
        self.port = 0
        self._thread.call(self._listen())

    @property
    def url(self) -> str:
        """The address for a client."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def fault(self) -> Fault:
        """What becomes of the bytes now."""
        return self._fault

    def set(self, fault: Fault) -> None:
        """Change the fault, for open connections too."""
        self._thread.call(self._set(fault))

    def close(self) -> None:
        """End the proxy."""
        self._thread.call(self._unlisten())
        self._thread.close()

    def spoil(self, reply: bytes) -> bytes:
        """Return `reply` with one byte changed."""
        at = self._random.randrange(len(reply))
        return reply[:at] + bytes([reply[at] ^ self._random.randint(1, 255)]) + reply[at + 1 :]

    async def _set(self, fault: Fault) -> None:
        self._fault = fault
        if fault is Fault.REFUSE:
            await self._unlisten()
        elif self._server is None:
            await self._listen()
        if fault is Fault.RESET:
            self._reset_links()
        for link in self._links:
            link.changed.set()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _unlisten(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._reset_links()

    def _reset_links(self) -> None:
        for link in list(self._links):
            link.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._fault is Fault.RESET:
            _reset(writer)
            return
        try:
            behind = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            _reset(writer)
            return
        link = _Link(self, writer, behind[1])
        self._links.add(link)
        tasks = [
            asyncio.ensure_future(link.commands(reader)),
            asyncio.ensure_future(link.replies(behind[0])),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._links.discard(link)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            link.reset()


class _Link:
    """One connection of a client, and its own to Redis."""

    def __init__(
        self, proxy: RedisFault, front: asyncio.StreamWriter, behind: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._front = front
        self._behind = behind
        self.changed = asyncio.Event()

    def reset(self) -> None:
        """End both sides at once."""
        _reset(self._front)
        self._behind.transport.abort()

    async def commands(self, reader: asyncio.StreamReader) -> None:
        """Carry what the client says."""
        with contextlib.suppress(ConnectionError):
            while True:
                await self._until_not(Fault.STALL)
                piece = await reader.read(65536)
                if not piece:
                    return
                await self._until_not(Fault.STALL)
                if self._proxy.fault is not Fault.BLACK_HOLE:
                    self._behind.write(piece)
                    await self._behind.drain()

    async def replies(self, reader: asyncio.StreamReader) -> None:
        """Carry what Redis answers, in the order it came."""
        loop = asyncio.get_running_loop()
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sender = asyncio.ensure_future(self._send_due(due))
        try:
            while piece := await reader.read(65536):
                is_late = self._proxy.fault is Fault.LATE
                due.put_nowait((loop.time() + (self._proxy.late_s if is_late else 0.0), piece))
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _send_due(self, due: "asyncio.Queue[tuple[float, bytes]]") -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while True:
                due_at, piece = await due.get()
                await asyncio.sleep(due_at - loop.time())
                await self._until_not(Fault.STALL)
                if self._proxy.fault is Fault.CORRUPT:
                    piece = self._proxy.spoil(piece)
                if self._proxy.fault is not Fault.BLACK_HOLE:
                    await self._send(piece)

    async def _send(self, piece: bytes) -> None:
        step = int(SLOW_BYTES_PER_S * _TICK_S)
        while piece and self._proxy.fault is Fault.SLOW:
            self._front.write(piece[:step])
            piece = piece[step:]
            await asyncio.sleep(_TICK_S)
        self._front.write(piece)
        await self._front.drain()

    async def _until_not(self, fault: Fault) -> None:
        while self._proxy.fault is fault:
            self.changed.clear()
            await self.changed.wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a RST: what the kernel still holds is thrown away."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
