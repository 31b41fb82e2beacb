"""How likely is the answer right, given the evidence: a logistic regression, taught by what came.

Few coefficients, a ridge on them, and an intercept that is free: so that what it says is near to
what is seen from some hundred answers on (Platt 1999; le Cessie & van Houwelingen 1992).

Pure: no clock, no chance, no I/O.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_RIDGE: Final = 1.0
_FREE: Final = 1e-3
_MOST_STEPS: Final = 25
_LARGEST_STEP: Final = 3.0
_DONE: Final = 1e-4
_MOST_LOG_ODDS: Final = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """A fitted model.

    Attributes:
        center: What is subtracted from the evidence, shape (n,).
        scale: What it is then divided by, shape (n,), above 0.
        weights: Intercept and coefficients, shape (n + 1,).
    """

    center: Floats
    scale: Floats
    weights: Floats

    def probability(self, evidence: Floats) -> Floats:
        """Return how likely the answer is right.

        Args:
            evidence: Shape (n,) or (m, n).

        Returns:
            Shape () or (m,), each 0 … 1.
        """
        odds = self.weights[0] + ((evidence - self.center) / self.scale) @ self.weights[1:]
        result: Floats = 1.0 / (1.0 + np.exp(-np.clip(odds, -_MOST_LOG_ODDS, _MOST_LOG_ODDS)))
        return result


def fitted(evidence: Floats, is_right: Floats, before: Calibration | None = None) -> Calibration:
    """Return the calibration that fits best.

    Args:
        evidence: Shape (m, n), m at least 1.
        is_right: 1.0 or 0.0 each, shape (m,).
        before: An earlier one, to begin from; it changes the time taken, and nothing else.
    """
    center = evidence.mean(axis=0)
    scale = evidence.std(axis=0) + 1e-6
    design = np.column_stack([np.ones(len(evidence)), (evidence - center) / scale])
    ridge = np.full(design.shape[1], _RIDGE)
    ridge[0] = _FREE
    weights = np.zeros(design.shape[1]) if before is None else before.weights.copy()
    for _ in range(_MOST_STEPS):
        odds = np.clip(design @ weights, -_MOST_LOG_ODDS, _MOST_LOG_ODDS)
        expected = 1.0 / (1.0 + np.exp(-odds))
        slope = design.T @ (is_right - expected) - ridge * weights
        spread = np.maximum(expected * (1.0 - expected), 1e-9)
        curvature = (design * spread[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(curvature, slope)
        longest = float(np.abs(step).max())
        # Newton's steps leap where all answers are of one kind.
        weights = weights + step * min(1.0, _LARGEST_STEP / max(longest, _DONE))
        if longest < _DONE:
            break
    return Calibration(center, scale, weights)
