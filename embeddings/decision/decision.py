"""May a stored response be served for a question asked in other words? The whole decision.

    neighbours ─► consensus ─► probability ─ sure enough? ─► a witness without a veto ─► serve

An answer is served only from a stored question that no guard speaks against, however many others
vote for it: a figure or a name that differs is not outvoted.

Pure: no clock, no chance, no I/O.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from embeddings.decision.budget import Budget
from embeddings.decision.consensus import Floats, consensus
from embeddings.encoding.encoder import Vector
from embeddings.guards.conflict import conflict
from embeddings.guards.guard import Guard
from embeddings.guards.traits import traits
from embeddings.verdict import Verdict

MOST_NEIGHBOURS: Final = 64
_MOST_WITNESSES: Final = 16
"""Of the group's stored questions, how many are held against the guards: the nearest."""
_SERVABLE: Final = 4
"""How many are named: the nearest may have expired, or not be what the request will have."""

_stored_traits = lru_cache(maxsize=8192)(traits)
"""Of stored questions: what is asked again and again is near to the same ones."""


@dataclass(frozen=True, slots=True, eq=False)
class Neighbour:
    """A stored question near to the one that is asked.

    Attributes:
        key: Its stored response's key.
        score: Cosine to what is asked.
        text: What was asked.
        vector: Of that text, shape (dimension,), L2 norm 1.
        group: Its answer's group.
        stored_at: Unix seconds.
    """

    key: bytes
    score: float
    text: str
    vector: Vector
    group: bytes
    stored_at: float


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What was decided, and why.

    Attributes:
        verdict: The decision.
        probability: How likely the neighbours' answer is right, 0 … 1.
        group: The answer they speak for; b"" where there is none.
        evidence: What that rests on; None where there is none.
        witnesses: The keys and scores of what may be served, best first; empty unless the verdict
            would serve.
        guard: Which guard spoke against the nearest of them, if one did.
    """

    verdict: Verdict
    probability: float = 0.0
    group: bytes = b""
    evidence: Floats | None = None
    witnesses: tuple[tuple[bytes, float], ...] = ()
    guard: Guard | None = None

    @property
    def would_serve(self) -> bool:
        """Whether it was sure enough, whatever the route may do now."""
        return bool(self.witnesses)


def decide(
    text: str, neighbours: Sequence[Neighbour], budget: Budget, forbidden: Collection[bytes] = ()
) -> Decision:
    """Decide what becomes of a question.

    Args:
        text: What is asked.
        neighbours: The nearest stored questions, best first, at most MOST_NEIGHBOURS.
        budget: The route's.
        forbidden: Answer groups that must never answer this question.
    """
    voices = [one for one in neighbours if not budget.is_retired(one.group, one.stored_at)]
    if not voices:
        return Decision(Verdict.NOTHING)
    vectors = np.stack([one.vector for one in voices])
    agreed = consensus(
        np.array([one.score for one in voices], dtype=np.float64),
        (vectors @ vectors.T).astype(np.float64),
        [one.group for one in voices],
    )
    probability = budget.probability(agreed.evidence)

    def decided(
        verdict: Verdict,
        witnesses: tuple[tuple[bytes, float], ...] = (),
        guard: Guard | None = None,
    ) -> Decision:
        return Decision(verdict, probability, agreed.group, agreed.evidence, witnesses, guard)

    if agreed.group in forbidden:
        return decided(Verdict.FORBIDDEN)
    if not budget.would_serve(probability):
        return decided(Verdict.UNSURE)
    asked = traits(text)
    witnesses: list[tuple[bytes, float]] = []
    veto: Guard | None = None
    of_group = [one for one in voices if one.group == agreed.group]
    for one in of_group[:_MOST_WITNESSES]:
        guard = conflict(asked, _stored_traits(one.text))
        if guard is None:
            witnesses.append((one.key, one.score))
            if len(witnesses) == _SERVABLE:
                break
        elif veto is None:
            veto = guard
    if not witnesses:
        return decided(Verdict.VETOED, guard=veto)
    return decided(Verdict.SERVE if budget.is_serving else Verdict.EARNING, tuple(witnesses), veto)
