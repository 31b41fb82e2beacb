"""The routes' budgets, and the log of samples that they follow from.

Samples are taken up from the log alone, also this process' own, so that all hosts take up the same
in the same order.
"""

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any, Final

from embeddings.decision.budget import MOST_SAMPLES, Budget
from embeddings.decision.sample import Sample
from embeddings.observer import Observer
from embeddings.out_of_memory import end_process
from embeddings.service.source import Source, SourceUnavailable
from embeddings.wire import Budgeted

logger = logging.getLogger("recollect.embeddings")

_POLL_S: Final = 0.25
_BACKOFF_S: Final = 2.0
_BATCH: Final = 1000
_REFRESH_S: Final = 600.0
_MOST_BUDGETS: Final = 1000


class Ledger:
    """Knows how each route stands.

    Args:
        source: The log.
        observer: Told how routes stand.
    """

    def __init__(self, source: Source, observer: Observer) -> None:
        self._source = source
        self._observer = observer
        self._samples: defaultdict[str, deque[Sample]] = defaultdict(
            lambda: deque(maxlen=MOST_SAMPLES)
        )
        self._budgets: dict[tuple[str, float], Budget] = {}
        self._forbidden: set[bytes] = set()
        self._position = "0-0"
        self._refresh_at = 0.0
        self._has_news = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow the log."""
        self._following = asyncio.create_task(self._follow(), name="follow the samples")

    async def stop(self) -> None:
        """End following."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])

    def budget(self, budgeted: Budgeted) -> Budget:
        """Return a route's budget, with all that was learned on the route."""
        route, max_error = budgeted.route, budgeted.max_error
        budget = self._budgets.get((route, max_error))
        if budget is None:
            # Workers with other settings than before: those before are soon gone.
            while len(self._budgets) >= _MOST_BUDGETS:
                self._budgets.pop(next(iter(self._budgets)))
            budget = Budget(max_error)
            budget.add_all(self._samples[route])
            self._budgets[route, max_error] = budget
            self._report(route, budget)
        return budget

    def is_forbidden(self, pair: bytes) -> bool:
        """Return whether a question's key and an answer group were forbidden together."""
        return pair in self._forbidden

    async def forbid(self, pair: bytes) -> None:
        """Forbid a question's key and an answer group together, for good.

        Raises:
            SourceUnavailable: It may not have been written down.
        """
        await self._source.forbid(pair)
        self._forbidden.add(pair)

    async def learn(self, route: str, sample: Sample) -> None:
        """Write a sample down; it is taken up when it is read again.

        Raises:
            SourceUnavailable: It may not have been written down.
        """
        await self._source.learn(route, sample.to_bytes())
        self._has_news.set()

    def states(self) -> dict[str, dict[str, Any]]:
        """Return how each route stands, as JSON."""
        return {route: state_of(budget) for (route, _), budget in self._budgets.items()}

    async def _follow(self) -> None:
        has_failed = False
        while True:
            self._has_news.clear()
            try:
                is_all = await self._read()
                has_failed = False
            except SourceUnavailable as error:
                if not has_failed:  # once, not with each try
                    logger.warning("what was learned cannot be read: %s", error)
                has_failed = True
                await asyncio.sleep(_BACKOFF_S)
                continue
            except MemoryError:
                end_process()
            except Exception:
                # The last resort: without this loop a route would serve on, and never learn.
                logger.exception("what was learned was not read by a defect")
                await asyncio.sleep(_BACKOFF_S)
                continue
            if is_all:
                try:
                    async with asyncio.timeout(_POLL_S):
                        await self._has_news.wait()
                except TimeoutError:
                    pass

    async def _read(self) -> bool:
        """Take up what is new; return whether that was all of it."""
        now = time.monotonic()
        if now >= self._refresh_at:
            stored = await self._source.forbidden()
            # Read now and then, so that Redis does not take the set for one that nobody needs; and
            # written again, should it have done so.
            for pair in self._forbidden - stored:
                await self._source.forbid(pair)
            self._forbidden |= stored
            self._refresh_at = now + _REFRESH_S
        learned = await self._source.learned(self._position, _BATCH)
        self._position = learned.position
        self._forbidden.update(learned.forbidden)
        self._take_up(learned.samples)
        return learned.messages < _BATCH

    def _take_up(self, samples: Sequence[tuple[str, bytes]]) -> None:
        changed = set()
        for route, raw in samples:
            try:
                sample = Sample.from_bytes(raw)
            except ValueError:
                continue  # another version's
            self._samples[route].append(sample)
            for name, budget in self._budgets.items():
                if name[0] == route:
                    budget.add(sample)
                    changed.add(name)
        for name in changed:
            self._report(name[0], self._budgets[name])

    def _report(self, route: str, budget: Budget) -> None:
        self._observer.budget(route, budget.is_serving, budget.threshold, budget.measured())


def state_of(budget: Budget) -> dict[str, Any]:
    """Return how a route stands, as JSON."""
    seen = budget.measured()
    return {
        "max_error": budget.max_error,
        "is_serving": budget.is_serving,
        "threshold": budget.threshold,
        "samples": budget.samples,
        "alarms": budget.alarms,
        "compared": seen.seen,
        "wrong": seen.wrong,
        "error_low": seen.low,
        "error_high": seen.high,
    }
