"""Keeps an engine's index in step with the store, from the start to the end of the process.

It begins where the snapshot stands in the log of changes, if the log still has that place; else
the index is filled anew from the whole store, at a bounded rate, while what is there is served.
After that it follows the log. It has no end of its own: what fails is tried again.

One rule holds everywhere: a position is moved on, and saved, only after the index holds
everything up to it. Being too far back is harmless, as looking twice at a key is.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from embeddings.encoding.batching import Busy
from embeddings.index.vector_index import IndexUnavailable, VectorIndex
from embeddings.observer import Observer, RebuildCause
from embeddings.out_of_memory import end_process, end_without_memory
from embeddings.service.engine import Engine
from embeddings.service.source import Source, SourceUnavailable

logger = logging.getLogger("recollect.embeddings")

REBUILD_RATE: Final = 20_000
"""Records per second. A rebuild shares Redis and the CPU with requests; at this rate 100,000
entries take five seconds."""

_LEAST_PER_PAGE: Final = 100
"""Records that a page of a scan counts for at least: Redis looks through a thousand keys for it,
which takes about half a millisecond, however few of them are ours."""

_LOST_EVERY_S: Final = 600.0
"""How often an index that loses vectors is filled anew: a failing disk may lose them for ever."""

_BATCH: Final = 500
_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_MAX_S: Final = 2.0
_AFTER_DEFECT_S: Final = 1.0

_RETRYABLE: Final = (SourceUnavailable, IndexUnavailable, Busy)


class Follower:
    """The one who moves an engine's index on."""

    def __init__(
        self,
        engine: Engine,
        index: VectorIndex,
        source: Source,
        observer: Observer,
        *,
        cause: RebuildCause = "start",
        rebuild_rate: float = REBUILD_RATE,
        poll_every_s: float = 0.1,
        snapshot_every_s: float = 300.0,
        tidy_every_s: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare a follower; `start` begins.

        Args:
            engine: Told which keys to look at.
            index: The engine's.
            source: The engine's.
            observer: Told of lag, rebuilds, snapshots and the index's size.
            cause: Why the index is filled anew, where there is no usable snapshot.
            rebuild_rate: The most records per second a rebuild reads.
            poll_every_s: How often the log is read, once its end is reached.
            snapshot_every_s: How often the index is saved, if anything has changed.
            tidy_every_s: How often what has expired is dropped from the index, and it is seen
                whether a snapshot is due.
            clock: Unix seconds.
        """
        self._engine = engine
        self._index = index
        self._source = source
        self._observer = observer
        self._cause: RebuildCause = cause
        self._rebuild_rate = rebuild_rate
        self._poll_every_s = poll_every_s
        self._snapshot_every_s = snapshot_every_s
        self._tidy_every_s = tidy_every_s
        self._clock = clock
        # Where the index stands in the log; None while that is nowhere.
        self._position: str | None = None
        self._saved: str | None = None
        self._save_at = 0.0
        self._refill_at = 0.0
        self._has_loaded = False
        self._has_failed = False
        self._in_step_at = clock()
        self._ready = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._saving: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the index has caught up with the store once."""
        return self._ready.is_set()

    async def wait_ready(self) -> None:
        """Wait until the index has caught up once."""
        await self._ready.wait()

    def start(self) -> None:
        """Begin to follow."""
        self._tasks = [
            asyncio.create_task(self._keep_at(self._step), name="follow the log"),
            asyncio.create_task(self._keep_at(self._tidy), name="tidy the index"),
            asyncio.create_task(self._keep_at(self._save_in_time), name="have the index saved"),
        ]

    async def stop(self, *, is_saved: bool = True) -> None:
        """End following.

        Args:
            is_saved: Whether the index is saved now, if anything has changed.
        """
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._saving is not None:
            await self._saving
        if is_saved:
            await self._save()

    async def _keep_at(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do `step` again and again, whatever becomes of it."""
        backoff_s = _BACKOFF_FIRST_S
        while True:
            try:
                await step()
                backoff_s = _BACKOFF_FIRST_S
                continue
            except _RETRYABLE as error:
                # A reply that finds no memory breaks the connection to Redis, like any other fault.
                end_without_memory()
                if backoff_s == _BACKOFF_FIRST_S:  # once, not with each try
                    logger.warning("the index cannot be kept in step: %s", error)
                wait_s = backoff_s
                backoff_s = min(2 * backoff_s, _BACKOFF_MAX_S)
            except MemoryError:
                end_process()
            except Exception:
                # The last resort: without this loop the index would grow old in silence.
                logger.exception("the index was not kept in step by a defect")
                wait_s = _AFTER_DEFECT_S
            self._has_failed = True
            self._observer.lag(max(0.0, self._clock() - self._in_step_at))
            # Jitter, so that all hosts' processes do not all knock at once.
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))

    async def _step(self) -> None:
        """Take up the snapshot, or fill the index anew, or follow the log by one batch."""
        if not self._has_loaded:
            await self._load()
        elif self._position is None:
            await self._rebuild()
        elif not self._index.is_whole and time.monotonic() >= self._refill_at:
            logger.warning("the index has lost vectors: it is filled anew")
            self._refill_at = time.monotonic() + _LOST_EVERY_S
            self._cause = "lost"
            self._position = None
        else:
            await self._follow(self._position)

    async def _load(self) -> None:
        began = time.perf_counter()
        position = await self._index.load()
        if position is not None:
            self._observer.snapshot("loaded", time.perf_counter() - began)
        self._has_loaded = True
        self._save_at = time.monotonic() + self._snapshot_every_s
        self._position = self._saved = position
        await self._report_size()

    async def _follow(self, position: str) -> None:
        changes = await self._source.changes(position, _BATCH)
        if changes is None:
            # A store that was away and has lost its log was emptied, or is another one by now.
            self._cause = "store" if self._has_failed else "trimmed"
            self._position = None
            return
        if changes.keys:
            await self._refresh(changes.keys)
        self._position = changes.position
        self._in_step_at = self._clock() if changes.oldest_at is None else changes.oldest_at
        self._observer.lag(max(0.0, self._clock() - self._in_step_at))
        if len(changes.keys) < _BATCH:
            self._has_failed = False
            self._ready.set()
            await asyncio.sleep(self._poll_every_s)

    async def _rebuild(self) -> None:
        """Look at every record there is.

        Begun anew, and not gone on with, when anything fails: a scan's cursor means nothing to the
        server that may have taken over since. What had no vector has one by then.
        """
        began = time.perf_counter()
        # Before the scan: what changes under it is in the log behind this place.
        position = await self._source.mark()
        await self._index.begin_sweep()
        cursor, seen, is_over = 0, 0, False
        keys: list[bytes] = []
        while not is_over or keys:
            if len(keys) < _BATCH and not is_over:
                cursor, some = await self._source.scan(cursor)
                keys += some
                is_over = cursor == 0
                seen += max(len(some), _LEAST_PER_PAGE)
            else:
                batch, keys = keys[:_BATCH], keys[_BATCH:]
                await self._refresh(batch)
            self._observer.lag(max(0.0, self._clock() - self._in_step_at))
            ahead_s = seen / self._rebuild_rate - (time.perf_counter() - began)
            # Also with nothing to wait for: look-ups have their turn between two steps.
            await asyncio.sleep(max(0.0, ahead_s))
        await self._index.end_sweep()
        self._position = position
        self._save_at = 0.0
        self._observer.rebuilt(self._cause, time.perf_counter() - began)
        await self._report_size()

    async def _refresh(self, keys: list[bytes]) -> None:
        try:
            await self._engine.refresh(keys)
        except (*_RETRYABLE, MemoryError):
            raise
        except Exception:
            # A defect of ours, or of a library's at some vector: it costs that record, no more.
            logger.exception("a batch of records was not taken up by a defect: now one by one")
        else:
            return
        # One record that nobody can take up must not hold up all that come after it.
        failures = 0
        for key in keys:
            try:
                await self._engine.refresh([key])
            except (*_RETRYABLE, MemoryError):
                raise
            except Exception:
                # Whatever it is, it was logged with the batch: once, not five hundred times.
                failures += 1
        logger.error("%d of %d records were left out", failures, len(keys))

    async def _tidy(self) -> None:
        """Drop what has expired; beside the following, never before it."""
        await asyncio.sleep(self._tidy_every_s)
        await self._index.expire(self._clock())
        await self._report_size()

    async def _save_in_time(self) -> None:
        """Save what has changed; not a part of tidying, whose faults must not keep it away."""
        await asyncio.sleep(self._tidy_every_s)
        if time.monotonic() >= self._save_at:
            # Whoever stops waits for it: two must not write the same files at once.
            self._saving = asyncio.create_task(self._save(), name="save the index")
            await asyncio.shield(self._saving)

    async def _save(self) -> None:
        """Save the index, if anything has changed since it was last saved."""
        position = self._position
        # What is lost would be so behind the next start, too: the last snapshot may still have it.
        if position is None or position == self._saved or not self._index.is_whole:
            return
        self._save_at = time.monotonic() + self._snapshot_every_s
        began = time.perf_counter()
        try:
            await self._index.save(position)
        except MemoryError:
            end_process()
        except Exception:
            # Whatever it is (a full disk, say): the index serves on, the last snapshot is still
            # there, and who stops the process must come to its end.
            logger.exception("the index was not saved")
            self._observer.snapshot("failed", time.perf_counter() - began)
            return
        self._saved = position
        self._observer.snapshot("saved", time.perf_counter() - began)

    async def _report_size(self) -> None:
        self._observer.indexed(await self._index.stats())
