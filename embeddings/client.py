"""A worker's way to the embedding process: nobody ever waits longer than the deadline.

Every look-up ends within it, with an answer or with EmbeddingsUnavailable, whatever the process
does: it is stopped, mute, slow, dead, or answers nonsense. After a few failures in a row nobody
asks any more (the breaker is open) until one look-up, at its own risk, has found it well again.

A connection carries one request at a time and is closed unless its answer came whole and in time,
so that a late answer is never taken for another's.

Imports nothing heavy: workers use it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, Literal, cast

import httptools
import orjson

from embeddings.address import Address
from embeddings.wire import MOST_BODY_BYTES, MOST_KEYS, Found, LookUp, WireError, keys_to_bytes

UnavailableKind = Literal["deadline", "down", "busy", "protocol", "open"]

_MOST_CONNECTIONS: Final = 64
_MOST_ANSWER_BYTES: Final = MOST_BODY_BYTES + 16 * 1024

_FAILURES_TO_OPEN: Final = 3
_OPEN_FIRST_S: Final = 0.5
_OPEN_MAX_S: Final = 10.0
_LATE_TIMER_S: Final = 0.02
"""A deadline noticed so much too late says that our own event loop stood still."""

_GATHER_S: Final = 0.01
"""How long keys are gathered into one message."""
_TELL_S: Final = 2.0
"""The longest a message may take. Nobody waits for it; a text may have to be encoded for it."""


class EmbeddingsUnavailable(Exception):
    """There is no answer from the embedding process: a miss.

    Attributes:
        kind: "deadline": none within the deadline. "down": it cannot be reached, or says it cannot
            answer. "busy": too much waits, there or here. "protocol": it answered with something
            else. "open": it was not asked, as it failed just before.
    """

    def __init__(self, kind: UnavailableKind, reason: str) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind: UnavailableKind = kind
        self.reason = reason


def _ignore(*_: object) -> None:
    """Stand in for a callback nobody asked for."""


class EmbeddingClient:
    """Look-ups within a deadline, and hints that nobody waits for."""

    def __init__(
        self,
        address: str,
        token: str | None,
        deadline_s: float,
        on_state: Callable[[bool, str], None] = _ignore,
    ) -> None:
        """Prepare a client; it connects when it is asked.

        Args:
            address: `unix:///path` or `http://host:port`.
            token: Shown as bearer token; None for a UNIX socket.
            deadline_s: The longest a look-up takes, connecting included; above 0.
            on_state: Told when the breaker opens (False, why) and closes (True, "").

        Raises:
            ValueError: `address` is none, or `token` cannot stand in a header field.
        """
        if token is not None and not (token.isascii() and token.isprintable()):
            raise ValueError("a token has only printable ASCII characters")
        self._address = Address.parse(address)
        self._deadline_s = deadline_s
        host = str(self._address).removeprefix("http://") if self._address.host else "localhost"
        fields = f"host: {host}\r\n"
        if token is not None:
            fields += f"authorization: Bearer {token}\r\n"
        self._look_up_head = _head("/look-up", fields)
        self._breaker = _Breaker(on_state)
        self._idle: list[_Connection] = []
        self._connections: set[_Connection] = set()
        self._hints = {path: _Hints(_head(path, fields)) for path in ("/add", "/remove")}
        self._teller: asyncio.Task[None] | None = None
        self._is_closed = False

    async def look_up(self, look_up: LookUp) -> Found:
        """Return what the embedding process finds near a text.

        Raises:
            EmbeddingsUnavailable: There is no answer; within the deadline in any case.
        """
        try:
            request = _message(self._look_up_head, look_up.to_bytes())
        except WireError as error:
            raise EmbeddingsUnavailable("protocol", str(error)) from error
        is_trial = self._breaker.enter()
        began = monotonic()
        try:
            async with asyncio.timeout(self._deadline_s):
                found = Found.from_bytes(await self._ask(request))
        except EmbeddingsUnavailable as error:
            if error.kind == "busy":
                self._breaker.leave(is_trial)
            else:
                self._breaker.failed(is_trial, str(error))
            raise
        except WireError as error:
            unavailable = EmbeddingsUnavailable("protocol", str(error))
            self._breaker.failed(is_trial, str(unavailable))
            raise unavailable from error
        except TimeoutError as error:
            reason = f"no answer within {self._deadline_s * 1000:.0f} ms"
            if monotonic() - began - self._deadline_s > _LATE_TIMER_S:
                self._breaker.leave(is_trial)
            else:
                self._breaker.failed(is_trial, reason)
            raise EmbeddingsUnavailable("deadline", reason) from error
        except BaseException:
            self._breaker.leave(is_trial)
            raise
        self._breaker.succeeded()
        return found

    def add_soon(self, keys: Sequence[bytes]) -> None:
        """Let this host's process know that `keys` were stored just now.

        A hint: it may be lost, the change log brings them anyway.
        """
        self._tell_soon("/add", keys)

    def remove_soon(self, keys: Sequence[bytes]) -> None:
        """Let this host's process know that the entries of `keys` were found gone. A hint."""
        self._tell_soon("/remove", keys)

    async def close(self) -> None:
        """End all connections. Look-ups that wait, and all later ones, fail."""
        self._is_closed = True
        if self._teller is not None:
            self._teller.cancel()
            await asyncio.wait([self._teller])
        for connection in list(self._connections):
            connection.end("closed")

    # Connections.

    async def _ask(self, request: bytes) -> bytes:
        """Return the content of the answer to `request`.

        Raises:
            EmbeddingsUnavailable: There is none, or it is an error.
        """
        while True:
            if self._is_closed:
                raise EmbeddingsUnavailable("down", "closed")
            is_used = bool(self._idle)
            # The newest first: the others may rest until the process closes them.
            connection = self._idle.pop() if is_used else await self._connected()
            try:
                status, content = await connection.ask(request)
            except _Ended as error:
                if is_used and not connection.has_answered:
                    # It may have been closed for idleness in the moment in which we asked.
                    continue
                raise EmbeddingsUnavailable(error.kind, error.reason) from error
            except BaseException:
                # The deadline, or the caller left: its answer must reach nobody.
                connection.end("nobody waits")
                raise
            if connection.is_reusable and not self._is_closed:
                self._idle.append(connection)
            else:
                connection.end("not to be used again")
            if 200 <= status < 300:
                return content
            raise _refused(status, content)

    async def _connected(self) -> "_Connection":
        if len(self._connections) >= _MOST_CONNECTIONS:
            raise EmbeddingsUnavailable("busy", "all connections are in use")
        connection = _Connection(self._forget)
        self._connections.add(connection)
        loop = asyncio.get_running_loop()
        try:
            if self._address.socket_path:
                await loop.create_unix_connection(lambda: connection, self._address.socket_path)
            else:
                await loop.create_connection(
                    lambda: connection, self._address.host, self._address.port
                )
        except (OSError, UnicodeError) as error:
            connection.end("not connected")
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise EmbeddingsUnavailable("down", f"cannot connect: {reason}") from error
        except BaseException:
            connection.end("not connected")
            raise
        return connection

    def _forget(self, connection: "_Connection") -> None:
        self._connections.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    # Hints: gathered for a moment, then sent as one message; one after the other.

    def _tell_soon(self, path: str, keys: Sequence[bytes]) -> None:
        hints = self._hints[path]
        if self._is_closed or self._breaker.is_open or len(hints.keys) + len(keys) > MOST_KEYS:
            return
        hints.keys.update(dict.fromkeys(keys))
        if self._teller is None:
            self._teller = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        try:
            while any(hints.keys for hints in self._hints.values()):
                await asyncio.sleep(_GATHER_S)
                for hints in self._hints.values():
                    await self._send(hints)
        finally:
            self._teller = None

    async def _send(self, hints: "_Hints") -> None:
        keys, hints.keys = hints.keys, {}
        if keys and not self._breaker.is_open:
            with contextlib.suppress(EmbeddingsUnavailable, TimeoutError):
                async with asyncio.timeout(_TELL_S):
                    await self._ask(_message(hints.head, keys_to_bytes(list(keys))))


class _Hints:
    """Keys to tell of, in the order in which they came, each once."""

    def __init__(self, head: str) -> None:
        self.head = head
        self.keys: dict[bytes, None] = {}


class _Breaker:
    """Whether the process is asked: closed (yes), open (no), or one look-up tries it."""

    def __init__(self, on_state: Callable[[bool, str], None]) -> None:
        self._on_state = on_state
        self._failures = 0
        self._open_s = 0.0  # how long it is, or was last, open; 0 while it is closed
        self._try_at = 0.0
        self._is_trying = False
        self._reason = ""

    @property
    def is_open(self) -> bool:
        """Whether nobody but one look-up now and then asks."""
        return self._open_s > 0

    def enter(self) -> bool:
        """Begin a look-up; one of `succeeded`, `failed` and `leave` must follow.

        Returns:
            Whether this is the one look-up that tries whether the process is well again.

        Raises:
            EmbeddingsUnavailable: It is open.
        """
        if not self._open_s:
            return False
        if self._is_trying or monotonic() < self._try_at:
            raise EmbeddingsUnavailable("open", self._reason)
        self._is_trying = True
        return True

    def succeeded(self) -> None:
        """The process has answered."""
        self._failures = 0
        if self._open_s:
            self._open_s = 0.0
            self._is_trying = False
            self._on_state(True, "")

    def failed(self, is_trial: bool, reason: str) -> None:
        """It has not, or with nonsense."""
        self._failures += 1
        # Failures of look-ups that had begun before it opened change nothing.
        if is_trial:
            self._open(min(2 * self._open_s, _OPEN_MAX_S), reason)
        elif not self._open_s and self._failures >= _FAILURES_TO_OPEN:
            self._open(_OPEN_FIRST_S, reason)
            self._on_state(False, reason)

    def leave(self, is_trial: bool) -> None:
        """Nothing was learnt."""
        if is_trial:
            self._is_trying = False

    def _open(self, open_s: float, reason: str) -> None:
        self._open_s = open_s
        self._try_at = monotonic() + open_s
        self._is_trying = False
        self._reason = reason


class _Ended(Exception):
    """The connection ended before the answer was whole."""

    def __init__(self, kind: UnavailableKind, reason: str) -> None:
        super().__init__(reason)
        self.kind: UnavailableKind = kind
        self.reason = reason


class _Connection(asyncio.Protocol):
    """One request at a time; ends for good at the first thing that is not as it should be.

    Attributes:
        has_answered: Whether any byte of the current answer has come.
        is_reusable: Whether another request may follow.
    """

    def __init__(self, on_end: Callable[["_Connection"], None]) -> None:
        self._on_end = on_end
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._content: list[bytes] = []
        self._received_bytes = 0
        self._is_whole = False
        self._has_ended = False
        self.has_answered = False
        self.is_reusable = False

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Send a request; the future is the answer's status and content, or fails with _Ended."""
        self._answer = asyncio.get_running_loop().create_future()
        self._received_bytes = 0
        self._is_whole = self.has_answered = self.is_reusable = False
        if self._transport is None or self._has_ended:
            self._answer.set_exception(_Ended("down", "connection closed"))
        else:
            self._transport.write(request)
        return self._answer

    def end(self, reason: str, kind: UnavailableKind = "down") -> None:
        """End the connection at once."""
        if self._has_ended:
            return
        self._has_ended = True
        if self._transport is not None:
            self._transport.abort()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(_Ended(kind, reason))
        self._on_end(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the open connection (asyncio)."""
        # uvloop's transports are not declared to be asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)
        if self._has_ended:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Learn that the connection is closed (asyncio)."""
        self.end("connection closed")

    def data_received(self, data: bytes) -> None:
        """Take some of the answer (asyncio)."""
        answer = self._answer
        if answer is None or answer.done():
            self.end("something came that nobody asked for", "protocol")
            return
        self.has_answered = True
        self._received_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.end("not a valid HTTP answer", "protocol")
            return
        if self._is_whole:
            # Only now: behind the answer, in the same bytes, something else may have come.
            content = self._content
            whole = content[0] if len(content) == 1 else b"".join(content)
            answer.set_result((self._parser.get_status_code(), whole))
        elif self._received_bytes > _MOST_ANSWER_BYTES:
            self.end("the answer is too long", "protocol")

    def on_message_begin(self) -> None:
        """Start with an answer (httptools)."""
        if self._is_whole:
            raise ValueError("a second answer")
        self._content = []

    def on_body(self, body: bytes) -> None:
        """Take some of its content (httptools)."""
        self._content.append(body)

    def on_message_complete(self) -> None:
        """End the answer (httptools)."""
        self._is_whole = True
        self.is_reusable = self._parser.should_keep_alive()


def _head(path: str, fields: str) -> str:
    return f"POST {path} HTTP/1.1\r\n{fields}content-type: application/json\r\ncontent-length: "


def _message(head: str, body: bytes) -> bytes:
    return f"{head}{len(body)}\r\n\r\n".encode() + body


def _refused(status: int, content: bytes) -> EmbeddingsUnavailable:
    """Return the error for an answer that is one."""
    if status != 503:
        return EmbeddingsUnavailable("protocol", f"status {status}")
    try:
        code = orjson.loads(content)["error"]["code"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return EmbeddingsUnavailable("protocol", "status 503 without a code")
    return EmbeddingsUnavailable("busy" if code == "busy" else "down", f"the process says {code}")
