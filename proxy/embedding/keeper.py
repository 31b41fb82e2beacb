"""Keeps an embedding process running beside the workers.

Best effort: without it, requests go on with the exact tier alone, and use it again by themselves
when it is back.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from prometheus_client.multiprocess import mark_process_dead

from config.settings import Settings
from proxy.embedding.start import ONE_BLAS_THREAD, SOCKET_NAME, EmbeddingStart

_FIRST_DELAY_S: Final = 0.2
_LONGEST_DELAY_S: Final = 30.0
_STEADY_AFTER_S: Final = 30.0
_GRACE_S: Final = 5.0
"""How long a process may take to write its index and end before it is killed."""

_log = logging.getLogger("recollect.supervisor")


class EmbeddingKeeper:
    """Starts the process, again when it ends, and anew when its settings change."""

    def __init__(
        self, folder: Path, run_dir: str, lifeline_fd: int, redis_url: Callable[[], str]
    ) -> None:
        """Prepare; `apply` begins.

        Args:
            folder: Where exported encoders and snapshots lie.
            run_dir: Private folder of this run.
            lifeline_fd: Read end of the supervisor's lifeline.
            redis_url: Returns the Redis in effect.
        """
        self._folder = folder
        self._run_dir = run_dir
        self._lifeline_fd = lifeline_fd
        self._redis_url = redis_url
        self._start: EmbeddingStart | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where the process listens, or will."""
        return f"unix://{self._run_dir}/{SOCKET_NAME}"

    async def apply(self, settings: Settings) -> None:
        """Have a process with `settings`, or none where they need none of ours."""
        start = None
        if settings.semantic.mode != "off" and settings.semantic.address == self.address:
            start = EmbeddingStart(
                settings=settings,
                redis_url=self._redis_url(),
                folder=self._folder,
                address=self.address,
                lifeline_fd=self._lifeline_fd,
                run_dir=self._run_dir,
            )
        if _essence(start) == _essence(self._start):
            return
        await self.stop()
        self._start = start
        if start is not None:
            self._keeping = asyncio.get_running_loop().create_task(self._keep(start))

    async def stop(self) -> None:
        """End the process."""
        self._start = None
        if self._keeping is None:
            return
        self._keeping.cancel()
        await asyncio.wait({self._keeping})
        self._keeping = None

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def _keep(self, start: EmbeddingStart) -> None:
        loop = asyncio.get_running_loop()
        delay_s = _FIRST_DELAY_S
        while True:
            began = loop.time()
            try:
                code = await self._run(start)
                _log.error("the embedding process ended with exit code %d", code)
            except OSError as error:
                _log.error("the embedding process cannot be started: %s", error)
            if loop.time() - began >= _STEADY_AFTER_S:
                delay_s = _FIRST_DELAY_S
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)

    async def _run(self, start: EmbeddingStart) -> int:
        """Run one process to its end; end it when cancelled."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "proxy.embedding.process",
            stdin=asyncio.subprocess.PIPE,
            pass_fds=[self._lifeline_fd],
            process_group=0,  # as for workers: Ctrl-C is the supervisor's to hear
            env={**os.environ, **ONE_BLAS_THREAD, "PROMETHEUS_MULTIPROC_DIR": self._run_dir},
        )
        self._process = process
        try:
            assert process.stdin is not None
            process.stdin.write(start.encode())
            process.stdin.close()
            return await process.wait()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(_GRACE_S):
                    await process.wait()
            except TimeoutError:
                self.kill()
                await process.wait()
            raise
        finally:
            self._process = None
            mark_process_dead(process.pid, self._run_dir)  # type: ignore[no-untyped-call]


def _essence(start: EmbeddingStart | None) -> object:
    """What of a start makes a difference to the process: not the workers' own settings."""
    if start is None:
        return None
    settings = start.settings
    semantic = settings.semantic.model_copy(
        update={"mode": "on", "min_score": 0.95, "history": "exact", "deadline_ms": 50}
    )
    return (start.redis_url, semantic, settings.redis, settings.log)
