"""The embedding process' HTTP server: where it listens, whom it lets in, and how it ends.

HTTP/1.1 on a UNIX socket (mode 0600: whoever may open it may ask) or on TCP (a bearer token).
How many connections there are is bounded, and so is the time that a request may take to arrive or
an answer to be fetched.
"""

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from embeddings.address import Address
from embeddings.service.endpoints import Endpoints, Service
from embeddings.service.server_connection import ServerConnection

_BACKLOG: Final = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may ask of the server.

    Attributes:
        connections: The most at once.
        stall_s: The longest a request may take to arrive, and an answer to be fetched.
        idle_s: How long a connection may be unused.
        drain_s: How long a server that is closed waits for the answers to what was asked.
        look_every_s: How often connections are looked at for `stall_s` and `idle_s`.
    """

    connections: int = 1024
    stall_s: float = 5.0
    idle_s: float = 60.0
    drain_s: float = 1.0
    look_every_s: float = 1.0


LIMITS: Final = Limits()


class Server:
    """A running server; made by `serve`."""

    def __init__(self, endpoints: Endpoints, limits: Limits) -> None:
        """Use `serve` instead."""
        self._endpoints = endpoints
        self._limits = limits
        self.is_closing = False
        self.address = Address()
        """Where it listens, with the port it really has."""
        self._listener: asyncio.Server | None = None
        self._connections: set[ServerConnection] = set()
        self._all_gone = asyncio.Event()
        self._look_timer: asyncio.TimerHandle | None = None

    async def listen(self, address: Address) -> None:
        """Begin to accept connections.

        Raises:
            OSError: The address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        listener = _bound(address)
        try:
            if address.socket_path:
                self._listener = await loop.create_unix_server(
                    lambda: ServerConnection(self, self._endpoints), sock=listener, backlog=_BACKLOG
                )
                self.address = address
            else:
                self._listener = await loop.create_server(
                    lambda: ServerConnection(self, self._endpoints), sock=listener, backlog=_BACKLOG
                )
                self.address = Address(host=address.host, port=listener.getsockname()[1])
        except BaseException:
            listener.close()
            raise
        self._look_timer = loop.call_later(self._limits.look_every_s, self._look)

    async def close(self) -> None:
        """Accept nothing more, answer what has been asked, within a moment, and end."""
        self.is_closing = True
        if self._look_timer is not None:
            self._look_timer.cancel()
        if self._listener is not None:
            self._listener.close()
            if self.address.socket_path:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.address.socket_path)
        for connection in list(self._connections):
            connection.close_if_idle()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.drain_s):
                    await self._all_gone.wait()
        for connection in list(self._connections):
            connection.abort()

    def take(self, connection: ServerConnection) -> bool:
        """Take a new connection, if there is room for it."""
        if self.is_closing or len(self._connections) >= self._limits.connections:
            return False
        self._connections.add(connection)
        return True

    def let_go(self, connection: ServerConnection) -> None:
        """Forget a connection that has ended."""
        self._connections.discard(connection)
        if self.is_closing and not self._connections:
            self._all_gone.set()

    # One timer for all connections, not one for each request.

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._look_timer = loop.call_later(self._limits.look_every_s, self._look)
        for connection in list(self._connections):
            connection.look(self._limits.stall_s, self._limits.idle_s)


async def serve(
    current: Callable[[], Service],
    address: str,
    token: str | None,
    metrics: Callable[[], bytes],
    is_ready: Callable[[], bool],
    *,
    limits: Limits = LIMITS,
) -> Server:
    """Serve look-ups until the returned server is closed.

    Args:
        current: Returns the engine to ask now; called for each request.
        address: `unix:///path` or `http://host:port`, port 0 for a free one.
        token: What clients show as bearer token; None: none is asked for, as on a UNIX socket,
            where the file's mode decides.
        metrics: Returns what `/metrics` answers, in Prometheus' text format.
        is_ready: Whether the index has caught up once; told by `/healthz`.
        limits: What clients may ask of the server.

    Raises:
        ValueError: `address` is none.
        OSError: It cannot be listened on.
    """
    server = Server(Endpoints(current, is_ready, token, metrics), limits)
    await server.listen(Address.parse(address))
    return server


def _bound(address: Address) -> socket.socket:
    """Return a socket bound to `address`; of a UNIX socket only this user may open the file."""
    if address.socket_path:
        _remove_dead_socket(address.socket_path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        where: Any = address.socket_path
    else:
        family, _, _, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(where)
        if address.socket_path:
            # Before listen(): until then nobody can connect, whatever the mode.
            os.chmod(address.socket_path, 0o600)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_dead_socket(path: str) -> None:
    """Remove the socket of a process that was killed; leave one that answers, and other files."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
