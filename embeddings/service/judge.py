"""Decides look-ups within the routes' error budgets, and learns from what came of them.

    look-up ─► neighbours' records ─► decide ─► remembered ─┐
                                                            ├─► sample ─► log ─► every host's budget
    record of the answer, however it came to be stored ─────┘

What a decision rests on lies in Redis: records, samples, forbidden pairs. Here are copies of
records, and the decisions whose answers are still to come.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from random import random
from typing import Any, Final

import numpy as np
from cachetools import LRUCache

from embeddings.decision.budget import Budget
from embeddings.decision.decision import MOST_NEIGHBOURS, Decision, Neighbour, decide
from embeddings.decision.sample import Sample
from embeddings.encoding.batching import Busy
from embeddings.guards.conflict import conflict
from embeddings.guards.traits import traits
from embeddings.index.vector_index import Match
from embeddings.observer import Observer
from embeddings.out_of_memory import end_process
from embeddings.service.comparison import Comparison, Encode
from embeddings.service.ledger import Ledger, state_of
from embeddings.service.source import Source, SourceUnavailable, Witness
from embeddings.verdict import Verdict
from embeddings.wire import Budgeted

logger = logging.getLogger("recollect.embeddings")

_MOST_WITNESSES: Final = 16_384
"""Records kept at hand, some 4 KB each."""
_MOST_REMEMBERED: Final = 10_000
"""Decisions whose answers may still come, or be told to be wrong."""


@dataclass(frozen=True, slots=True, eq=False)
class _Remembered:
    """A decision, until its answer comes; `near` has the neighbours' keys, with their groups."""

    decision: Decision
    route: str
    weight: float
    near: tuple[tuple[bytes, bytes], ...]


class Judge:
    """Decides, and learns."""

    def __init__(
        self,
        source: Source,
        encode: Encode,
        observer: Observer,
        *,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random,
    ) -> None:
        """Put a judge together.

        Args:
            source: The store, as this encoder sees it.
            encode: Makes vectors of answers when nobody waits for the encoder.
            observer: Told of decisions and samples.
            clock: Unix seconds.
            chance: Drawn evenly from 0 … 1: which hits are checked.
        """
        self._source = source
        self._comparison = Comparison(source, encode)
        self._ledger = Ledger(source, observer)
        self._observer = observer
        self._clock = clock
        self._chance = chance
        self._witnesses: LRUCache[bytes, Witness] = LRUCache(_MOST_WITNESSES)
        self._remembered: OrderedDict[bytes, _Remembered] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to follow what all hosts learn."""
        self._ledger.start()

    async def stop(self) -> None:
        """End what was begun."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._ledger.stop()

    def states(self) -> dict[str, dict[str, Any]]:
        """Return how each route stands, as JSON."""
        return self._ledger.states()

    async def judge(
        self, budgeted: Budgeted, text: str, matches: Sequence[Match]
    ) -> tuple[Decision, bool]:
        """Decide what becomes of a question, and remember that.

        Args:
            budgeted: The question's budget.
            text: What is asked.
            matches: The nearest stored questions, best first.

        Returns:
            The decision, and whether it is to be checked with the upstream if it is served.
        """
        try:
            near = await self._near(budgeted.key, matches)
        except SourceUnavailable:
            # With some voices missing the others might say something else.
            return Decision(Verdict.NOTHING), False
        budget = self._ledger.budget(budgeted)
        decision = self._decide(budgeted, text, near, budget)
        self._observer.decided(budgeted.route, decision.verdict)
        if decision.evidence is None:
            return decision, False
        budget.saw(decision.evidence)
        is_served = decision.verdict is Verdict.SERVE and budgeted.check_share > 0
        is_check = is_served and self._chance() < budgeted.check_share
        weight = 1 / budgeted.check_share if is_check else 1.0
        self._remember(
            budgeted.key,
            _Remembered(
                decision, budgeted.route, weight, tuple((one.key, one.group) for _, one in near)
            ),
        )
        return decision, is_check

    def changed(self, keys: Sequence[bytes]) -> None:
        """Take note that the records of `keys` were written or have gone; learn from them soon."""
        for key in keys:
            self._witnesses.pop(key, None)
        awaited = [key for key in keys if key in self._remembered]
        if awaited:
            self._begin(self._compare(awaited))

    async def _compare(self, keys: Sequence[bytes]) -> None:
        """Compare answers that have come with those that were expected."""
        try:
            for witness in await self._source.witnesses(keys):
                remembered = None if witness is None else self._remembered.get(witness.key)
                if witness is not None and remembered is not None:
                    is_right = await self._is_right(witness, remembered)
                    # Unless another has compared the same answer meanwhile.
                    if self._remembered.pop(witness.key, None) is remembered:
                        await self._learn(remembered, is_right)
        except (SourceUnavailable, Busy) as error:
            logger.debug("an answer was not learned from: %s", error)
        except MemoryError:
            end_process()
        except Exception:
            # An encoder may raise anything at some text; that costs this label, and is told.
            logger.exception("an answer was not learned from by a defect")

    async def _is_right(self, witness: Witness, remembered: _Remembered) -> bool:
        await self._read([key for key, _ in remembered.near])
        known = [(self._witnesses.get(key), group) for key, group in remembered.near]
        # Groups may have been merged since: by their names of now.
        expected = {
            one.group
            for one, group in known
            if one is not None and group == remembered.decision.group
        }
        near = [one for one, _ in known if one is not None]
        probability = remembered.decision.probability
        said = await self._comparison.groups(witness, near, expected, probability)
        return not expected.isdisjoint(said)

    async def told(self, key: bytes, served: bytes | None, is_good: bool) -> bool:
        """Take up what somebody says of the answer that the question `key` was given.

        A bad answer's group never answers that question again.

        Args:
            key: The question's exact key.
            served: The key of the stored response it was given, if that is known.
            is_good: What is said.

        Returns:
            Whether a bad answer was forbidden, a good one learned.

        Raises:
            SourceUnavailable: It may not have been taken up.
        """
        remembered = self._remembered.pop(key, None)
        groups: set[bytes] = set()
        if not is_good:
            # The answer that it was given by alias, or has of its own.
            (witness,) = await self._source.witnesses([served or key])
            if witness is not None:
                # The words' own group as well: groups are merged, and have another name then.
                groups = {witness.group, witness.words}
            elif remembered is not None:
                groups = {remembered.decision.group} - {b""}
        for group in groups:
            await self._ledger.forbid(key + group)
        # Of what would not have been served, nothing was said.
        is_learned = remembered is not None and remembered.decision.would_serve
        if remembered is not None and is_learned:
            await self._learn(remembered, is_good)
        return bool(groups) or (is_good and is_learned)

    async def explain(
        self, budgeted: Budgeted, text: str, matches: Sequence[Match]
    ) -> dict[str, Any]:
        """Return, as JSON, what would be decided and why; nothing is remembered.

        Raises:
            SourceUnavailable: The records could not be read.
        """
        near = await self._near(budgeted.key, matches)
        budget = self._ledger.budget(budgeted)
        decision = self._decide(budgeted, text, near, budget)
        asked = traits(text)
        return {
            "verdict": decision.verdict,
            "probability": decision.probability,
            "threshold": budget.threshold,
            "group": decision.group.hex(),
            "guard": decision.guard,
            "route": state_of(budget),
            "neighbours": [
                {
                    "key": one.key.hex(),
                    "score": match.score,
                    "text": one.text,
                    "group": one.group.hex(),
                    "guard": conflict(asked, traits(one.text)),
                    "is_retired": budget.is_retired(one.group, one.stored_at),
                }
                for match, one in near
            ],
        }

    def _decide(
        self,
        budgeted: Budgeted,
        text: str,
        near: Sequence[tuple[Match, Witness]],
        budget: Budget,
    ) -> Decision:
        neighbours = [
            Neighbour(
                key=one.key,
                score=match.score,
                text=one.text,
                vector=np.frombuffer(one.vector, dtype="<f4"),
                group=one.group,
                stored_at=one.stored_at,
            )
            for match, one in near
        ]
        forbidden = {
            one.group
            for _, one in near
            if self._ledger.is_forbidden(budgeted.key + one.words)
            or self._ledger.is_forbidden(budgeted.key + one.group)
        }
        return decide(text, neighbours, budget, forbidden)

    async def _near(self, own: bytes, matches: Sequence[Match]) -> list[tuple[Match, Witness]]:
        """Return the matches that are known whole. What is stored under the request's own key is
        what it would be answered by exactly, and no evidence."""
        nearest = [match for match in matches[:MOST_NEIGHBOURS] if match.key != own]
        await self._read([match.key for match in nearest])
        size = {len(one.vector) for m in nearest if (one := self._witnesses.get(m.key))}
        if len(size) > 1:
            return []
        return [
            (match, witness)
            for match in nearest
            if (witness := self._witnesses.get(match.key)) is not None
        ]

    async def _read(self, keys: Sequence[bytes]) -> None:
        """Have the records of `keys` at hand, of those that are there."""
        unknown = [key for key in keys if key not in self._witnesses]
        if unknown:
            for witness in await self._source.witnesses(unknown):
                if witness is not None:
                    self._witnesses[witness.key] = witness

    def _remember(self, key: bytes, remembered: _Remembered) -> None:
        self._remembered.pop(key, None)
        self._remembered[key] = remembered
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # What came.

    async def _learn(self, remembered: _Remembered, is_right: bool) -> None:
        decision = remembered.decision
        if decision.evidence is None:
            return
        sample = Sample(
            at=self._clock(),
            group=decision.group,
            evidence=decision.evidence,
            probability=decision.probability,
            weight=remembered.weight,
            is_right=is_right,
            would_serve=decision.would_serve,
        )
        await self._ledger.learn(remembered.route, sample)
        self._observer.compared(remembered.route, decision.would_serve, is_right)
