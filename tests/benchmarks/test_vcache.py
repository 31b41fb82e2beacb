"""vCache, as the quality benchmark compares with it, does what its authors describe."""

import hashlib
import random
from itertools import pairwise

import numpy as np
import pytest

from admin.tune_stream import Question, Stream, labelled_group
from benchmarks.vcache import Entry, by_entry


def question(text: str, answer: str, angle: float, *, is_asked: bool = True) -> Question:
    """Return a question whose vector lies at an angle, so that cosines are known."""
    return Question(
        key=hashlib.sha256(text.encode()).digest(),
        route="default",
        partition=bytes(32),
        strict_partition=bytes(32),
        text=text,
        vector=np.array([np.cos(angle), np.sin(angle)], dtype=np.float32),
        group=labelled_group(answer),
        answer="",
        is_asked=is_asked,
    )


def test_an_entry_of_which_nothing_was_seen_is_explored() -> None:
    """A model of its own needs observations of its own."""
    assert Entry().explore_probability(0.95, 0.01) > 0.9


def test_the_more_right_answers_are_seen_the_less_is_explored() -> None:
    """Until answers as near are served always."""
    entry = Entry()
    probabilities = []
    for _ in range(200):
        probabilities.append(entry.explore_probability(0.9, 0.05))
        entry.observe(0.9, True)

    assert all(before >= after - 1e-9 for before, after in pairwise(probabilities))
    assert probabilities[-1] < 0.1
    assert entry.explore_probability(0.5, 0.05) > 0.5


def test_a_tighter_bound_explores_more() -> None:
    """Also where the same was seen."""
    entry = Entry()
    for _ in range(3):
        entry.observe(0.9, True)

    bounds = [entry.explore_probability(0.92, bound) for bound in (0.005, 0.02, 0.1)]

    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > bounds[-1]


def test_wrong_answers_move_the_threshold() -> None:
    """Below what was wrong nothing is served."""
    entry = Entry()
    for _ in range(50):
        entry.observe(0.97, True)
        entry.observe(0.85, False)

    assert entry.explore_probability(0.98, 0.05) < 0.2
    assert entry.explore_probability(0.85, 0.05) > 0.9


def test_an_answer_that_was_explored_and_right_makes_no_entry() -> None:
    """One that was wrong does: the next is compared with that."""
    stream = Stream(
        (
            question("a", "1", 0.0),
            question("b", "1", 0.1),
            question("c", "2", 0.3),
            question("d", "2", 0.32),
        )
    )

    # All are explored; the last one's nearest is "c", and its own first observation is right.
    scored = by_entry(stream, 0.01, lambda: 0.0)

    assert [one.is_hit for one in scored] == [False] * 4

    # Nothing is explored that may be served at all.
    scored = by_entry(stream, 0.01, lambda: 0.999_999)

    assert [(one.is_hit, one.is_right) for one in scored] == [
        (False, False),
        (True, True),
        (True, False),
        (True, False),
    ]


def test_what_is_only_stored_is_not_asked() -> None:
    """As one side of a pair."""
    stream = Stream((question("a", "1", 0.0, is_asked=False), question("b", "1", 0.1)))

    assert len(by_entry(stream, 0.01, lambda: 0.0)) == 1


@pytest.mark.parametrize("max_error", [0.02, 0.05])
def test_errors_keep_to_the_bound_where_the_model_holds(max_error: float) -> None:
    """One entry whose answer is right as a logistic function of the similarity says."""
    chance = random.Random(7)
    entry = Entry()
    asked, wrong = 6000, 0
    for _ in range(asked):
        similarity = chance.uniform(0.6, 1.0)
        is_right = chance.random() < 1 / (1 + np.exp(-40 * (similarity - 0.8)))
        if chance.random() >= entry.explore_probability(similarity, max_error):
            wrong += not is_right
        else:
            entry.observe(similarity, is_right)

    assert 0 < wrong / asked < max_error * 1.25
