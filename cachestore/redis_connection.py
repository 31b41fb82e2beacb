"""One connection to Redis, written for speed: many commands, one write.

Commands issued in one turn of the event loop leave in one write, and replies are
matched to them in order (RESP3 has no request ids). Per command there is one
Future and nothing else: no task, no timer, no lock. What was measured on this
path is in docs/architecture.md.

A connection lives once. It begins open and ends for good, with a reason, when
the peer closes it, breaks the protocol or lets a command wait past the deadline;
every command still waiting then fails. Who reconnects is `redis_link`.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, cast

from hiredis import HiredisError, PushNotification, Reader, ReplyError, pack_command

from cachestore.errors import StoreRefused, StoreUnavailable

Argument = bytes | str | int

_NOT_YET = object()
_PROBE_INTERVAL_S = 1.0
# Between the two looks at an overdue command: enough for the event loop to poll
# its sockets, little beside any deadline.
_SECOND_LOOK_S = 0.01
_ERROR_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,31}")
# Before 7.0 an error inside a script is told as "ERR Error running script (…):
# @user_script:3: WRONGTYPE …"; the code that counts is the inner one.
_SCRIPT_ERROR_CODE = re.compile(r"@user_script: ?\d+: -?([A-Z][A-Z0-9_]{0,31})\b")


def failed(loop: asyncio.AbstractEventLoop, error: Exception) -> asyncio.Future[Any]:
    """Return a future that has failed already, and may be left unawaited."""
    future: asyncio.Future[Any] = loop.create_future()
    future.set_exception(error)
    # Marks it as looked at: a PUBLISH nobody waits for is no "exception was
    # never retrieved".
    future.exception()
    return future


class RedisConnection(asyncio.Protocol):
    """Commands out, replies in, in order, each within the deadline."""

    def __init__(
        self,
        deadline_s: float,
        on_push: Callable[[list[Any]], None],
        on_end: Callable[[str], None],
    ) -> None:
        """Prepare a connection; `connection_made` starts it.

        Args:
            deadline_s: The longest a command waits; see `use_deadline`.
            on_push: Given each message Redis sends unasked, in a turn of the
                event loop of its own.
            on_end: Told once why the connection ended, at once, before any
                waiting command's caller runs.
        """
        self._deadline_s = deadline_s
        self._on_push = on_push
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(notEnoughData=_NOT_YET)
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        # Each command's future and when it was issued, oldest first. A future
        # whose caller was cancelled stays: its reply will come, and must not be
        # taken for the next one's.
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._suspect: asyncio.Future[Any] | None = None
        self._look_timer: asyncio.TimerHandle | None = None
        self._probe_timer: asyncio.TimerHandle | None = None
        self._probes = 0
        self._ended = asyncio.Event()
        self.end_reason: str | None = None
        """Why the connection ended; None while it has not."""

    def execute(self, args: tuple[Argument, ...]) -> asyncio.Future[Any]:
        """Send a command with the others of this turn; the future is its reply.

        The future fails with StoreRefused for an error reply, and with
        StoreUnavailable when the connection ends first. Cancelling it is safe.
        """
        if self.end_reason is not None:
            return failed(self._loop, StoreUnavailable(self.end_reason))
        # hiredis' stub declares a tuple of length one.
        packed: bytes = pack_command(args)  # type: ignore[arg-type]
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(packed)
        future: asyncio.Future[Any] = self._loop.create_future()
        # Not loop.time(): uvloop's stands still during a turn, so that after a
        # long one a command would seem as old as that turn was long.
        self._waiting.append((future, monotonic()))
        return future

    def use_deadline(self, deadline_s: float) -> None:
        """Judge commands by this deadline from now on."""
        self._deadline_s = deadline_s
        # The timer that runs was set by the old deadline; the next command
        # that is sent sets a new one.
        if self._look_timer is not None:
            self._look_timer.cancel()
            self._look_timer = None

    def start_probing(self) -> None:
        """From now on send a PING every second and compare its reply.

        Finds a peer that vanished while there was nothing to ask, whose
        invalidations would be missed; and replies that got out of step.
        """
        self._probe_timer = self._loop.call_later(_PROBE_INTERVAL_S, self._probe_again)

    async def probe(self) -> None:
        """Send a PING; unless its own reply comes, in its turn, the connection ends.

        Raises:
            StoreUnavailable: the connection ended, or Redis is not ready.
        """
        try:
            await self._send_probe()
        except StoreRefused as error:
            raise StoreUnavailable(f"PING refused: {error.code}") from error
        if self.end_reason is not None:
            raise StoreUnavailable(self.end_reason)

    def end(self, reason: str) -> None:
        """End the connection at once; whatever still waits fails with `reason`."""
        if self.end_reason is not None:
            return
        self.end_reason = reason
        self._ended.set()
        for timer in (self._look_timer, self._probe_timer):
            if timer is not None:
                timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._unsent.clear()
        self._on_end(reason)
        while self._waiting:
            _fail(self._waiting.popleft()[0], StoreUnavailable(reason))

    async def wait_ended(self) -> None:
        """Wait until the connection has ended."""
        await self._ended.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the open connection (asyncio)."""
        # uvloop's transports are not declared to be asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)
        if self.end_reason is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Learn that the connection is closed (asyncio)."""
        self.end("connection closed" if exc is None else f"connection lost: {exc}")

    def data_received(self, data: bytes) -> None:
        """Match what came to the commands that wait (asyncio)."""
        if self.end_reason is not None:
            return
        reader = self._reader
        waiting = self._waiting
        pushes: list[list[Any]] = []
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not _NOT_YET:
                if isinstance(reply, PushNotification) and not _is_confirmation(reply):
                    pushes.append(reply)
                    continue
                if not waiting:
                    self.end("a reply without a command")
                    return
                future = waiting.popleft()[0]
                if isinstance(reply, ReplyError):
                    _fail(future, StoreRefused(_code(reply)))
                elif not future.done():
                    future.set_result(reply)
        except (HiredisError, TypeError, ValueError, MemoryError) as error:
            # Beside ProtocolError: a map whose key is a list is a TypeError,
            # and a length out of all reason a MemoryError.
            self.end(f"protocol broken: {type(error).__name__}")
            return
        # After the replies, and not before: callers of the futures above run in
        # turns already queued. So a value that was read before it was changed
        # has been put into memory when the change's invalidation drops it.
        for push in pushes:
            self._loop.call_soon(self._on_push, push)

    def _flush(self) -> None:
        unsent = self._unsent
        if self._transport is None or not unsent:
            return
        self._unsent = []
        self._transport.write(unsent[0] if len(unsent) == 1 else b"".join(unsent))
        if self._look_timer is None:
            self._look_after(self._deadline_s)

    def _look_after(self, wait_s: float) -> None:
        self._look_timer = self._loop.call_later(wait_s, self._look)

    def _look(self) -> None:
        """Look at the command that waits longest; end if it is overdue twice.

        Once is not enough. When our own event loop stood still, the reply may
        lie unread in the socket: uvloop runs timers before it polls sockets, and
        neither loop reads all of a long reply at once. So the first look only
        suspects, and waits as long again as we were late ourselves.
        """
        self._look_timer = None
        if not self._waiting:
            self._suspect = None
            return
        oldest, issued_at = self._waiting[0]
        overdue_s = monotonic() - issued_at - self._deadline_s
        if overdue_s < 0:
            self._look_after(-overdue_s)
        elif oldest is not self._suspect:
            self._suspect = oldest
            self._look_after(_SECOND_LOOK_S + min(overdue_s, self._deadline_s))
        else:
            self.end(f"no reply within {self._deadline_s * 1000:.0f} ms")

    def _probe_again(self) -> None:
        self._send_probe()
        self.start_probing()

    def _send_probe(self) -> asyncio.Future[Any]:
        self._probes += 1
        expected = b"%d" % self._probes

        def compare(reply: asyncio.Future[Any]) -> None:
            if not reply.cancelled() and not reply.exception() and reply.result() != expected:
                self.end("replies are out of step")

        reply = self.execute((b"PING", expected))
        # Added before anyone can await it, so it runs before they do.
        reply.add_done_callback(compare)
        return reply


def _is_confirmation(push: list[Any]) -> bool:
    """Say whether this message is the reply to our (UN)SUBSCRIBE.

    RESP3 answers these, and only these, with a push in place of a reply; an
    error comes as a reply. Both take the command's place in the order.
    """
    return bool(push) and push[0] in (b"subscribe", b"unsubscribe")


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # as in failed()


def _code(error: Exception) -> str:
    text = str(error)
    if inner := _SCRIPT_ERROR_CODE.search(text):
        return inner[1]
    outer = _ERROR_CODE.match(text)
    return outer[0] if outer else "ERR"
