"""Redis 8, which has vector sets, as a real cluster of three masters on loopback ports.

A redis-server of that age on the PATH is taken. Else Debian trixie's is fetched, with all the
libraries it needs down to libc, from the mirror that this machine's apt uses, and run by its own
loader, so that nothing is installed. It lies in build/redis8 for the next run.
"""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import redis

from tests.support.redis_server import free_port

_BUILD = Path(__file__).parents[2] / "build"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_FETCH_S = 40
_NODE_TIMEOUT_MS = 1000
_SLOTS = 16384


class NoRedis8(Exception):
    """There is none and none can be fetched; says why."""


@cache
def redis8_command() -> tuple[str, ...]:
    """Return how a redis-server with vector sets is started, without options.

    Raises:
        NoRedis8: It is to be had neither here nor from Debian.
    """
    if (found := shutil.which("redis-server")) and _major_version((found,)) >= 8:
        return (found,)
    folder = _BUILD / "redis8"
    if not folder.exists():
        _BUILD.mkdir(exist_ok=True)
        # Several runs may come here at once.
        with (_BUILD / "redis8.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                _fetch(folder)
    loader = next(folder.glob("usr/lib*/ld-linux-*.so.*"), None)
    libraries = next(folder.glob("usr/lib/*-linux-gnu*"), None)
    if loader is None or libraries is None:
        raise NoRedis8(f"{folder} is not what was expected; remove it to have it fetched again")
    command = (str(loader), "--library-path", str(libraries), str(folder / "usr/bin/redis-server"))
    if _major_version(command) < 8:
        raise NoRedis8(f"the redis-server in {folder} does not run here")
    return command


def _major_version(command: tuple[str, ...]) -> int:
    ran = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"\bv=(\d+)\.", ran.stdout)
    return int(version[1]) if version else 0


def _fetch(folder: Path) -> None:
    """Unpack Debian trixie's redis-server and all it depends on into `folder`."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise NoRedis8("no redis-server 8 here, and no apt to fetch Debian's")
    with tempfile.TemporaryDirectory(dir=_BUILD, prefix="redis8-") as work:
        state = Path(work)
        for name in ("lists/partial", "cache/archives/partial", "root"):
            (state / name).mkdir(parents=True)
        # No package counts as installed, so that libc and the loader come too.
        (state / "status").touch()
        signed_by = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
        (state / "sources.list").write_text(f"deb {signed_by}{_mirror()} trixie main\n")
        # Added to the machine's own settings, which know of proxies.
        (state / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{state}/sources.list";\n'
            'Dir::Etc::sourceparts "/dev/null";\n'
            'Dir::Etc::preferencesparts "/dev/null";\n'
            f'Dir::State::lists "{state}/lists";\n'
            f'Dir::State::status "{state}/status";\n'
            f'Dir::Cache "{state}/cache";\n'
            'APT::Update::Error-Mode "any";\n'
            'Acquire::http::Timeout "10";\n'
            "#clear APT::Update::Pre-Invoke;\n"
            "#clear APT::Update::Post-Invoke;\n"
            "#clear APT::Update::Post-Invoke-Success;\n"
        )
        apt = ("apt-get", "-q", "-c", f"{state}/apt.conf")
        _run(*apt, "update")
        _run(*apt, "install", "--download-only", "--no-install-recommends", "-y", "redis-server")
        for package in (state / "cache/archives").glob("*.deb"):
            _run("dpkg-deb", "-x", str(package), str(state / "root"))
        (state / "root").rename(folder)


def _mirror() -> str:
    """Return where this machine's apt gets Debian's own packages from."""
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if line
    )
    codename = release.get("VERSION_CODENAME", "").strip('"')
    if release.get("ID", "").strip('"') != "debian":
        raise NoRedis8("no redis-server 8 here, and this is not Debian")
    found = _run(
        "apt-get",
        *("indextargets", "--format", "$(REPO_URI)"),
        *("Created-By: Packages", f"Release: {codename}", "Component: main"),
    ).split()
    if not found:
        raise NoRedis8("no redis-server 8 here, and apt has no mirror of Debian's")
    return found[0]


def _run(*command: str) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(
            command, env=environment, timeout=_FETCH_S, check=True, capture_output=True, text=True
        ).stdout
    except subprocess.TimeoutExpired as error:
        raise NoRedis8(f"{command[0]} took longer than {_FETCH_S} s") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise NoRedis8(f"{command[0]} failed: {last}") from error


class Redis8Node:
    """One server, part of a cluster or alone, without persistence."""

    def __init__(self, *, is_in_cluster: bool = False) -> None:
        self.port, self.bus_port = free_port(), free_port()
        self._options: tuple[str, ...] = ()
        if is_in_cluster:
            self._options = (
                *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"),
                *("--cluster-port", str(self.bus_port)),
                *("--cluster-node-timeout", str(_NODE_TIMEOUT_MS)),
            )
        self._folder = tempfile.mkdtemp(prefix="recollect-redis8-")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """The address for a client."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process, to look at from outside."""
        assert self._process is not None
        return self._process.pid

    def client(self) -> "redis.Redis":
        """Return a client to this node that is not ours."""
        return redis.Redis(port=self.port, socket_timeout=5)

    def start(self) -> None:
        """Start the server, empty but for its place in the cluster; return when it answers."""
        self._process = subprocess.Popen(
            [
                *redis8_command(),
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder),
                *("--save", "", "--appendonly", "no", "--loglevel", "warning"),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait_until(self._answers, "redis-server 8 did not start")

    def suspend(self) -> None:
        """SIGSTOP: connections stay, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def close(self) -> None:
        """End the server and remove its folder."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.exceptions.ConnectionError:
            return False


class Redis8Cluster:
    """Three masters that share all slots, without replicas."""

    def __init__(self) -> None:
        self.nodes: list[Redis8Node] = []
        try:
            for _ in range(3):
                self.nodes.append(Redis8Node(is_in_cluster=True))
            self._join()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """The address of one of its nodes."""
        return self.nodes[0].url

    def node_of(self, key: str) -> Redis8Node:
        """Return the node that holds `key`."""
        with self.nodes[0].client() as client:
            slot = int(client.execute_command("CLUSTER KEYSLOT", key))
        return self.nodes[min(slot * 3 // _SLOTS, 2)]

    def wait_until_whole(self) -> None:
        """Return when each node says that all slots are served."""
        _wait_until(self._is_whole, "the cluster did not come together")

    def flush(self) -> None:
        """Empty all nodes."""
        for node in self.nodes:
            with node.client() as client:
                client.flushall()

    def close(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.close()

    def _join(self) -> None:
        first, *others = self.nodes
        for number, node in enumerate(self.nodes):
            with node.client() as client:
                start, end = (-(-_SLOTS * at // 3) for at in (number, number + 1))
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                client.execute_command("CLUSTER ADDSLOTSRANGE", start, end - 1)
        with first.client() as client:
            for node in others:
                client.execute_command("CLUSTER MEET", "127.0.0.1", node.port, node.bus_port)
        self.wait_until_whole()

    def _is_whole(self) -> bool:
        for node in self.nodes:
            with node.client() as client:
                state = client.execute_command("CLUSTER INFO")
            if state["cluster_state"] != "ok" or state["cluster_known_nodes"] != "3":
                return False
        return True


def _wait_until(is_so: Callable[[], bool], complaint: str) -> None:
    end = time.monotonic() + 15
    while not is_so():
        assert time.monotonic() < end, complaint
        time.sleep(0.02)
