"""One worker process: uvicorn around the application, on sockets its supervisor opened."""

import asyncio
import math
import os
import socket
import sys
from contextlib import suppress

import uvicorn

from proxy import logs
from proxy.listening import BACKLOG
from proxy.worker_start import WorkerStart

_KEEP_ALIVE_S = 75
"""Longer than the clients' own pools keep a connection, so that they are the ones to close it."""


class _Server(uvicorn.Server):
    """Tells the supervisor when it serves, and ends when the supervisor is gone."""

    def __init__(self, config: uvicorn.Config, start: WorkerStart) -> None:
        super().__init__(config)
        self._start = start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # A supervisor that has gone meanwhile is noticed below.
        with suppress(BrokenPipeError):
            os.write(self._start.ready_fd, b"1")
        os.close(self._start.ready_fd)
        asyncio.get_running_loop().add_reader(self._start.lifeline_fd, self._orphaned)

    def _orphaned(self) -> None:
        asyncio.get_running_loop().remove_reader(self._start.lifeline_fd)
        self.should_exit = True


def main() -> None:
    """Serve until told to end."""
    start = WorkerStart.read(sys.stdin.buffer)
    logs.configure(start.settings.log.level)
    # prometheus_client looks for this once, when it is imported.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = start.run_dir
    from proxy.app import build
    from proxy.fast_path import protocol_class

    sockets = [socket.socket(fileno=start.data_fd)]
    admin_port = None
    if start.admin_fd is not None:
        admin = socket.socket(fileno=start.admin_fd)
        admin_port = admin.getsockname()[1]
        sockets.append(admin)
    worker = build(start.settings, start.redis_url, bytes.fromhex(start.tenancy_secret), admin_port)
    config = uvicorn.Config(
        worker,
        loop="uvloop",
        http=protocol_class(start.settings.limits.header_bytes, worker.fast_path, admin_port),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(start.settings.server.drain_s),
    )
    _Server(config, start).run(sockets)


if __name__ == "__main__":
    main()
