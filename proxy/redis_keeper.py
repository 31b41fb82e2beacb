"""Keeps the private Redis running beside the workers.

Best effort: without Redis the workers answer from memory and upstream alone, and use it again by
themselves when it is back. What goes wrong with it is logged where it arises.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cachestore.private_redis import PrivateRedis
from config.settings import RedisSettings

_HEAD_START_S = 1.0
"""How long the first workers wait for it at most."""

_LOOK_EVERY_S = 1.0


class RedisKeeper:
    """Owns the private server, and the thread its blocking calls run on."""

    def __init__(self, folder: Path, settings: RedisSettings) -> None:
        self._server = PrivateRedis(folder, settings.maxmemory_mb, settings.maxmemory_policy)
        # One thread that lives as long as the supervisor: the kernel ends the server together with
        # the thread that started it.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="private-redis")
        self._keeping: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where the server is, or will be."""
        return self._server.url

    async def start(self) -> None:
        """Start the server and keep it running; wait for it a moment only."""
        loop = asyncio.get_running_loop()
        start = loop.run_in_executor(self._thread, self._server.start, _HEAD_START_S)
        await asyncio.wait({start}, timeout=_HEAD_START_S)
        self._keeping = loop.create_task(self._keep(start))

    async def stop(self) -> None:
        """End the server; another Recollect's goes on."""
        if self._keeping:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        await asyncio.get_running_loop().run_in_executor(self._thread, self._server.stop)
        self._thread.shutdown()

    async def _keep(self, start: asyncio.Future[str | None]) -> None:
        await start
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            await asyncio.get_running_loop().run_in_executor(self._thread, self._server.ensure)
