"""`recollect serve` from outside: real processes, a real private Redis, real signals."""

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.fake_upstream import FakeUpstream, Play
from tests.support.loop_thread import Gate
from tests.support.recollect_server import RecollectServer, StartRecollect, unique

RECOLLECT = Path(sys.executable).with_name("recollect")
REAL_WORKER = Path(__file__).parents[2] / "proxy" / "worker.py"
MODELS = Path(__file__).parents[2] / "build" / "models"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="looks at the processes through /proc"
)


class SlowRequest:
    """A request in the background, which the upstream answers when it is told to."""

    def __init__(self, server: RecollectServer, upstream: FakeUpstream) -> None:
        self._gate = Gate()
        self._prompt = unique("slow")
        self._server = server
        self._status = 0
        upstream.on(self._prompt, Play(gate=self._gate))
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        upstream.wait_calls(self._prompt)

    def _ask(self) -> None:
        try:
            answer = self._server.chat(self._prompt)
        except (OSError, EOFError):
            self._status = -1
        else:
            self._status = answer.status if answer.is_complete else -1

    def let_answer(self) -> None:
        self._gate.open()

    def result(self) -> int:
        """Return the status; -1 if the connection ended before the answer did."""
        self._gate.open()
        self._thread.join()
        return self._status


def until(is_so: Callable[[], bool], timeout_s: float = 15.0) -> None:
    assert processes.wait_until(is_so, timeout_s)


def log(server: RecollectServer) -> str:
    return "".join(server.stderr)


def status(server: RecollectServer) -> int:
    return server.chat(unique("hello")).status


def redis_pids(server: RecollectServer) -> list[int]:
    # Among the children of every thread; by its environment it is not found, for it writes its
    # title over it.
    pids: list[int] = []
    for listed in Path(f"/proc/{server.pid}/task").glob("*/children"):
        pids += map(int, listed.read_text().split())
    return [pid for pid in pids if "redis-server" in processes.command_line(pid)]


def rewrite(server: RecollectServer, old: str, new: str) -> None:
    text = server.settings_file.read_text()
    assert old in text
    server.settings_file.write_text(text.replace(old, new, 1))
    server.reload()


def overlay(folder: Path, worker: str) -> dict[str, str]:
    """Return the environment in which `worker` runs instead of our worker, to force its faults."""
    package = folder / "overlay" / "proxy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)\n"
    )
    (package / "worker.py").write_text(worker)
    others = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": f"{package.parent}{os.pathsep}{others}".rstrip(os.pathsep)}


def embedding_pids(server: RecollectServer) -> list[int]:
    return [
        pid
        for pid in processes.children(server.pid)
        if "proxy.embedding.process" in processes.command_line(pid)
    ]


def failing_start(folder: Path, *flags: str, **environment: str) -> tuple[int, str]:
    """Return exit code and standard error of a `recollect serve` that ends by itself."""
    done = subprocess.run(
        [RECOLLECT, "serve", "--upstream", "http://127.0.0.1:1", "--port", "0", *flags],
        cwd=folder,
        env={**os.environ, "RECOLLECT_SERVER__DATA_DIR": str(folder / "data"), **environment},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=20,
        check=False,
    )
    return done.returncode, done.stderr


def test_the_log_names_the_address_and_it_answers(
    start_recollect: StartRecollect, upstream: FakeUpstream
) -> None:
    """With port 0 the line holds the port the kernel chose, so that scripts can read it."""
    server = start_recollect(upstream.url)

    assert not server.origin.endswith(":0")
    assert status(server) == 200


def test_a_killed_worker_is_replaced_and_no_connection_is_refused(
    start_recollect: StartRecollect, upstream: FakeUpstream
) -> None:
    """The supervisor holds the socket: connections wait in the kernel until a worker is there."""
    server = start_recollect(upstream.url)
    [killed] = server.worker_pids()
    os.kill(killed, signal.SIGKILL)
    until(lambda: not processes.state(killed))

    assert status(server) == 200
    assert server.worker_pids() != [killed]
    assert f"pid {killed}" in log(server)


def test_nothing_outlives_a_killed_supervisor(
    start_recollect: StartRecollect, upstream: FakeUpstream
) -> None:
    """SIGKILL leaves no chance to clean up: workers and Redis notice by themselves."""
    server = start_recollect(upstream.url, settings={"server": {"workers": 2}})
    until(lambda: len(server.worker_pids()) == 2 and len(redis_pids(server)) == 1)
    family = server.worker_pids() + redis_pids(server)

    os.kill(server.pid, signal.SIGKILL)

    until(lambda: not any(processes.state(pid) for pid in family))


def test_a_signal_ends_all_and_leaves_nothing_behind(
    start_recollect: StartRecollect, upstream: FakeUpstream, tmp_path: Path
) -> None:
    """No process, no folder of the run; exit code 0, for it was asked for."""
    server = start_recollect(
        upstream.url, settings={"server": {"workers": 2}}, environment={"TMPDIR": str(tmp_path)}
    )
    assert status(server) == 200
    until(lambda: len(redis_pids(server)) == 1)
    family = server.worker_pids() + redis_pids(server)
    assert list(tmp_path.glob("recollect-*"))

    server.terminate()

    assert server.wait() == 0
    assert [pid for pid in family if processes.state(pid)] == []
    assert list(tmp_path.glob("recollect-*")) == []


def test_answers_begun_are_finished_before_the_end(
    start_recollect: StartRecollect, upstream: FakeUpstream
) -> None:
    """Ctrl-C sends SIGINT to the whole foreground group, and is for the supervisor alone."""
    server = start_recollect(upstream.url)
    request = SlowRequest(server, upstream)
    [worker] = server.worker_pids()
    assert os.getpgid(worker) != os.getpgid(server.pid)

    os.killpg(server.pid, signal.SIGINT)
    until(lambda: "told to end" in log(server))
    request.let_answer()

    assert request.result() == 200
    assert server.wait() == 0


def test_a_second_signal_does_not_wait(
    start_recollect: StartRecollect, upstream: FakeUpstream
) -> None:
    """Who signals twice has no patience for the 30 seconds of `server.drain_s`."""
    server = start_recollect(upstream.url)
    request = SlowRequest(server, upstream)
    server.terminate()
    until(lambda: "told to end" in log(server))

    server.terminate()

    assert server.wait() == 0
    assert request.result() == -1


def test_a_worker_that_does_not_drain_in_time_is_killed(
    start_recollect: StartRecollect, upstream: FakeUpstream
) -> None:
    """A stopped process heeds no signal but SIGKILL; `server.drain_s` bounds the wait."""
    server = start_recollect(upstream.url, settings={"server": {"drain_s": 0.1}})
    [worker] = server.worker_pids()
    os.kill(worker, signal.SIGSTOP)

    server.terminate()

    assert server.wait() == 0
    assert not processes.state(worker)


def test_a_reload_replaces_the_workers_without_losing_a_request(
    start_recollect: StartRecollect, upstream: FakeUpstream
) -> None:
    """The new worker serves before the old one is told to drain."""
    server = start_recollect(upstream.url, settings={"server": {"workers": 2}})
    until(lambda: len(server.worker_pids()) == 2)
    before = set(server.worker_pids())
    request = SlowRequest(server, upstream)

    rewrite(server, "[upstream]", '[upstream]\nrevision = "2"')
    statuses = []
    while len(set(server.worker_pids()) - before) < 2:
        statuses.append(status(server))
    request.let_answer()

    assert request.result() == 200
    assert set(statuses) == {200}
    until(lambda: not before & set(server.worker_pids()))


def test_a_reload_can_change_the_number_of_workers(
    start_recollect: StartRecollect, upstream: FakeUpstream
) -> None:
    """More are added, and those too many drain."""
    server = start_recollect(upstream.url, settings={"server": {"workers": 1}})

    rewrite(server, "workers = 1", "workers = 3")
    until(lambda: len(server.worker_pids()) == 3)
    assert status(server) == 200

    rewrite(server, "workers = 3", "workers = 1")
    until(lambda: len(server.worker_pids()) == 1)
    assert status(server) == 200


def test_a_reload_of_wrong_settings_changes_nothing(
    start_recollect: StartRecollect, upstream: FakeUpstream
) -> None:
    """The mistake is named, and the workers go on."""
    server = start_recollect(upstream.url, settings={"cache": {"ttl_s": 60}})
    before = server.worker_pids()

    rewrite(server, "ttl_s = 60", "ttl_s = -1")

    until(lambda: "cache.ttl_s = -1" in log(server))
    assert status(server) == 200
    assert server.worker_pids() == before


def test_a_reload_whose_workers_do_not_start_is_taken_back(
    start_recollect: StartRecollect, upstream: FakeUpstream, tmp_path: Path
) -> None:
    """Right in form, wrong in fact: the old worker stays."""
    breakable = (
        "import pathlib, runpy, sys\n"
        f"if pathlib.Path({str(tmp_path / 'broken')!r}).exists(): sys.exit('broken')\n"
        f"runpy.run_path({str(REAL_WORKER)!r}, run_name='__main__')\n"
    )
    server = start_recollect(upstream.url, environment=overlay(tmp_path, breakable))
    before = server.worker_pids()

    (tmp_path / "broken").touch()
    server.reload()

    until(lambda: "the old ones stay" in log(server))
    until(lambda: server.worker_pids() == before)
    assert status(server) == 200
    time.sleep(1)
    assert log(server).count("the old ones stay") == 1


def test_a_reload_names_what_needs_a_restart(
    start_recollect: StartRecollect, upstream: FakeUpstream
) -> None:
    """The sockets and the private Redis are the supervisor's, which goes on."""
    server = start_recollect(upstream.url, settings={"admin": {"host": "127.0.0.1"}})
    before = set(server.worker_pids())

    rewrite(server, "[admin]", "[admin]\nport = 0")
    rewrite(server, '[redis]\nurl = ""', '[redis]\nurl = "redis://127.0.0.1:1"\nmaxmemory_mb = 9')

    until(lambda: "redis.maxmemory_mb" in log(server))
    line = next(line for line in server.stderr if "redis.maxmemory_mb" in line)
    assert "restart" in line
    assert "admin.port" in line
    assert "redis.url" in line
    until(lambda: bool(set(server.worker_pids()) - before))
    assert status(server) == 200
    # What was not taken over is still wanted, and said again.
    server.reload()
    until(lambda: log(server).count("redis.maxmemory_mb") == 2)


def test_a_port_in_use_is_an_error_that_names_it(tmp_path: Path) -> None:
    """Exit code 1, and no traceback: this is the commonest slip of all."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, stderr = failing_start(tmp_path, "--port", str(port))

    assert code == 1
    assert f"127.0.0.1:{port}" in stderr
    assert "Traceback" not in stderr


def test_a_host_that_is_not_ours_is_an_error_that_names_it(tmp_path: Path) -> None:
    """192.0.2.0/24 is nobody's (RFC 5737)."""
    code, stderr = failing_start(tmp_path, "--host", "192.0.2.1")

    assert code == 1
    assert "192.0.2.1" in stderr


def test_a_data_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """The folder is named, so that one sees whose rights are missing."""
    (tmp_path / "data").write_text("a file is in the way")
    code, stderr = failing_start(tmp_path)

    assert code == 1
    assert str(tmp_path / "data") in stderr
    assert "Traceback" not in stderr


def test_a_first_worker_that_gives_up_ends_the_start(tmp_path: Path) -> None:
    """A service that cannot start says so by its exit code instead of trying for ever."""
    code, _ = failing_start(tmp_path, **overlay(tmp_path, "raise SystemExit('cannot')"))

    assert code == 1


def test_a_worker_that_dies_again_and_again_is_started_less_and_less_often(
    start_recollect: StartRecollect, upstream: FakeUpstream, tmp_path: Path
) -> None:
    """Pauses of 0.1 s doubling: the fifth start comes at least 0.8 s after the fourth end."""
    dying = (
        "import os, sys\n"
        "from proxy.worker_start import WorkerStart\n"
        "os.write(WorkerStart.read(sys.stdin.buffer).ready_fd, b'1')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    server = start_recollect(upstream.url, environment=overlay(tmp_path, dying))
    until(lambda: log(server).count("exit code -9") >= 5)

    ends = [json.loads(line)["time"] for line in server.stderr if "exit code -9" in line]
    assert ends[4] - ends[3] >= 0.8


def test_a_folder_named_like_ours_is_not_imported(tmp_path: Path) -> None:
    """`python -m` would look into the working directory first; ours is where it was installed."""
    (tmp_path / "proxy").mkdir()
    (tmp_path / "proxy" / "__init__.py").write_text("raise SystemExit('not ours')")
    with serving(tmp_path, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, b"")
        assert any(b"recollect listening on" in line for line in lines)


def test_a_killed_redis_comes_back(start_recollect: StartRecollect, upstream: FakeUpstream) -> None:
    """And requests do not wait for it."""
    server = start_recollect(upstream.url)
    until(lambda: len(redis_pids(server)) == 1)
    [killed] = redis_pids(server)
    os.kill(killed, signal.SIGKILL)

    assert status(server) == 200
    until(lambda: redis_pids(server) not in ([], [killed]))


def test_the_data_folder_is_private_and_keeps_the_tenancy_secret(
    start_recollect: StartRecollect, upstream: FakeUpstream, tmp_path: Path
) -> None:
    """With another secret, no tenant would find its entries again after a restart."""
    folder = tmp_path / "data"
    secrets = set()
    for _ in range(2):
        start_recollect(upstream.url, data_folder=folder).close()
        secrets.add((folder / "tenancy.secret").read_text())

    assert len(secrets) == 1
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "tenancy.secret").stat().st_mode & 0o777 == 0o600


def test_no_data_folder_is_needed_with_a_redis_and_a_secret_of_ones_own(
    start_recollect: StartRecollect, upstream: FakeUpstream, tmp_path: Path
) -> None:
    """A container with a read-only file system can serve, even while its Redis is away."""
    server = start_recollect(
        upstream.url,
        "redis://127.0.0.1:1/0",
        {"tenancy": {"secret": "correct horse battery staple"}},
        data_folder=tmp_path / "data",
    )

    assert status(server) == 200
    assert redis_pids(server) == []
    assert not (tmp_path / "data").exists()


def test_the_end_of_its_terminal_is_the_end(tmp_path: Path) -> None:
    """A closed window sends SIGHUP as well, and whoever closes it wants no reload."""
    ours, theirs = pty.openpty()
    with serving(tmp_path, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while b"/v1" not in seen:
            seen += os.read(ours, 4096)
        os.close(ours)

        process.send_signal(signal.SIGHUP)

        assert process.wait(20) == 0


@contextmanager
def serving(folder: Path, stderr: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Start in `folder` as the working directory; end it with SIGKILL if need be."""
    process = subprocess.Popen(
        [RECOLLECT, "serve", "--upstream", "http://127.0.0.1:1", "--port", "0"],
        cwd=folder,
        env={**os.environ, "RECOLLECT_SERVER__DATA_DIR": str(folder / "data")},
        stdin=subprocess.DEVNULL,
        stderr=stderr,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_a_reload_switches_the_semantic_tier_on_and_off(
    start_recollect: StartRecollect, upstream: FakeUpstream
) -> None:
    """Its process comes and goes, and comes again when it was killed; requests go on."""
    server = start_recollect(upstream.url, settings={"semantic": {"models_dir": str(MODELS)}})
    assert embedding_pids(server) == []

    rewrite(server, 'mode = "off"', 'mode = "on"')
    until(lambda: "embeddings listening on" in log(server), 60)
    [first] = embedding_pids(server)
    assert status(server) == 200
    os.kill(first, signal.SIGKILL)
    until(lambda: log(server).count("embeddings listening on") == 2)
    [second] = embedding_pids(server)
    assert status(server) == 200

    rewrite(server, 'mode = "on"', 'mode = "off"')
    until(lambda: not processes.state(second))
    assert status(server) == 200
    assert embedding_pids(server) == []


def test_a_semantic_tier_that_cannot_be_is_a_wrong_setting(tmp_path: Path) -> None:
    """Without the extra: exit code 2, where it was set, and what to do about it."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['onnxruntime'] = None\n")
    (tmp_path / "recollect.toml").write_text('[semantic]\nmode = "on"\n')
    others = os.environ.get("PYTHONPATH", "")

    code, stderr = failing_start(
        tmp_path, PYTHONPATH=f"{tmp_path}{os.pathsep}{others}".rstrip(os.pathsep)
    )

    assert code == 2
    assert f"semantic.mode = 'on' ({tmp_path / 'recollect.toml'})" in stderr
    assert "EXTRAS=semantic" in stderr
    assert "Traceback" not in stderr
