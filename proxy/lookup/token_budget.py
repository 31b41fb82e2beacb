"""How many tokens may be spent on what no client asked for: so many an hour.

A bucket that fills evenly and holds an hour's worth; empty, nothing is spent until it has filled.
"""

import time
from collections.abc import Callable
from typing import Final

_HOUR_S: Final = 3600.0


class TokenBudget:
    """Tokens of one worker.

    Args:
        per_hour: How many, 0 for none at all.
        clock: Seconds that never go back.
    """

    def __init__(self, per_hour: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_hour = per_hour
        self._clock = clock
        self._left = per_hour
        self._at = clock()

    def may_take(self, tokens: int) -> bool:
        """Take `tokens` if there are any left; say whether they were taken.

        What goes beyond what is left is owed: an answer's length is known only when it has come.
        """
        now = self._clock()
        grown = (now - self._at) * self._per_hour / _HOUR_S
        self._left, self._at = min(self._per_hour, self._left + grown), now
        if self._left <= 0:
            return False
        self._left -= tokens
        return True
