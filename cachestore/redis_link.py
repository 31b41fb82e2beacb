"""The worker's link to Redis: one connection, kept up in the background.

Nobody ever waits for a connect. While the link is down every command fails at
once, which the cache takes for a miss; that is the circuit breaker. The link is
up again only after a whole handshake and a PING answered within the deadline, so
that a Redis that is there but too slow is not tried on requests.

After each (re)connect all that was held in memory must go (`on_invalidate(None)`):
which changes were missed meanwhile is unknown.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cachestore.errors import StoreError, StoreRefused, StoreUnavailable
from cachestore.keeper import CLOSED, Keeper
from cachestore.redis_connection import Argument, RedisConnection, failed
from cachestore.redis_url import RedisAddress

logger = logging.getLogger("recollect.redis")

# TLS and a Redis that has just started take longer than a GET does.
_HANDSHAKE_MIN_S = 1.0


def _ignore(*_: object) -> None:
    """Stand in for a callback nobody asked for."""


class RedisLink:
    """One auto-pipelined RESP3 connection that reconnects by itself."""

    def __init__(
        self,
        url: str,
        *,
        deadline_s: float,
        ca_file: Path | None = None,
        name: bytes = b"",
        invalidation_prefixes: Sequence[bytes] = (),
        on_invalidate: Callable[[Sequence[bytes] | None], None] = _ignore,
        on_state: Callable[[bool, str], None] = _ignore,
    ) -> None:
        """Prepare a link; `start` begins connecting.

        Args:
            url: See `redis_url`.
            deadline_s: The longest any command waits, above 0.
            ca_file: Whom to trust for rediss:// instead of the system's CAs.
            name: The connection's name in Redis' CLIENT LIST.
            invalidation_prefixes: Keys that begin so: changes of them are to be told of.
            on_invalidate: Given the keys that changed; None: any may have.
            on_state: Told when the link goes up or down, and why; while it is
                down, told of each new reason once.

        Raises:
            ValueError: the URL, the name or `ca_file` cannot be used.
        """
        self._address = RedisAddress.parse(url)
        if not all(0x21 <= byte <= 0x7E for byte in name):
            raise ValueError("a connection's name has no spaces and only ASCII characters")
        self._tls = _tls_context(ca_file) if self._address.is_tls else None
        self._deadline_s = deadline_s
        self._handshake_s = max(_HANDSHAKE_MIN_S, deadline_s)
        self._name = name
        self._invalidation_prefixes = invalidation_prefixes
        self._on_invalidate = on_invalidate
        self._on_state = on_state
        self._subscribers: dict[bytes, Callable[[bytes], None]] = {}
        self._connection: RedisConnection | None = None
        self._keeper = Keeper("redis link", self._hold)

    @property
    def is_up(self) -> bool:
        """Whether commands are sent now."""
        return self._connection is not None

    async def start(self, wait_s: float) -> None:
        """Begin connecting in the background; wait for it, but not for long.

        Never fails because Redis is down: the link comes up when Redis does.
        """
        await self._keeper.start(wait_s)

    async def close(self) -> None:
        """End the link; commands that wait, and all later ones, fail."""
        await self._keeper.close()

    def execute(self, *args: Argument) -> asyncio.Future[Any]:
        """Send a command; the future is Redis' reply.

        Commands of one turn of the event loop leave in one write. The future
        may be left unawaited, and may be cancelled.

        The future fails with:
            StoreUnavailable: the link is or went down, or the deadline passed;
                the command may or may not have been done.
            StoreRefused: Redis answered with an error.
        """
        connection = self._connection
        if connection is None:
            return failed(asyncio.get_running_loop(), StoreUnavailable(self._keeper.down_reason))
        return connection.execute(args)

    async def probe(self) -> None:
        """Make sure that replies still belong to their commands.

        Raises:
            StoreUnavailable: they do not, and the link reconnects; or it was
                down already.
        """
        if self._connection is None:
            raise StoreUnavailable(self._keeper.down_reason)
        await self._connection.probe()

    def distrust(self, reply: object) -> StoreUnavailable:
        """Reconnect after a `reply` that cannot be one to its command.

        Returns:
            The error to raise in place of using the reply.
        """
        if self._connection is not None:
            self._connection.end(f"a reply of the wrong kind: {type(reply).__name__}")
        return StoreUnavailable(self._keeper.down_reason)

    def subscribe(self, channel: bytes, on_message: Callable[[bytes], None]) -> None:
        """Have `on_message` given what is published on `channel` from now on.

        Lasts over reconnects; what was published while the link was down is
        lost. A second subscriber to a channel replaces the first.
        """
        is_new = channel not in self._subscribers
        self._subscribers[channel] = on_message
        if is_new and self._connection is not None:
            self._connection.execute((b"SUBSCRIBE", channel)).add_done_callback(_log_refusal)

    def unsubscribe(self, channel: bytes) -> None:
        """Undo `subscribe`, if it was done."""
        if self._subscribers.pop(channel, None) is not None and self._connection is not None:
            self._connection.execute((b"UNSUBSCRIBE", channel))

    async def _hold(self) -> None:
        """Connect, and wait for the connection's end."""
        try:
            connection = await self._connected()
        except (OSError, UnicodeError, StoreError) as error:
            self._report_down(_reason(error, self._handshake_s))
            return
        try:
            await connection.wait_ended()
        finally:
            connection.end(CLOSED)

    async def _connected(self) -> RedisConnection:
        """Return a new connection after its handshake; the link is then up."""
        connection = RedisConnection(self._handshake_s, self._take_push, self._report_down)
        try:
            async with asyncio.timeout(self._handshake_s):
                await self._open(connection)
                await self._shake_hands(connection)
            connection.use_deadline(self._deadline_s)
            await connection.probe()
        except BaseException as error:
            is_fault = isinstance(error, Exception)
            connection.end(_reason(error, self._handshake_s) if is_fault else CLOSED)
            raise
        connection.start_probing()
        self._report_up(connection)
        return connection

    async def _open(self, connection: RedisConnection) -> None:
        loop = asyncio.get_running_loop()
        address = self._address
        if address.socket_path:
            await loop.create_unix_connection(lambda: connection, address.socket_path)
        else:
            await loop.create_connection(
                lambda: connection,
                address.host,
                address.port,
                ssl=self._tls,
                server_hostname=address.host if self._tls is not None else None,
            )

    async def _shake_hands(self, connection: RedisConnection) -> None:
        """Set the connection up, all in one write."""
        address = self._address
        hello: list[Argument] = [b"HELLO", 3]
        if address.password:
            hello += [b"AUTH", address.user or b"default", address.password]
        if self._name:
            hello += [b"SETNAME", self._name]
        steps: list[tuple[Argument, ...]] = [tuple(hello)]
        if address.database:
            steps.append((b"SELECT", address.database))
        if self._invalidation_prefixes:
            tracking = (b"CLIENT", b"TRACKING", b"ON", b"BCAST", b"NOLOOP")
            prefixes = [word for one in self._invalidation_prefixes for word in (b"PREFIX", one)]
            steps.append((*tracking, *prefixes))
        replies = [(step, connection.execute(step)) for step in steps]
        for channel in self._subscribers:
            connection.execute((b"SUBSCRIBE", channel)).add_done_callback(_log_refusal)
        for step, reply in replies:
            try:
                await reply
            except StoreRefused as error:
                words = step[:2] if step[0] == b"CLIENT" else step[:1]
                command = b" ".join(word for word in words if isinstance(word, bytes)).decode()
                raise StoreUnavailable(f"{command} refused: {error.code}") from error

    def _report_up(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._keeper.came_up()
        # Through the loop: a callback that fails must not end the keeper.
        loop = asyncio.get_running_loop()
        loop.call_soon(self._on_invalidate, None)
        loop.call_soon(self._on_state, True, "")

    def _report_down(self, reason: str) -> None:
        self._connection = None
        if self._keeper.went_down(reason):
            asyncio.get_running_loop().call_soon(self._on_state, False, reason)

    def _take_push(self, push: list[Any]) -> None:
        match push:
            case [b"invalidate", None]:
                self._on_invalidate(None)
            case [b"invalidate", list(keys)]:
                self._on_invalidate(keys)
            case [b"message", bytes(channel), bytes(message)]:
                subscriber = self._subscribers.get(channel)
                if subscriber is not None:
                    subscriber(message)
            case _:
                # Nothing else was asked for; newer servers may tell of more.
                pass


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ValueError(f"{ca_file} cannot be used as CA file: {error}") from error


def _reason(error: BaseException, handshake_s: float) -> str:
    """Say why there is no connection; asyncio's own time-out has no text."""
    if isinstance(error, TimeoutError) and not str(error):
        return f"no connection within {handshake_s:g} s"
    return str(error) or type(error).__name__


def _log_refusal(reply: asyncio.Future[Any]) -> None:
    if not reply.cancelled() and isinstance(error := reply.exception(), StoreRefused):
        logger.warning("Redis refused SUBSCRIBE: %s", error.code)
