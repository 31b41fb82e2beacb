"""The threads of an index: an owner, which does one thing at a time, and others beside it.

The others may wait for the owner, never the other way round. The owner's calls end within about
2 ms each, as a search may have to wait for one; what takes longer is done in slices, or beside it.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import faiss

from embeddings.out_of_memory import end_process

_Result = TypeVar("_Result")

_log = logging.getLogger("recollect.embeddings")


class IndexThreads:
    """Four threads, which end when it is closed.

    Attributes:
        saver: Writes.
        loader: Reads.
        renewer: Computes.
        is_closed: Whether they are about to end; what takes long looks at it.
    """

    def __init__(self) -> None:
        """Begin."""
        self.is_closed = False
        # OpenMP's number of threads is a setting of each thread that asks.
        self._owner = ThreadPoolExecutor(1, "index", faiss.omp_set_num_threads, (1,))
        self.saver = ThreadPoolExecutor(1, "index-saver")
        self.loader = ThreadPoolExecutor(1, "index-loader")
        self.renewer = ThreadPoolExecutor(1, "index-renewer", faiss.omp_set_num_threads, (1,))

    def call(self, call: Callable[..., _Result], *args: Any) -> "asyncio.Future[_Result]":
        """Have the owner do something; from the event loop."""
        return asyncio.wrap_future(self._owner.submit(_whole_or_end, call, *args))

    def ask(self, call: Callable[..., _Result], *args: Any) -> _Result:
        """Have the owner do something, and wait for it; from another thread."""
        return self._owner.submit(_whole_or_end, call, *args).result()

    def later(self, call: Callable[..., None], *args: Any) -> None:
        """Have the owner do something behind the calls that have come, unless it is closed."""
        if not self.is_closed:
            self._owner.submit(_whole_or_end, call, *args).add_done_callback(_log_failure)

    def beside(
        self,
        thread: ThreadPoolExecutor,
        work: Callable[[], _Result],
        then: "Callable[[Future[_Result]], None]",
    ) -> None:
        """Have another thread do `work`, and the owner `then`, unless it is closed by then."""

        def hand_over(done: "Future[_Result]") -> None:
            # On the thread that did it, or on the one that cancelled it while closing.
            self.later(then, done)

        if not self.is_closed:
            thread.submit(_whole_or_end, work).add_done_callback(hand_over)

    async def close(self) -> None:
        """End the threads."""
        self.is_closed = True
        # The owner last: the others may wait for it.
        for thread in (self.saver, self.loader, self.renewer, self._owner):
            await asyncio.to_thread(thread.shutdown, cancel_futures=True)


def _whole_or_end(call: Callable[..., _Result], *args: Any) -> _Result:
    try:
        return call(*args)
    except MemoryError:
        end_process()


def _log_failure(done: "Future[None]") -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        _log.error("the index was not tended", exc_info=error)
