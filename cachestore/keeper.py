"""Keeps a connection up in the background, whatever kind of connection it is.

Nobody ever waits for a connect: who finds the connection down is told why, at once. That is the
circuit breaker. The pauses between attempts grow, and begin anew with a connection that has held.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

logger = logging.getLogger("recollect.redis")

CLOSED: Final = "closed"
"""Why a connection is down that was meant to end."""

_BACKOFF_FIRST_S = 0.1
_BACKOFF_MAX_S = 2.0
# One that was up for this long starts again with the shortest pause.
_STEADY_S = 5.0


class Keeper:
    """Makes a connection, waits for its end, makes it anew, until it is closed.

    Attributes:
        down_reason: Why there is no connection; what it says while there is one means nothing.
    """

    def __init__(self, name: str, hold: Callable[[], Awaitable[None]]) -> None:
        """Prepare; `start` begins.

        Args:
            name: For debuggers.
            hold: Makes a connection and returns when that has ended, or could not be made. Says
                so by `came_up` and `went_down`; raises nothing but for a defect.
        """
        self._name = name
        self._hold = hold
        self._task: asyncio.Task[None] | None = None
        self._has_been_up = asyncio.Event()
        self._up_at: float | None = None
        self._told: set[str] = set()
        self.down_reason = "not started"

    async def start(self, wait_s: float) -> None:
        """Begin connecting in the background; wait for it, but not for long.

        Never fails because the other side is down: the connection comes up when that does.
        """
        self._task = asyncio.create_task(self._keep_up(), name=self._name)
        try:
            async with asyncio.timeout(wait_s):
                await self._has_been_up.wait()
        except TimeoutError:
            pass

    async def close(self) -> None:
        """End the connection, and make no other."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self.down_reason = CLOSED

    def came_up(self) -> None:
        """Tell that commands are answered now."""
        self._up_at = asyncio.get_running_loop().time()
        self._told.clear()
        self._has_been_up.set()
        logger.info("Redis is up")

    def went_down(self, reason: str) -> bool:
        """Tell that there is no connection, and why.

        Returns:
            Whether that is news: a fault not told of since it was up.
        """
        self.down_reason = reason
        if reason == CLOSED or reason in self._told:
            return False
        self._told.add(reason)
        logger.warning("Redis is down: %s", reason)
        return True

    async def _keep_up(self) -> None:
        loop = asyncio.get_running_loop()
        backoff_s = _BACKOFF_FIRST_S
        while True:
            self._up_at = None
            await self._hold()
            if self._up_at is not None and loop.time() - self._up_at >= _STEADY_S:
                backoff_s = _BACKOFF_FIRST_S
            # Jitter, so that a host's workers do not all knock at once.
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(2 * backoff_s, _BACKOFF_MAX_S)
