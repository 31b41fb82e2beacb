"""Processes of a benchmark: their CPU time, memory, start, and end.

CPU time is read from the kernel's own account of each thread, so that a load
generator on the same machine changes the throughput but not the figure.
Linux only: everything here comes from /proc.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_ns(pids: Sequence[int]) -> int:
    """Return the CPU time that these processes' threads have used so far, in nanoseconds.

    `schedstat` counts nanoseconds where `stat` counts ticks of 10 ms; a round
    of some hundred milliseconds needs the former. A thread that has ended is
    no longer counted: the servers measured here keep theirs.
    """
    return sum(
        int((task / "schedstat").read_text().split()[0])
        for pid in pids
        for task in (_PROC / str(pid) / "task").iterdir()
    )


def pin(pids: Sequence[int], cores: Sequence[int]) -> None:
    """Have all threads of these processes run on some cores; those they start then, as well."""
    for pid in pids:
        for task in (_PROC / str(pid) / "task").iterdir():
            os.sched_setaffinity(int(task.name), cores)


def rss_bytes(pid: int) -> int:
    """Return the resident set size of a process."""
    for line in (_PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"process {pid} has no resident set")


def started_at_s(pid: int) -> float:
    """Return when the kernel started a process, on `CLOCK_BOOTTIME`; resolution 10 ms."""
    return int(_stat_fields(pid)[19]) / _TICKS_PER_S


def tree(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    parents = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            # It may end while we look.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parents[int(entry.name)] = int(_stat_fields(int(entry.name))[1])
    found = [pid]
    for ancestor in found:
        found.extend(child for child, parent in parents.items() if parent == ancestor)
    return found


def command_line(pid: int) -> str:
    """Return the words a process was started with, separated by spaces."""
    return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()


def _stat_fields(pid: int) -> list[str]:
    # The command's name is in parentheses and may hold spaces: fields are counted behind it.
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


@contextlib.contextmanager
def running(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the block ends; its output goes to the file `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """Return a TCP port that nobody listens on now.

    For servers that cannot be told to take any port and say which.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once something accepts connections on the port.

    Raises:
        RuntimeError: The process ended, or 20 s went by; the text ends with its output.
    """
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.005)
    raise RuntimeError(f"{process.args!r} does not listen on {port}:\n{log.read_text()[-2000:]}")
