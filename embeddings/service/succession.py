"""A change of the encoder: the new one's index is filled while the old one's still answers."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from embeddings.service.engine import Engine
from embeddings.service.follower import Follower

logger = logging.getLogger("recollect.embeddings")


@dataclass(frozen=True, slots=True)
class Reign:
    """One encoder's engine, and the follower that keeps its index in step."""

    engine: Engine
    follower: Follower


class Succession:
    """Says which engine answers: the old one until the new one has caught up, if there is one.

    Each has its own index, source and snapshot; both follow the log. Vectors of the two are never
    compared, as each engine encodes a question with its own encoder.
    """

    def __init__(
        self,
        new: Reign,
        old: Reign | None = None,
        drop_old: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; `start` begins.

        Args:
            new: Of the encoder that is to answer.
            old: Of the encoder that answered until now, if it is another one.
            drop_old: Removes what the old one has saved; blocking, called once it has ended.
        """
        self._new = new
        self._old = old
        self._drop_old = drop_old
        self._handover: asyncio.Task[None] | None = None

    @property
    def current(self) -> Engine:
        """The engine to ask now."""
        return self._answering.engine

    @property
    def is_ready(self) -> bool:
        """Whether the engine to ask has caught up once."""
        return self._answering.follower.is_ready

    @property
    def _answering(self) -> Reign:
        return self._new if self._old is None else self._old

    def start(self) -> None:
        """Begin to follow, and to wait for the handover."""
        for reign in (self._new, self._old):
            if reign is not None:
                reign.engine.start()
                reign.follower.start()
        if self._old is not None:
            self._handover = asyncio.create_task(self._hand_over(self._old), name="hand over")

    async def close(self) -> None:
        """End what runs; each index is saved, if anything has changed."""
        if self._handover is not None:
            # Once the new one answers, the old one's end is waited for.
            if self._old is not None:
                self._handover.cancel()
            await asyncio.wait([self._handover])
        for reign in (self._old, self._new):
            if reign is not None:
                await reign.follower.stop()
                await reign.engine.close()

    async def _hand_over(self, old: Reign) -> None:
        await self._new.follower.wait_ready()
        self._old = None
        logger.info("the new encoder's index has caught up and answers from now on")
        await old.follower.stop(is_saved=False)
        await old.engine.close()
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self._drop_old)
