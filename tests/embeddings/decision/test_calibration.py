"""A logistic regression of what came: near to what is seen, and finite come what may."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings.decision.calibration import Floats, fitted

_FEATURES = 3


def drawn(count: int, seed: int = 5) -> tuple[Floats, Floats, Floats]:
    """Return evidence, what was right, and how likely that was."""
    chance = np.random.default_rng(seed)
    evidence = chance.normal(2.0, 3.0, (count, _FEATURES))
    truth = 1 / (1 + np.exp(-(0.5 + evidence @ np.array([0.8, -0.4, 0.0]))))
    return evidence, (chance.random(count) < truth).astype(np.float64), truth


def test_what_it_says_is_near_to_how_likely_an_answer_is_right() -> None:
    """Of a world that is logistic, on evidence that it has not seen."""
    evidence, is_right, _ = drawn(3000)
    fresh, _, truth = drawn(1000, seed=6)

    said = fitted(evidence, is_right).probability(fresh)

    assert float(np.abs(said - truth).mean()) < 0.03


def test_mean_of_what_it_says_is_the_share_that_was_right() -> None:
    """The intercept is all but free (le Cessie & van Houwelingen 1992)."""
    evidence, is_right, _ = drawn(500)

    said = fitted(evidence, is_right).probability(evidence)

    assert float(said.mean()) == pytest.approx(float(is_right.mean()), abs=1e-3)


def test_one_and_many_are_told_the_same() -> None:
    """Shape (n,) gives a number, shape (m, n) gives m."""
    evidence, is_right, _ = drawn(200)
    calibration = fitted(evidence, is_right)

    many = calibration.probability(evidence)

    assert many.shape == (200,)
    assert float(calibration.probability(evidence[7])) == pytest.approx(float(many[7]))


def test_earlier_calibration_changes_nothing_but_the_time_taken() -> None:
    """Two hosts that began at other times agree."""
    evidence, is_right, _ = drawn(500)
    before = fitted(*drawn(300, seed=9)[:2])

    warm, cold = fitted(evidence, is_right, before), fitted(evidence, is_right)

    assert np.allclose(warm.weights, cold.weights, atol=1e-3)


@pytest.mark.parametrize("kind", [0.0, 1.0], ids=["all wrong", "all right"])
def test_answers_of_one_kind_end_in_a_finite_fit(kind: float) -> None:
    """No number fits best then; the ridge and a limit to each step end it."""
    evidence, _, _ = drawn(100)

    said = fitted(evidence, np.full(100, kind)).probability(evidence)

    assert np.abs(said - kind).max() < 0.1


def test_kinds_that_can_be_told_apart_end_in_a_finite_fit() -> None:
    """Where the coefficients would grow without end."""
    evidence = np.array([[-1.0], [-2.0], [1.0], [2.0]] * 30)
    is_right = (evidence[:, 0] > 0).astype(np.float64)

    calibration = fitted(evidence, is_right)

    assert np.isfinite(calibration.weights).all()
    assert float(calibration.probability(np.array([2.0]))) > 0.9
    assert float(calibration.probability(np.array([-2.0]))) < 0.1


def test_evidence_that_never_changes_says_nothing() -> None:
    """Nor does it divide by nothing."""
    evidence, is_right, _ = drawn(200)
    evidence[:, 2] = 7.0

    calibration = fitted(evidence, is_right)

    assert np.isfinite(calibration.weights).all()
    assert abs(float(calibration.weights[3])) < 1e-6


@given(
    st.lists(
        st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.booleans()),
        min_size=1,
        max_size=40,
    )
)
def test_any_samples_give_a_probability(rows: list[tuple[float, float, bool]]) -> None:
    """From the first on, however odd they are."""
    evidence = np.array([row[:2] for row in rows])
    is_right = np.array([float(row[2]) for row in rows])

    said = fitted(evidence, is_right).probability(evidence)

    assert ((said >= 0) & (said <= 1)).all()
