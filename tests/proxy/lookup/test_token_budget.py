"""Tokens for what no client asked for: so many an hour, and no more."""

import pytest

from proxy.lookup.token_budget import TokenBudget
from tests.proxy.fakes import Clock


def test_hours_worth_is_there_at_first() -> None:
    """Then nothing is, until some time has passed."""
    clock = Clock()
    budget = TokenBudget(1000, clock)

    assert [budget.may_take(250) for _ in range(5)] == [True] * 4 + [False]


@pytest.mark.parametrize(
    ("after_s", "may"), [(0.0, False), (3.5, False), (3.7, True), (60.0, True)]
)
def test_what_goes_beyond_is_owed(after_s: float, may: bool) -> None:
    """An answer's length is known when it has come: the last may exceed what is left, and is
    paid for by waiting."""
    clock = Clock()
    budget = TokenBudget(1000, clock)
    assert budget.may_take(999)
    assert budget.may_take(2)

    clock.now += after_s

    assert budget.may_take(1) is may


def test_bucket_fills_evenly_and_holds_an_hours_worth() -> None:
    """A night without hits is no reason to check all of the morning's."""
    clock = Clock()
    budget = TokenBudget(1000, clock)
    assert budget.may_take(1000)

    clock.now += 100 * 3600

    assert [budget.may_take(500) for _ in range(3)] == [True, True, False]


def test_what_was_refused_costs_nothing() -> None:
    """However often it was asked for."""
    clock = Clock()
    budget = TokenBudget(1000, clock)
    assert budget.may_take(1000)
    assert not any(budget.may_take(10_000) for _ in range(100))

    clock.now += 1

    assert budget.may_take(1)


def test_over_many_hours_no_more_is_taken_than_was_set() -> None:
    """But for the last one, and the hour's worth that was there at first."""
    clock = Clock()
    budget = TokenBudget(1000, clock)
    taken = 0
    for _ in range(10 * 3600):
        clock.now += 1
        taken += 300 * budget.may_take(300)

    assert 10_000 < taken <= 11_300


def test_budget_of_nothing_is_never_spent() -> None:
    """0 switches checks off."""
    clock = Clock()
    budget = TokenBudget(0, clock)
    clock.now += 3600

    assert not budget.may_take(0)
    assert not budget.may_take(1)
