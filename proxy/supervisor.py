"""The supervisor: listening sockets, the private Redis, and worker processes kept running.

It answers no request itself. Workers inherit its sockets, so that a worker may come and go while
connections wait in the kernel and none is refused.

SIGTERM and SIGINT end everything once the answers begun are done, and at once when repeated; SIGHUP
reads the settings again and replaces the workers one by one. If the supervisor is killed, its
workers see the end of a pipe that only it held open, and end too.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from config.load import SettingsError, data_folder
from config.settings import Settings
from proxy import logs
from proxy.data_folder import DataFolderError, make_data_folder, tenancy_secret
from proxy.embedding.keeper import EmbeddingKeeper
from proxy.embedding.start import decided
from proxy.listening import ListenError, listen, url_of
from proxy.redis_keeper import RedisKeeper
from proxy.worker_process import WorkerProcess
from proxy.worker_start import WorkerStart

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 5.0

_STEADY_AFTER_S = 10.0
"""The delays begin anew with a worker that has lived so long."""

_READY_WITHIN_S = 30.0
"""How long a new worker may take to be ready before a reload is given up."""

_FIXED = {
    "server": ("host", "port", "data_dir"),
    "admin": ("host", "port"),
    "redis": ("maxmemory_mb", "maxmemory_policy"),
}
"""Settings that take effect at a start only, by section."""

_log = logging.getLogger("recollect.supervisor")


def serve(settings: Settings, reload: Callable[[], Settings]) -> int:
    """Serve until told to end by a signal.

    Args:
        settings: What to start with; `upstream.base_url` is set.
        reload: Reads the settings again, for SIGHUP; raises SettingsError.

    Returns:
        The exit code: 0 after a signal, 1 when it could not start.
    """
    logs.configure(settings.log.level)
    try:
        return asyncio.run(_serve(settings, reload))
    except (ListenError, DataFolderError) as error:
        _log.error("%s", error)
        return 1


async def _serve(settings: Settings, reload: Callable[[], Settings]) -> int:
    with ExitStack() as stack:
        data_listener = stack.enter_context(listen(settings.server.host, settings.server.port))
        listening = f"recollect listening on {url_of(data_listener)}/v1"
        admin_listener = None
        if settings.admin.port is not None:
            admin_listener = stack.enter_context(listen(settings.admin.host, settings.admin.port))
            listening += f", health and metrics on {url_of(admin_listener)}"
        redis = None
        made_secret = b""
        if not settings.redis.url or settings.tenancy.secret is None:
            folder = data_folder(settings, os.environ)
            make_data_folder(folder)
            made_secret = b"" if settings.tenancy.secret else tenancy_secret(folder)
            redis = None if settings.redis.url else RedisKeeper(folder, settings.redis)
        inheritance = _Inheritance(
            data_fd=data_listener.fileno(),
            admin_fd=admin_listener.fileno() if admin_listener else None,
            lifeline_fd=stack.enter_context(_lifeline()),
            run_dir=stack.enter_context(tempfile.TemporaryDirectory(prefix="recollect-")),
            made_secret=made_secret,
        )
        listeners = [one for one in (data_listener, admin_listener) if one is not None]
        embeddings = EmbeddingKeeper(
            data_folder(settings, os.environ),
            inheritance.run_dir,
            inheritance.lifeline_fd,
            lambda: redis.url if redis else supervisor.redis_url,
        )
        supervisor = _Supervisor(
            decided(settings, embeddings.address),
            lambda: decided(reload(), embeddings.address),
            inheritance,
            redis,
            embeddings,
            listening=listening,
            listeners=listeners,
        )
        return await supervisor.run()


@contextmanager
def _lifeline() -> Iterator[int]:
    """Give the read end of a pipe whose write end no other process ever holds."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


@dataclass(frozen=True, slots=True)
class _Inheritance:
    """What all workers of a run share."""

    data_fd: int
    admin_fd: int | None
    lifeline_fd: int
    run_dir: str
    made_secret: bytes
    """The data folder's tenancy secret; empty when the settings had one at the start."""


@dataclass(eq=False, slots=True)
class _Slot:
    """A place for one worker."""

    number: int
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when its worker has ended, or the settings have changed."""
    task: asyncio.Task[None] | None = None


class _Supervisor:
    """Keeps the workers of one run. Everything happens in one event loop."""

    def __init__(
        self,
        settings: Settings,
        reload: Callable[[], Settings],
        inheritance: _Inheritance,
        redis: RedisKeeper | None,
        embeddings: EmbeddingKeeper,
        *,
        listening: str,
        listeners: Sequence[socket.socket],
    ) -> None:
        self._settings = settings
        self._reload = reload
        self._inheritance = inheritance
        self._redis = redis
        self._embeddings = embeddings
        self._embeddings_task: asyncio.Task[None] | None = None
        self._listening = listening
        self._listeners = listeners
        self._had_terminal = sys.stderr.isatty()
        self._slots: dict[int, _Slot] = {}
        self._alive: set[WorkerProcess] = set()
        self._has_served = False
        self._replacing = asyncio.Lock()
        self._stop = asyncio.Event()
        self._exit_code = 0

    @property
    def redis_url(self) -> str:
        """The Redis that the settings in effect name."""
        return self._settings.redis.url

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_stop)
        loop.add_signal_handler(signal.SIGINT, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        if self._redis:
            await self._redis.start()
        self._open_slots()
        self._apply_embeddings()
        await self._stop.wait()
        tasks = [slot.task for slot in self._slots.values() if slot.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Before the workers stop accepting: a connection that nobody will ever accept is worse
        # than one that is refused.
        for listener in self._listeners:
            listener.close()
        for worker in self._alive:
            worker.end()
        await asyncio.gather(*(worker.ended for worker in self._alive))
        if self._embeddings_task is not None:
            await self._embeddings_task
        await self._embeddings.stop()
        if self._redis:
            await self._redis.stop()
        return self._exit_code

    def _on_stop(self) -> None:
        if self._stop.is_set():
            _log.warning("told to end again: not waiting for answers begun")
            for worker in self._alive:
                worker.kill()
            self._embeddings.kill()
        else:
            _log.info("told to end: finishing the answers begun")
            self._stop.set()

    def _on_hangup(self) -> None:
        if self._had_terminal and not sys.stderr.isatty():
            # Not someone who wants a reload, but a terminal window that was closed.
            self._on_stop()
            return
        try:
            settings = self._reload()
        except SettingsError as error:
            _log.error("the settings in effect stay: %s", error)
            return
        self._settings = self._keep_fixed(settings)
        _log.info("settings read again: replacing the workers one by one")
        self._open_slots()
        self._apply_embeddings()
        for slot in self._slots.values():
            slot.woken.set()

    def _apply_embeddings(self) -> None:
        """Have the embedding process that the settings in effect ask for, one change at a time."""
        before = self._embeddings_task

        async def apply() -> None:
            if before is not None:
                await before
            await self._embeddings.apply(self._settings)

        self._embeddings_task = asyncio.get_running_loop().create_task(apply())
        self._embeddings_task.add_done_callback(self._on_task_done)

    def _keep_fixed(self, settings: Settings) -> Settings:
        """Return `settings`, but for those that need a restart: these stay, which is logged."""
        changed = []
        kept = {}
        for section, names in _FIXED.items():
            ours, theirs = getattr(self._settings, section), getattr(settings, section)
            fixed = {name: getattr(ours, name) for name in names}
            if section == "redis" and bool(ours.url) != bool(theirs.url):
                fixed["url"] = ours.url
            changed += [
                f"{section}.{name}" for name in fixed if fixed[name] != getattr(theirs, name)
            ]
            kept[section] = theirs.model_copy(update=fixed)
        if settings.tenancy.secret is None and not self._inheritance.made_secret:
            kept["tenancy"] = settings.tenancy.model_copy(
                update={"secret": self._settings.tenancy.secret}
            )
            changed.append("tenancy.secret")
        if changed:
            _log.warning("takes effect after a restart only: %s", ", ".join(changed))
        return settings.model_copy(update=kept)

    def _open_slots(self) -> None:
        for number in range(self._settings.server.workers):
            if number not in self._slots:
                slot = self._slots[number] = _Slot(number)
                slot.task = asyncio.get_running_loop().create_task(self._hold(slot))
                slot.task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        # A defect of ours: better an end that is seen than a supervisor that no longer supervises.
        if not task.cancelled() and (error := task.exception()):
            _log.critical("ending after an internal error", exc_info=error)
            self._exit_code = 1
            self._stop.set()

    async def _hold(self, slot: _Slot) -> None:
        """Keep one worker serving in `slot`, with the settings in effect.

        Returns when the settings no longer ask for so many workers.
        """
        delay_s = _FIRST_DELAY_S
        while True:
            worker = await self._start_worker(slot)
            while worker and not worker.ended.done():
                await slot.woken.wait()
                slot.woken.clear()
                if slot.number >= self._settings.server.workers:
                    del self._slots[slot.number]
                    worker.end()
                    return
                worker = await self._renew(slot, worker)
            if worker:
                self._report_end(worker)
                if worker.age_s() >= _STEADY_AFTER_S:
                    delay_s = _FIRST_DELAY_S
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)

    async def _renew(self, slot: _Slot, worker: WorkerProcess) -> WorkerProcess:
        """Return a worker with the settings in effect: `worker`, or its successor once that serves.

        If the successor does not come up, the settings in effect are again those of `worker`.
        """
        while worker.settings is not self._settings and not worker.ended.done():
            async with self._replacing:
                wanted = self._settings
                if wanted is worker.settings:
                    break  # taken back by another slot, whose successor did not come up
                successor = await self._start_worker(slot)
                if successor:
                    await asyncio.wait({successor.is_ready}, timeout=_READY_WITHIN_S)
                    if successor.is_ready.done() and successor.is_ready.result():
                        worker.end()
                        worker = successor
                        continue
                    successor.kill()
                _log.error("a worker with the new settings did not start: the old ones stay")
                if self._settings is wanted:
                    self._settings = worker.settings
        return worker

    async def _start_worker(self, slot: _Slot) -> WorkerProcess | None:
        """Start a worker with the settings in effect; None when the system has no room for it."""
        settings = self._settings
        secret = self._inheritance.made_secret
        if settings.tenancy.secret:
            secret = settings.tenancy.secret.get_secret_value().encode()
        reading, writing = os.pipe()
        start = WorkerStart(
            settings=settings,
            redis_url=self._redis.url if self._redis else settings.redis.url,
            tenancy_secret=secret.hex(),
            worker=slot.number,
            data_fd=self._inheritance.data_fd,
            admin_fd=self._inheritance.admin_fd,
            lifeline_fd=self._inheritance.lifeline_fd,
            ready_fd=writing,
            run_dir=self._inheritance.run_dir,
        )
        try:
            worker = await WorkerProcess.start(start, reading, self._on_worker_end)
        except OSError as error:
            os.close(reading)
            _log.error("worker %d cannot be started: %s", slot.number, error)
            return None
        finally:
            os.close(writing)
        self._alive.add(worker)
        worker.is_ready.add_done_callback(self._on_worker_ready)
        return worker

    def _on_worker_ready(self, is_ready: asyncio.Future[bool]) -> None:
        if is_ready.result() and not self._has_served:
            self._has_served = True
            _log.info("%s", self._listening)

    def _on_worker_end(self, worker: WorkerProcess) -> None:
        self._alive.discard(worker)
        if slot := self._slots.get(worker.number):
            slot.woken.set()

    def _report_end(self, worker: WorkerProcess) -> None:
        code = worker.ended.result()
        _log.error("worker %d (pid %d) ended with exit code %d", worker.number, worker.pid, code)
        if code > 0 and not self._has_served:
            # It gave up by itself and none ever served: starting again would only hide the reason.
            _log.error("the first worker did not start")
            self._exit_code = 1
            self._stop.set()
