"""Whether a process that failed is asked again: a circuit breaker, and nothing of what it guards.

Closed, all ask. After a few failures in a row it opens, and nobody asks. When its time is over, one
asks at its own risk: a success closes it, a failure opens it again, for twice as long.

Nothing here touches the network, and the clock is injected. Imports nothing heavy: workers use it.
"""

from collections.abc import Callable
from typing import Final

_FAILURES_TO_OPEN: Final = 3
_OPEN_FIRST_S: Final = 0.5
_OPEN_MAX_S: Final = 10.0


class BreakerOpen(Exception):
    """Nobody asks now; says why it was opened."""


class Breaker:
    """Closed, open, or open with one that tries."""

    def __init__(self, on_state: Callable[[bool, str], None], clock: Callable[[], float]) -> None:
        """Begin closed.

        Args:
            on_state: Told when it opens (False, why) and closes (True, "").
            clock: Seconds that never go back.
        """
        self._on_state = on_state
        self._clock = clock
        self._failures = 0
        self._open_s = 0.0  # how long it is, or was last, open; 0 while it is closed
        self._try_at = 0.0
        self._is_trying = False
        self._reason = ""

    @property
    def is_open(self) -> bool:
        """Whether nobody but one now and then asks."""
        return self._open_s > 0

    def enter(self) -> bool:
        """Begin to ask; one of `succeeded`, `failed` and `leave` must follow.

        Returns:
            Whether this is the one that tries whether all is well again.

        Raises:
            BreakerOpen: Do not ask.
        """
        if not self._open_s:
            return False
        if self._is_trying or self._clock() < self._try_at:
            raise BreakerOpen(self._reason)
        self._is_trying = True
        return True

    def succeeded(self) -> None:
        """There was an answer."""
        self._failures = 0
        if self._open_s:
            self._open_s = 0.0
            self._is_trying = False
            self._on_state(True, "")

    def failed(self, is_trial: bool, reason: str) -> None:
        """There was none, or nonsense."""
        self._failures += 1
        # Failures of those who had begun before it opened change nothing.
        if is_trial:
            self._open(min(2 * self._open_s, _OPEN_MAX_S), reason)
        elif not self._open_s and self._failures >= _FAILURES_TO_OPEN:
            self._open(_OPEN_FIRST_S, reason)
            self._on_state(False, reason)

    def leave(self, is_trial: bool) -> None:
        """Nothing was learnt."""
        if is_trial:
            self._is_trying = False

    def _open(self, open_s: float, reason: str) -> None:
        self._open_s = open_s
        self._try_at = self._clock() + open_s
        self._is_trying = False
        self._reason = reason
