"""Figures of two sides that were measured side by side, and a line of the table made of them."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.compare import Size

CONCURRENT: Final = 32
Figures = list[float]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    reference: str
    measured: str
    against: str
    ratio: str
    target: str
    is_met: bool | None
    """None: there is no target."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """Figures of two sides; the nth of one was measured next to the nth of the other."""

    measured: Sequence[float]
    reference: Sequence[float]

    @property
    def ours(self) -> float:
        return statistics.median(self.measured)

    @property
    def theirs(self) -> float:
        return statistics.median(self.reference)

    @property
    def ratios(self) -> list[float]:
        """Measured to reference, round by round, smallest first."""
        pairs = zip(self.measured, self.reference, strict=True)
        return sorted(ours / theirs for ours, theirs in pairs)

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    def __str__(self) -> str:
        return f"{self.ratio:.2f} ({self.ratios[0]:.2f}–{self.ratios[-1]:.2f})"


def in_turns(
    size: Size, measured: Callable[[int], float], reference: Callable[[int], float]
) -> Rounds:
    """Measure both sides, each with so many requests a round; the first of a round changes."""
    sides = (measured, reference)
    for side in sides:
        side(max(size.requests // 4, CONCURRENT))
    figures: tuple[list[float], list[float]] = ([], [])
    for number in range(size.rounds):
        for at in (0, 1) if number % 2 == 0 else (1, 0):
            figures[at].append(sides[at](size.requests))
    return Rounds(*figures)


def one_by_one(size: Size, *sides: Callable[[], float], pause_s: float = 0.0) -> list[Figures]:
    """Have each side do one thing after the other, in turns; return the medians of each round.

    In turns with every single one, so that whatever else the machine does meets all sides alike,
    and none of them is busier than another in its scheduler's eyes.
    """
    for side in sides:
        for _ in range(size.requests // 4):
            side()
    rounds: list[Figures] = [[] for _ in sides]
    for _ in range(size.rounds):
        seconds: list[list[float]] = [[] for _ in sides]
        for _ in range(size.requests):
            for figures, side in zip(seconds, sides, strict=True):
                figures.append(side())
                time.sleep(pause_s)
        for medians, figures in zip(rounds, seconds, strict=True):
            medians.append(statistics.median(figures))
    return rounds


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"
