"""The semantic tier: is there a stored response to this question, asked in other words?

The embedding process says which stored questions are near; the response itself is fetched from the
exact tier, by the rules that hold there. A response that is gone is a miss, and its vector goes
too; one that could not be fetched is a miss, and nothing follows from it. A fault, or a look-up
that takes too long, is a miss; it is caught and counted here and nowhere else.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import Final, Protocol

from cachestore.vector_record import Meaning
from embeddings.client import EmbeddingsUnavailable
from embeddings.guards.conflict import conflict
from embeddings.guards.guard import Guard
from embeddings.guards.traits import Traits, traits
from embeddings.verdict import Verdict
from embeddings.wire import MOST_MATCHES, Budgeted, Found, LookUp, Neighbour
from proxy.lookup.answers import StoredAnswer, said_by
from proxy.lookup.ask import Ask
from proxy.lookup.keys import Unkeyable
from proxy.lookup.meaning import ExactOnly, Question, earlier, question_of
from proxy.lookup.policy import Reuse, may_reuse
from proxy.lookup.tiers import Tiers

_stored_traits = lru_cache(maxsize=2048)(traits)
"""Of stored questions: what is asked again and again is near to the same ones."""

_NEIGHBOURS: Final = 4
"""How many are asked for: the nearest may have expired, or not be what the request will have."""


class Looked(StrEnum):
    """How a look-up in the semantic tier ended."""

    HIT = "hit"
    """A stored response may answer."""
    SHADOW = "shadow"
    """One might have answered, but the mode is `shadow`."""
    FAR = "far"
    """The nearest question is not near enough."""
    NOTHING = "nothing"
    """No question was stored in this partition."""
    GONE = "gone"
    """What was near enough has left the store."""
    VETOED = "vetoed"
    """What was near enough asks something else; see `embeddings.guards`."""
    NOT_REUSED = "not-reused"
    """What was near enough may not answer this request, by its directives or its age; or nothing
    says what it was asked."""
    EARNING = "earning"
    """An answer was sure enough for the budget, but the route has yet to earn its hits."""
    UNSURE = "unsure"
    """The evidence for an answer is too weak for the budget."""
    FORBIDDEN = "forbidden"
    """Somebody said that what the neighbours speak for is wrong for this question."""
    FAILED = "failed"
    """What was near enough could not be fetched, as Redis failed."""
    SCRIPT = "script"
    """The encoder was not trained for a script in the text."""
    LONG = "long"
    """The text has more tokens than the encoder sees."""
    UNKNOWN_TOKENS = "unknown-tokens"
    """A word of the text is unknown to the encoder."""
    DEADLINE = "deadline"
    """The embedding process, or Redis, did not answer in time."""
    DOWN = "down"
    """It could not be reached."""
    BUSY = "busy"
    """Too many texts waited already."""
    PROTOCOL = "protocol"
    """It answered with something else than an answer."""
    OPEN = "open"
    """It was not asked, as it had failed just before."""


_UNDECIDED: Final = {
    Verdict.EARNING: Looked.EARNING,
    Verdict.UNSURE: Looked.UNSURE,
    Verdict.VETOED: Looked.VETOED,
    Verdict.FORBIDDEN: Looked.FORBIDDEN,
    Verdict.NOTHING: Looked.NOTHING,
}
_REFUSALS: Final = frozenset({Looked.SCRIPT, Looked.LONG, Looked.UNKNOWN_TOKENS})


class SemanticObserver(Protocol):
    """Where look-ups are counted."""

    def looked_up(self, tier: str, seconds: float) -> None:
        """A look-up in `tier` took `seconds`."""

    def meant(self, outcome: Looked) -> None:
        """A look-up ended so."""

    def exact_only(self, reason: ExactOnly) -> None:
        """A request is not compared by meaning."""

    def vetoed(self, guard: Guard) -> None:
        """A question that was near enough asks something else."""

    def nearest(self, score: float) -> None:
        """The nearest stored question was so near (cosine)."""


class Embeddings(Protocol):
    """The embedding process, as a worker sees it."""

    async def look_up(self, look_up: LookUp, until: float) -> Found:
        """Return what is near a text by `until` (loop time), or raise EmbeddingsUnavailable."""

    def add_soon(self, keys: list[bytes]) -> None:
        """Tell that `keys` were stored."""

    def remove_soon(self, keys: list[bytes]) -> None:
        """Tell that the responses of `keys` are gone."""


@dataclass(frozen=True, slots=True)
class Near:
    """A stored response to the same question in other words.

    Attributes:
        answer: What answers.
        reuse: Its age and remaining freshness.
        score: How near the two questions are (cosine).
        is_check: Whether the upstream is to be asked all the same, behind this.
    """

    answer: StoredAnswer
    reuse: Reuse
    score: float
    is_check: bool = False


class SemanticTier:
    """Looks up by meaning.

    Args:
        embeddings: The embedding process.
        tiers: Where the responses lie.
        observer: Counts what happens.
        min_score: The least cosine between two questions with one answer.
        deadline_s: How long a look-up may take, with all that belongs to it.
        check_share: Share of the hits within an error budget that are checked, 0 … 1.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        tiers: Tiers,
        observer: SemanticObserver,
        *,
        min_score: float,
        deadline_s: float,
        check_share: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._embeddings = embeddings
        self._tiers = tiers
        self._observer = observer
        self._min_score = min_score
        self._deadline_s = deadline_s
        self._check_share = check_share
        self._clock = clock

    async def look_up(self, ask: Ask, key: bytes) -> Near | Meaning | None:
        """Return a stored response that may answer; else what to store the new one with.

        Args:
            ask: What is asked.
            key: Its exact key, under which nothing is stored.

        None where the request is for the exact tier only.
        """
        if ask.route.semantic == "off":
            return None
        began = time.perf_counter()
        until = asyncio.get_running_loop().time() + self._deadline_s
        question = await self._question(ask, until)
        if question is None:
            return None
        if isinstance(question, ExactOnly):
            self._observer.exact_only(question)
            return None
        try:
            found = await self._embeddings.look_up(self.look_up_of(ask, key, question), until)
        except EmbeddingsUnavailable as error:
            self._observer.meant(Looked(error.kind))
            return _unencoded(question)
        if found.refused is not None:
            # A word of another version's is no outcome of ours.
            is_known = found.refused in _REFUSALS
            self._observer.meant(Looked(found.refused) if is_known else Looked.PROTOCOL)
            # Another encoder, some day, may take it.
            return _unencoded(question)
        outcome, near = Looked.DEADLINE, None
        try:
            # The client has kept to `until` by itself; those who ask Redis have to be told.
            async with asyncio.timeout_at(until):
                outcome, near = await self._nearest(ask, question, found)
        except TimeoutError:
            pass
        self._observer.looked_up("semantic", time.perf_counter() - began)
        if near is not None and ask.route.semantic == "shadow":
            outcome, near = Looked.SHADOW, None
        self._observer.meant(outcome)
        return near or Meaning(question.partition, question.text, found.fingerprint, found.vector)

    def look_up_of(self, ask: Ask, key: bytes, question: Question) -> LookUp:
        """Return what the embedding process is asked."""
        route = ask.route
        if route.max_error is None:
            return LookUp(question.partition, question.text, _NEIGHBOURS)
        # In the shadow nothing is served, and so nothing is to be checked.
        check_share = self._check_share if route.semantic == "on" else 0.0
        budgeted = Budgeted(key, route.name, route.max_error, check_share)
        return LookUp(question.partition, question.text, MOST_MATCHES, budgeted)

    async def meaning(self, ask: Ask) -> Meaning | None:
        """Return what to store an answer with for which nothing was looked up.

        None where the request is for the exact tier only; and where its history could not be looked
        up within the deadline, as it goes upstream only then: its answer is found in its own words.
        """
        if ask.route.semantic == "off":
            return None
        until = asyncio.get_running_loop().time() + self._deadline_s
        question = await self._question(ask, until)
        return _unencoded(question) if isinstance(question, Question) else None

    async def question(self, ask: Ask) -> Question | ExactOnly | None:
        """Return what is compared of a request, or why nothing is; None where that is not known."""
        return await self._question(ask, asyncio.get_running_loop().time() + self._deadline_s)

    @property
    def min_score(self) -> float:
        """The least cosine between two questions with one answer, where no budget decides."""
        return self._min_score

    def stored(self, key: bytes) -> None:
        """Let what has just been stored be found at once, on this host."""
        self._embeddings.add_soon([key])

    async def _question(self, ask: Ask, until: float) -> Question | ExactOnly | None:
        """Return what to look up; None where that is not known by `until`, which is counted."""
        answered_by = None
        try:
            # Who does not ask Redis waits for nothing here, and needs no timer.
            if ask.route.chains_history:
                async with asyncio.timeout_at(until):
                    answered_by = await self._answered_by(ask)
            is_budgeted = ask.route.max_error is not None
            return question_of(ask.request, ask.scope, answered_by, is_budgeted=is_budgeted)
        except Unkeyable:
            return ExactOnly.TURN
        except TimeoutError:
            self._observer.meant(Looked.DEADLINE)
            return None

    async def _answered_by(self, ask: Ask) -> bytes | None:
        """Return what stands for the stored response that is the last answer in the history.

        Its key and what it says: asked anew, a question may be answered otherwise.
        """
        before = earlier(ask.request, ask.scope)
        if before is None:
            return None
        answer = self._tiers.peek(before.key) or await self._tiers.fetch(
            before.key, follows_aliases=ask.route.follows_aliases
        )
        # What the request says was answered is the client's word, until it is compared.
        if answer is None or said_by(answer) != before.said:
            return None
        return sha256(answer.key + before.said.encode()).digest()

    async def _nearest(
        self, ask: Ask, question: Question, found: Found
    ) -> tuple[Looked, Near | None]:
        decided = found.decided
        if decided is not None:
            if decided.guard is not None:
                self._observer.vetoed(decided.guard)
            if decided.verdict is not Verdict.SERVE:
                return _UNDECIDED[decided.verdict], None
            return await self._first(ask, found.matches, decided.is_check, None)
        if ask.route.max_error is not None:
            # An older process: what it found is near, and nothing has been decided.
            return Looked.PROTOCOL, None
        if not found.matches:
            return Looked.NOTHING, None
        self._observer.nearest(found.matches[0].score)
        near = [match for match in found.matches if match.score >= self._min_score]
        if not near:
            return Looked.FAR, None
        return await self._first(ask, near, False, traits(question.text))

    async def _first(
        self, ask: Ask, near: Sequence[Neighbour], is_check: bool, asked: Traits | None
    ) -> tuple[Looked, Near | None]:
        """Return the first of `near` that may answer.

        Args:
            ask: What is asked.
            near: Not empty, best first.
            is_check: Whether a hit is to be checked.
            asked: What the guards are to compare; None where they have been asked.
        """
        outcome = Looked.FAR
        fetched: dict[bytes, StoredAnswer | None] | None = None
        for match in near:
            answer = self._tiers.peek(match.key)
            if answer is None or answer.key != match.key:
                # Not by an alias: near to what was near is not near.
                if fetched is None:
                    # All in one trip: seldom more than one, and the deadline is short.
                    fetched = await self._tiers.fetch_many([one.key for one in near])
                if match.key not in fetched:
                    outcome = Looked.FAILED
                    continue
                answer = fetched[match.key]
            if answer is None or not answer.is_kept(self._clock()):
                self._embeddings.remove_soon([match.key])
                outcome = Looked.GONE
                continue
            if not answer.asked:
                # Stored anew by somebody who could not tell; what was there before is still found.
                outcome = Looked.NOT_REUSED
                continue
            if asked is not None:
                guard = conflict(asked, _stored_traits(answer.asked))
                if guard is not None:
                    self._observer.vetoed(guard)
                    outcome = Looked.VETOED
                    continue
            reuse = may_reuse(answer, ask.directives, self._clock(), ask.route.rules)
            # One that depends on header fields is for who sent those (RFC 9111 §4.1).
            if (
                isinstance(reuse, Reuse)
                and not reuse.revalidate
                and not answer.vary
                and self._can_be_sent(ask, answer)
            ):
                return Looked.HIT, Near(answer, reuse, min(match.score, 1.0), is_check)
            outcome = Looked.NOT_REUSED
        return outcome, None

    def _can_be_sent(self, ask: Ask, answer: StoredAnswer) -> bool:
        request = ask.request
        return self._tiers.template(answer, request.form, request.include_usage) is not None


class NoSemanticTier(SemanticTier):
    """Stands in where there is no embedding process."""

    def __init__(self) -> None:
        """Look nothing up."""

    async def look_up(self, ask: Ask, key: bytes) -> None:
        """Return that the request is for the exact tier only."""
        return

    async def meaning(self, ask: Ask) -> None:
        """Return that the request is for the exact tier only."""
        return

    def stored(self, key: bytes) -> None:
        """Tell nobody."""


def _unencoded(question: Question) -> Meaning:
    """Return a meaning without its vector: whoever indexes it will encode the text."""
    return Meaning(question.partition, question.text)
