"""One worker process, as its supervisor sees it: started, ready, told to end, ended."""

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from prometheus_client.multiprocess import mark_process_dead

from config.settings import Settings
from proxy.worker_start import WorkerStart

_GRACE_S = 2.0
"""How long after its drain time a worker may take to end before it is killed."""


class WorkerProcess:
    """A running worker.

    Attributes:
        number: The slot it serves in.
        settings: What it was started with.
        is_ready: Done when it serves (True), or has ended before it did (False).
        ended: Done when the process is gone; its exit code, negative for a signal.
    """

    def __init__(
        self,
        start: WorkerStart,
        process: asyncio.subprocess.Process,
        ready_fd: int,
        on_end: Callable[["WorkerProcess"], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.number = start.worker
        self.settings: Settings = start.settings
        self._started_at = loop.time()
        self.is_ready: asyncio.Future[bool] = loop.create_future()
        self._process = process
        self._metrics_folder = start.run_dir
        self._on_end = on_end
        self._draining: asyncio.Task[None] | None = None
        self.ended = loop.create_task(self._wait_for_end())
        loop.add_reader(ready_fd, self._read_ready, ready_fd)

    @classmethod
    async def start(
        cls, start: WorkerStart, ready_fd: int, on_end: Callable[["WorkerProcess"], None]
    ) -> Self:
        """Start the process and hand it `start`.

        Args:
            start: What the worker is to know; its descriptors are inherited.
            ready_fd: Read end of the pipe whose write end is `start.ready_fd`; closed in time.
            on_end: Called once the process is gone.

        Raises:
            OSError: The system has no room for another process; `ready_fd` is still open.
        """
        inherited = [start.data_fd, start.lifeline_fd, start.ready_fd]
        if start.admin_fd is not None:
            inherited.append(start.admin_fd)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # else a folder ./proxy where the user happens to stand would be taken for ours
            "-m",
            "proxy.worker",
            stdin=asyncio.subprocess.PIPE,
            pass_fds=inherited,
            # Ctrl-C in a terminal goes to the whole group: it must reach the supervisor alone,
            # which then lets the workers finish.
            process_group=0,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": start.run_dir},
        )
        worker = cls(start, process, ready_fd, on_end)
        assert process.stdin is not None
        # Written in the background; a worker that dies before it has read all is seen by `ended`.
        process.stdin.write(start.encode())
        process.stdin.close()
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    def age_s(self) -> float:
        return asyncio.get_running_loop().time() - self._started_at

    def end(self) -> None:
        """Tell the worker to drain, and kill it later if it takes too long."""
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain())

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()

    async def _drain(self) -> None:
        with suppress(ProcessLookupError):
            self._process.terminate()
        await asyncio.wait({self.ended}, timeout=self.settings.server.drain_s + _GRACE_S)
        if not self.ended.done():
            self.kill()

    async def _wait_for_end(self) -> int:
        code = await self._process.wait()
        mark_process_dead(self._process.pid, self._metrics_folder)  # type: ignore[no-untyped-call]
        self._on_end(self)
        return code

    def _read_ready(self, ready_fd: int) -> None:
        asyncio.get_running_loop().remove_reader(ready_fd)
        self.is_ready.set_result(os.read(ready_fd, 1) != b"")
        os.close(ready_fd)
