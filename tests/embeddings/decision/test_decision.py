"""The whole decision: tables of what is asked, what is stored, and what becomes of it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from embeddings.decision.budget import Budget
from embeddings.decision.consensus import consensus
from embeddings.decision.decision import Decision, Neighbour, decide
from embeddings.encoding.encoder import Vector
from embeddings.guards.guard import Guard
from embeddings.verdict import Verdict
from tests.embeddings.decision.samples import GROUP, OTHER_GROUP, sample

ASKED = "How do I reset my password?"
SAME = "How can I reset my password?"
_DIMENSION = 96
STORED_AT = 100.0


def stored(
    score: float = 0.95,
    text: str = SAME,
    *,
    number: int = 1,
    group: bytes = GROUP,
    stored_at: float = STORED_AT,
) -> Neighbour:
    """Return a stored question; each number has a direction of its own."""
    vector: Vector = np.zeros(_DIMENSION, dtype=np.float32)
    vector[0], vector[number] = score, (1 - score**2) ** 0.5
    key = b"%032d" % number
    return Neighbour(key, score, text, vector, group, stored_at)


def evidence_of(
    neighbours: Sequence[Neighbour],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    vectors = np.stack([one.vector for one in neighbours]).astype(np.float64)
    scores = np.array([one.score for one in neighbours])
    groups = [one.group for one in neighbours]
    return consensus(scores, vectors @ vectors.T, groups).evidence


def taught(*, is_serving: bool = True) -> Budget:
    """Return a budget to which near neighbours mean right answers, and far ones wrong."""
    budget = Budget(0.05)
    for number in range(200):
        is_near = bool(number % 2)
        score = (0.85 if is_near else 0.4) + number / 2500
        found = evidence_of([stored(score), stored(score - 0.05, number=2)])
        budget.add(sample(is_near, would_serve=False, probability=0.5, at=1.0, found=found))
    budget.add_all(
        sample(at=2.0, found=evidence_of([stored(), stored(0.93, number=2)]))
        for _ in range(20 if is_serving else 5)
    )
    assert budget.is_serving is is_serving
    return budget


NEAR = (stored(), stored(0.93, number=2))
FAR = (stored(0.4), stored(0.38, number=2))


def verdict_of(neighbours: Sequence[Neighbour], asked: str = ASKED) -> Decision:
    return decide(asked, neighbours, taught())


def test_answer_that_is_sure_enough_is_served_from_its_nearest_question() -> None:
    """With what may be served, best first, and how likely it is right."""
    decision = verdict_of(NEAR)

    assert decision.verdict is Verdict.SERVE
    assert decision.would_serve
    assert decision.group == GROUP
    assert decision.witnesses == tuple((one.key, one.score) for one in NEAR)
    assert decision.probability > 0.95
    assert decision.guard is None


def test_route_that_is_earning_serves_nothing_and_says_what_it_would() -> None:
    """So that the upstream's answer can be compared with that."""
    decision = decide(ASKED, NEAR, taught(is_serving=False))

    assert decision.verdict is Verdict.EARNING
    assert decision.would_serve
    assert decision.evidence is not None


def test_weak_evidence_is_unsure() -> None:
    """It is remembered all the same: the answer teaches something."""
    decision = verdict_of(FAR)

    assert decision.verdict is Verdict.UNSURE
    assert not decision.would_serve
    assert decision.group == GROUP
    assert decision.evidence is not None


def test_budget_that_knows_nothing_is_unsure_of_everything() -> None:
    """A new route."""
    assert decide(ASKED, NEAR, Budget(0.05)).verdict is Verdict.UNSURE


def test_nothing_stored_is_nothing() -> None:
    """And teaches nothing."""
    decision = verdict_of([])

    assert (decision.verdict, decision.evidence, decision.group) == (Verdict.NOTHING, None, b"")


@pytest.mark.parametrize(
    ("asked", "text", "guard"),
    [
        ("How do I pay 5 euros?", "How can I pay 7 euros?", Guard.NUMBERS),
        ("How do I turn the alarm on?", "How do I turn the alarm off?", Guard.ANTONYM),
        ("Can I pay by card?", "Can I not pay by card?", Guard.NEGATION),
    ],
)
def test_conflict_with_every_witness_is_a_veto(asked: str, text: str, guard: Guard) -> None:
    """However many they are, and however near: a figure is not outvoted."""
    decision = verdict_of([stored(0.99 - n / 100, text, number=n) for n in range(1, 9)], asked)

    assert decision.verdict is Verdict.VETOED
    assert decision.guard is guard
    assert not decision.would_serve
    assert decision.probability > 0.9, "the neighbours were sure"


def test_answer_comes_from_a_question_that_no_guard_speaks_against() -> None:
    """Not from the nearest; that one's guard is told."""
    other = stored(0.99, "How do I reset my password for 3 accounts?", number=3)
    decision = verdict_of([other, *NEAR])

    assert decision.verdict is Verdict.SERVE
    assert [key for key, _ in decision.witnesses] == [one.key for one in NEAR]
    assert decision.guard is not None


def test_guard_that_is_told_is_the_nearests() -> None:
    """Of several that speak against an answer."""
    asked = "How do I pay 5 euros by card?"
    nearest = stored(0.96, "How do I pay 7 euros by card?")
    next_one = stored(0.95, "How do I not pay 5 euros by card?", number=2)

    assert verdict_of([nearest, next_one], asked).guard is Guard.NUMBERS
    swapped = [replace(next_one, score=0.97), nearest]
    assert verdict_of(swapped, asked).guard is Guard.NEGATION


def test_forbidden_group_is_never_served() -> None:
    """Nor does another answer take its place: they spoke for that one."""
    decision = decide(ASKED, [*NEAR, stored(0.9, number=3, group=OTHER_GROUP)], taught(), {GROUP})

    assert decision.verdict is Verdict.FORBIDDEN
    assert not decision.would_serve


def test_forbidden_group_that_nobody_speaks_for_forbids_nothing() -> None:
    """A pair is a question and one answer."""
    assert decide(ASKED, NEAR, taught(), {OTHER_GROUP}).verdict is Verdict.SERVE


def test_other_groups_questions_are_not_served() -> None:
    """The answer is that of the group they speak for, from its own questions alone."""
    other = stored(0.90, number=3, group=OTHER_GROUP)
    decision = verdict_of([*NEAR, stored(0.92, number=4), other])

    assert decision.group == GROUP
    assert other.key not in {key for key, _ in decision.witnesses}


def test_only_a_few_questions_are_named() -> None:
    """The nearest may have expired; more than four are not tried."""
    decision = verdict_of([stored(0.99 - n / 100, number=n) for n in range(1, 20)])

    assert [score for _, score in decision.witnesses] == pytest.approx([0.98, 0.97, 0.96, 0.95])


def retired() -> Budget:
    """Return a budget for which the world has changed at 1000."""
    budget = taught()
    for number in range(60):
        found = evidence_of(NEAR)
        budget.add(sample(False, at=1000.0, group=b"%016d" % number, found=found))
    assert budget.is_retired(GROUP, STORED_AT)
    return budget


def test_what_is_retired_has_no_voice() -> None:
    """Nothing is left where all are; where some are not, those decide alone."""
    budget = retired()
    new = stored(0.9, number=3, group=OTHER_GROUP, stored_at=2000.0)

    assert decide(ASKED, NEAR, budget).verdict is Verdict.NOTHING
    assert decide(ASKED, [*NEAR, new], budget).group == OTHER_GROUP
