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
from typing import Any, Final, Literal

import orjson

from embeddings.address import Address
from embeddings.breaker import Breaker, BreakerOpen
from embeddings.client_connection import ClientConnection, Ended
from embeddings.wire import MOST_KEYS, Feedback, Found, LookUp, WireError, keys_to_bytes

UnavailableKind = Literal["deadline", "down", "busy", "protocol", "open"]

_MOST_CONNECTIONS: Final = 64
_LATE_TIMER_S: Final = 0.02
"""A deadline noticed so much too late says that our own event loop stood still."""
_FAIR_SHARE: Final = 0.5
"""Who had less of the deadline than this is not to blame for having given no answer."""

_GATHER_S: Final = 0.01
"""How long keys are gathered into one message."""
_TELL_S: Final = 2.0
"""The longest a message may take. Nobody waits for it; a text may have to be encoded for it."""
_OPERATOR_S: Final = 5.0
"""How long an operator waits for an answer."""


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
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Prepare a client; it connects when it is asked.

        Args:
            address: `unix:///path` or `http://host:port`.
            token: Shown as bearer token; None for a UNIX socket.
            deadline_s: The longest a look-up takes, connecting included; above 0.
            on_state: Told when the breaker opens (False, why) and closes (True, "").
            clock: Seconds that never go back.

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
        self._fields = fields
        self._look_up_head = _head("/look-up", fields)
        self._breaker = Breaker(on_state, clock)
        self._clock = clock
        self._idle: list[ClientConnection] = []
        self._connections: set[ClientConnection] = set()
        self._hints = {path: _Hints(_head(path, fields)) for path in ("/add", "/remove")}
        self._teller: asyncio.Task[None] | None = None
        self._is_closed = False

    async def look_up(self, look_up: LookUp, until: float | None = None) -> Found:
        """Return what the embedding process finds near a text.

        Args:
            look_up: The text, and where to look.
            until: The end (loop time) of a deadline that began before, of which a part is spent.

        Raises:
            EmbeddingsUnavailable: There is no answer; within the deadline in any case, and by
                `until`.
        """
        given_s = self._deadline_s
        if until is not None:
            given_s = min(given_s, until - asyncio.get_running_loop().time())
        if given_s <= 0:
            # To ask would cost a connection, which ends at the deadline.
            raise EmbeddingsUnavailable("deadline", "no time was left to ask")
        try:
            request = _message(self._look_up_head, look_up.to_bytes())
        except WireError as error:
            raise EmbeddingsUnavailable("protocol", str(error)) from error
        try:
            is_trial = self._breaker.enter()
        except BreakerOpen as error:
            raise EmbeddingsUnavailable("open", str(error)) from error
        began = self._clock()
        try:
            found = Found.from_bytes(await self._ask(request, given_s))
        except EmbeddingsUnavailable as error:
            is_late = self._clock() - began - given_s > _LATE_TIMER_S
            is_unfair = is_late or given_s < _FAIR_SHARE * self._deadline_s
            if error.kind == "busy" or (error.kind == "deadline" and is_unfair):
                self._breaker.leave(is_trial)
            else:
                self._breaker.failed(is_trial, str(error))
            raise
        except WireError as error:
            unavailable = EmbeddingsUnavailable("protocol", str(error))
            self._breaker.failed(is_trial, str(unavailable))
            raise unavailable from error
        except BaseException:
            self._breaker.leave(is_trial)
            raise
        self._breaker.succeeded()
        return found

    async def explain(self, look_up: LookUp) -> dict[str, Any]:
        """Return, as JSON, what would be decided of a look-up within a budget, and why.

        Raises:
            EmbeddingsUnavailable: There is no answer within 5 s.
        """
        return await self._tell_operator("POST", "/explain", look_up.to_bytes())

    async def feedback(self, feedback: Feedback) -> bool:
        """Tell what somebody says of an answer; return whether that was of use.

        Raises:
            EmbeddingsUnavailable: It may not have been taken up.
        """
        said = await self._tell_operator("POST", "/feedback", feedback.to_bytes())
        return said.get("is_of_use") is True

    async def stats(self) -> dict[str, Any]:
        """Return how much is held, and how the routes' budgets stand.

        Raises:
            EmbeddingsUnavailable: There is no answer within 5 s.
        """
        return await self._tell_operator("GET", "/stats", b"")

    async def _tell_operator(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        head = _head(path, self._fields, method)
        content = await self._ask(_message(head, body), _OPERATOR_S)
        try:
            said = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise EmbeddingsUnavailable("protocol", "not JSON") from error
        if type(said) is not dict:
            raise EmbeddingsUnavailable("protocol", "not an object")
        return said

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

    async def _ask(self, request: bytes, deadline_s: float) -> bytes:
        """Return the content of the answer to `request`.

        Raises:
            EmbeddingsUnavailable: There is none within `deadline_s`, or it is an error.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline_s
        while True:
            if self._is_closed:
                raise EmbeddingsUnavailable("down", "closed")
            is_used = bool(self._idle)
            # The newest first: the others may rest until the process closes them.
            connection = self._idle.pop() if is_used else await self._connected(until)
            # The connection ends at the deadline. asyncio.timeout() would do, but took a look-up,
            # which comes with cold caches, 20 µs longer.
            timer = loop.call_at(until, connection.end, "overdue", "deadline")
            try:
                status, content = await connection.ask(request)
            except Ended as error:
                if error.kind == "deadline":
                    reason = f"no answer within {deadline_s * 1000:.0f} ms"
                    raise EmbeddingsUnavailable("deadline", reason) from error
                if is_used and not connection.has_answered:
                    # It may have been closed for idleness in the moment in which we asked.
                    continue
                raise EmbeddingsUnavailable(error.kind, error.reason) from error
            except BaseException:
                # The caller has left: its answer must reach nobody.
                connection.end("nobody waits")
                raise
            finally:
                timer.cancel()
            if connection.is_reusable and not self._is_closed:
                self._idle.append(connection)
            else:
                connection.end("not to be used again")
            if 200 <= status < 300:
                return content
            raise _refused(status, content)

    async def _connected(self, until: float) -> ClientConnection:
        if len(self._connections) >= _MOST_CONNECTIONS:
            raise EmbeddingsUnavailable("busy", "all connections are in use")
        connection = ClientConnection(self._forget)
        self._connections.add(connection)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(until):
                if self._address.socket_path:
                    await loop.create_unix_connection(lambda: connection, self._address.socket_path)
                else:
                    await loop.create_connection(
                        lambda: connection, self._address.host, self._address.port
                    )
        except TimeoutError as error:
            connection.end("not connected")
            raise EmbeddingsUnavailable("deadline", "not connected in time") from error
        except (OSError, UnicodeError) as error:
            connection.end("not connected")
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise EmbeddingsUnavailable("down", f"cannot connect: {reason}") from error
        except BaseException:
            connection.end("not connected")
            raise
        return connection

    def _forget(self, connection: ClientConnection) -> None:
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
            with contextlib.suppress(EmbeddingsUnavailable):
                await self._ask(_message(hints.head, keys_to_bytes(list(keys))), _TELL_S)


class _Hints:
    """Keys to tell of, in the order in which they came, each once."""

    def __init__(self, head: str) -> None:
        self.head = head
        self.keys: dict[bytes, None] = {}


def _head(path: str, fields: str, method: str = "POST") -> str:
    return f"{method} {path} HTTP/1.1\r\n{fields}content-type: application/json\r\ncontent-length: "


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
