"""Single flight: one upstream call for all requests with one key.

A flight owns the fetching task, collects what comes, and lets any number of requests watch. The
first request that asks starts it; it has no other privilege: when its client leaves, the flight
goes on for the others, and ends when the last of them has left.

Memory is bounded. A flight whose content outgrows `max_bytes` takes no more watchers, drops what
all of them have read, and waits for the slowest.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from proxy.lookup.answers import StoredAnswer

Headers = list[tuple[bytes, bytes]]


_TERMINATOR: Final = b"data: [DONE]"
_WRITE_BYTES: Final = 262144
_PATIENCE_S: Final = 1.0
_HERD: Final = 32
_GATHER_S: Final = 0.01


_log = logging.getLogger("recollect.flights")


class Landed(Enum):
    """How a flight without a stored response ended."""

    FAILED = "failed"
    """The upstream could not answer: worth one more try by one other request."""
    UNSTORABLE = "unstorable"
    """It answered, but only for the one who asked: everyone else must ask for themselves."""


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of an answer.

    Attributes:
        status: The status code.
        headers: All end-to-end header fields: for the client whose request it was.
        shared: Those for others who may watch the answer while it comes; None: nobody may.
        is_stream: Whether it is an event stream.
    """

    status: int
    headers: Headers
    shared: Headers | None
    is_stream: bool


class FlightFailed(Exception):
    """The flight broke off; `cause` says why."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Lagging(Exception):
    """A watcher fell so far behind the others that waiting for it would have held them up."""


class Flight:
    """One answer on its way, and those who watch it.

    Attributes:
        key: The exact key.
        form: What must be equal for two requests to share the bytes as they come (streamed or
            not, usage asked for, content codings accepted). Requests of another form wait for
            the stored response.
        head: Status and header fields, once they are here.
        is_whole: The content ended as it should.
        error: Why it broke off.
        landed: The stored response, or why there is none; None while under way.
        reason: Why it is not stored, once that is known.
        is_filed: Whether nothing more will be written to a store.
        board_key: Under which others find it, if they may.
        failures: How often the upstream has failed on this request, for this flight or one
            before it that it came to replace.
        failed_status: The status code with which it failed; 502 where there was none.
        is_leading: It fetches the answer itself, so that other workers may follow it.
        is_collapsed: The answer comes from another worker's flight.
        score: Where it landed on the answer to the same question in other words: how near those
            are (cosine); else None.
        is_check: It landed so, and the upstream is to be asked all the same.
        is_deserted: All watchers have left before its end; it is being cancelled.
    """

    def __init__(self, key: bytes, form: object, max_bytes: int) -> None:
        self.key = key
        self.form = form
        self.head: Head | None = None
        self.is_whole = False
        self.error: Exception | None = None
        self.landed: StoredAnswer | Landed | None = None
        self.reason: str | None = None
        self.is_filed = False
        self.board_key: bytes | None = None
        self.failures = 0
        self.failed_status = 502
        self.is_leading = False
        self.is_collapsed = False
        self.score: float | None = None
        self.is_check = False
        self.is_deserted = False
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._first = 0
        self._held_bytes = 0
        self._total_bytes = 0
        self._watchers: set[Watcher] = set()
        self._sleepers: list[asyncio.Future[None]] = []
        self._waking: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_oversize(self) -> bool:
        """Whether the content has outgrown what may be stored."""
        return self._total_bytes > self._max_bytes

    @property
    def is_over(self) -> bool:
        """Whether no more content will come."""
        is_found = isinstance(self.landed, StoredAnswer)
        return self.is_whole or self.error is not None or is_found

    @property
    def is_settled(self) -> bool:
        """Whether it is known what became of it."""
        return self.landed is not None

    def content(self) -> bytes:
        """Return the whole content. Only for a flight that is whole and not oversize."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    # What the fetching task tells.

    def begin(self, head: Head) -> None:
        """Announce the head."""
        self.head = head
        if head.status != 200:
            self.failed_status = head.status
        self._wake()

    async def append(self, piece: bytes) -> None:
        """Add content; past the size limit, wait until there is room.

        Room is made by the slowest watcher. If others are ahead of it, it has `_PATIENCE_S` to
        make some; then it is cut off.
        """
        self._pieces.append(piece)
        self._held_bytes += len(piece)
        self._total_bytes += len(piece)
        self._wake_for_piece()
        if self.is_oversize:
            while self._trim() > self._max_bytes:
                try:
                    async with asyncio.timeout(_PATIENCE_S):
                        await self._sleep()
                except TimeoutError:
                    self._cut_laggards()

    def end(self) -> None:
        """Announce that the content is whole."""
        self.is_whole = True
        self._wake()

    def land(self, landed: StoredAnswer | Landed) -> None:
        """Announce what became of it. The last word: nothing changes after it."""
        if self.landed is None:
            self.landed = landed
            self._wake()

    def file(self) -> None:
        """Announce that other workers find in the store what there is to find."""
        self.is_filed = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """Announce that it broke off."""
        if not self.is_over:
            self.error = error
        if not self.is_settled:
            self.failures += 1
        self.land(Landed.FAILED)
        self._wake()

    # What watchers do.

    def watch(self) -> "Watcher":
        """Join from the beginning. The watcher must `leave()` in the end."""
        watcher = Watcher(self)
        self._watchers.add(watcher)
        return watcher

    def forsake(self, watcher: "Watcher") -> None:
        """Take a watcher off; without any, the fetching task is cancelled."""
        self._watchers.discard(watcher)
        self._wake()
        if self._watchers or self.is_over or self._task is None:
            return
        # Many clients leave as soon as they read the terminator; what follows is only the
        # connection's own end, and the answer is worth storing.
        if not self._pieces or not self._pieces[-1].rstrip().endswith(_TERMINATOR):
            self.is_deserted = True
            self._task.cancel()

    def read_from(self, index: int) -> tuple[bytes, int]:
        """Return what has come from piece `index` on, and the index of what follows.

        Not more than about `_WRITE_BYTES`: a large answer must not keep the event loop from
        everyone else. Nothing new is b"".
        """
        start = index - self._first
        pieces = self._pieces
        if start >= len(pieces):
            return b"", index
        end = start + 1
        size = len(pieces[start])
        while end < len(pieces) and (size := size + len(pieces[end])) <= _WRITE_BYTES:
            end += 1
        piece = pieces[start] if end == start + 1 else b"".join(pieces[start:end])
        return piece, self._first + end

    @property
    def next_index(self) -> int:
        """The index that the next piece will have."""
        return self._first + len(self._pieces)

    async def until(self, is_so: Callable[["Flight"], bool]) -> None:
        """Wait until `is_so` holds."""
        while not is_so(self):
            await self._sleep()

    def run(self, fetching: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Start the fetching task, owned by the flight."""
        self._task = asyncio.get_running_loop().create_task(fetching)
        self._task.add_done_callback(self._ran)
        return self._task

    def _ran(self, task: "asyncio.Task[None]") -> None:
        # However it ended, nobody is left waiting: cancelled (be it before its first step, when it
        # could tell nobody), or broken by a defect of ours.
        defect = None if task.cancelled() else task.exception()
        if defect is not None:
            _log.error("a flight broke by a defect", exc_info=defect)
        if not self.is_settled:
            self.fail(ConnectionError("the fetch was cancelled or broke"))
        self.file()

    async def settled_or_cancelled(self) -> None:
        """Wait for the end of a fetching task that only has to store; cancel any other."""
        if self._task is None:
            return
        if not self.is_over:
            self._task.cancel()
        await asyncio.wait([self._task])

    async def _sleep(self) -> None:
        sleeper = asyncio.get_running_loop().create_future()
        self._sleepers.append(sleeper)
        try:
            await sleeper
        except asyncio.CancelledError:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)
            raise

    def _wake_for_piece(self) -> None:
        # A herd that is woken for every token spends its time on waking; a few pieces at a time
        # reach all of it sooner than one by one.
        if len(self._sleepers) < _HERD:
            self._wake()
        elif self._waking is None:
            self._waking = asyncio.get_running_loop().call_later(_GATHER_S, self._wake)

    def _wake(self) -> None:
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None
        sleepers, self._sleepers = self._sleepers, []
        for sleeper in sleepers:
            if not sleeper.done():
                sleeper.set_result(None)

    def _trim(self) -> int:
        """Drop what every watcher has read; return the bytes still held."""
        read_by_all = min((w.index for w in self._watchers), default=self.next_index)
        dropped = read_by_all - self._first
        if dropped > 0:
            self._held_bytes -= sum(map(len, self._pieces[:dropped]))
            del self._pieces[:dropped]
            self._first = read_by_all
        return self._held_bytes

    def _cut_laggards(self) -> None:
        """Cut off the slowest watchers, if others are ahead of them."""
        slowest = min((w.index for w in self._watchers), default=0)
        laggards = [w for w in self._watchers if w.index == slowest]
        if len(laggards) == len(self._watchers):
            return
        for watcher in laggards:
            watcher.is_cut = True
            self._watchers.discard(watcher)
        self._wake()


class Watcher:
    """One reader of a flight.

    Attributes:
        index: The next piece to read.
        is_cut: It lagged too far behind, and gets no more.
    """

    __slots__ = ("flight", "index", "is_cut")

    def __init__(self, flight: Flight) -> None:
        self.flight = flight
        self.index = 0
        self.is_cut = False

    async def next(self) -> bytes | None:
        """Return what has come since the last call, waiting for it; None at the content's end.

        Raises:
            FlightFailed: The flight broke off.
        """
        flight = self.flight
        while True:
            if self.is_cut:
                raise FlightFailed(Lagging("the reader was too slow"))
            piece, self.index = flight.read_from(self.index)
            if piece:
                if flight.is_oversize:
                    flight._wake()
                return piece
            if flight.is_whole:
                return None
            if flight.error is not None:
                raise FlightFailed(flight.error)
            await flight._sleep()

    def leave(self) -> None:
        """Stop watching."""
        self.flight.forsake(self)
