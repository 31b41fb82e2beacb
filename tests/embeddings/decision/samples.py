"""Samples as a route would bring them, for the tests of what is learned from them."""

from collections.abc import Iterator

import numpy as np

from embeddings.decision.budget import Budget
from embeddings.decision.consensus import FEATURES, Floats
from embeddings.decision.sample import Sample

GROUP, OTHER_GROUP = b"g" * 16, b"o" * 16
_CLEAR, _DIM = 3.0, -3.0


def evidence(strength: float) -> Floats:
    """Return evidence of which only the first number says something."""
    found = np.zeros(len(FEATURES))
    found[0] = strength
    return found


CLEAR, DIM = evidence(_CLEAR), evidence(_DIM)


def sample(
    is_right: bool = True,
    *,
    would_serve: bool = True,
    probability: float = 0.99,
    at: float = 1000.0,
    group: bytes = GROUP,
    found: Floats = CLEAR,
    weight: float = 1.0,
) -> Sample:
    """Return a sample, sure and right unless told otherwise."""
    return Sample(at, group, found, probability, weight, is_right, would_serve)


def traffic(count: int, *, seed: int = 1, groups: int = 50) -> Iterator[Sample]:
    """Yield samples of which the clear ones are right and the dim ones wrong, one in three."""
    chance = np.random.default_rng(seed)
    for number in range(count):
        is_clear = chance.random() < 2 / 3
        yield sample(
            is_clear,
            would_serve=False,
            probability=0.9 if is_clear else 0.1,
            at=float(number),
            group=b"%016d" % chance.integers(groups),
            found=evidence((_CLEAR if is_clear else _DIM) + chance.normal(0.0, 0.3)),
        )


def serving(max_error: float = 0.01) -> Budget:
    """Return a budget that has just earned its hits."""
    budget = Budget(max_error)
    while not budget.is_serving:
        budget.add(sample())
    return budget
