"""The circuit breaker, on a clock that stands still unless it is moved."""

import pytest

from embeddings.breaker import Breaker, BreakerOpen


class Told:
    """A clock, and what a breaker told."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.states: list[tuple[bool, str]] = []
        self.breaker = Breaker(lambda *state: self.states.append(state), lambda: self.now_s)

    def fail(self) -> None:
        """Ask, and fail."""
        self.breaker.failed(self.breaker.enter(), "no answer")

    def open(self) -> None:
        """Fail as often as it takes."""
        for _ in range(3):
            self.fail()
        assert self.breaker.is_open

    def turns_away(self) -> bool:
        """Say whether one who asks now is turned away."""
        try:
            self.breaker.leave(self.breaker.enter())
        except BreakerOpen:
            return True
        return False


@pytest.fixture
def told() -> Told:
    return Told()


def test_it_opens_at_the_third_failure_in_a_row(told: Told) -> None:
    """One success between, and it begins to count anew."""
    for _ in range(2):
        told.fail()
    told.breaker.succeeded()
    for _ in range(2):
        told.fail()
    assert not told.breaker.is_open
    assert told.states == []

    told.fail()

    assert told.breaker.is_open
    assert told.states == [(False, "no answer")]
    with pytest.raises(BreakerOpen, match="no answer"):
        told.breaker.enter()


def test_each_failed_trial_keeps_it_open_for_twice_as_long(told: Told) -> None:
    """From half a second to ten, where it stays; it is told of once."""
    told.open()

    for open_s in (0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0):
        told.now_s += open_s - 0.01
        assert told.turns_away()
        told.now_s += 0.02
        told.fail()

    assert told.states == [(False, "no answer")]


def test_one_tries_at_a_time(told: Told) -> None:
    """If it leaves, another may; if it succeeds, all may."""
    told.open()
    told.now_s += 0.5
    assert told.breaker.enter()
    assert told.turns_away()
    told.breaker.leave(True)

    assert told.breaker.enter()
    told.breaker.succeeded()

    assert not told.breaker.is_open
    assert not told.breaker.enter()
    assert told.states == [(False, "no answer"), (True, "")]


def test_who_had_begun_before_it_opened_changes_nothing(told: Told) -> None:
    """A late failure makes it no longer open than it is, one who leaves lets nobody in."""
    begun = [told.breaker.enter() for _ in range(2)]
    told.open()
    told.breaker.failed(begun[0], "late")
    told.breaker.leave(begun[1])

    told.now_s += 0.49
    assert told.turns_away()
    told.now_s += 0.01
    assert not told.turns_away()
    assert told.states == [(False, "no answer")]


def test_an_answer_that_was_on_its_way_closes_it(told: Told) -> None:
    """Whoever brought it, it says that all is well."""
    begun = told.breaker.enter()
    told.open()

    assert not begun
    told.breaker.succeeded()

    assert not told.breaker.is_open
