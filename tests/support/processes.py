"""What the kernel says about processes: who lives, whose child, how much memory, how many files."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

PROC = Path("/proc")


def pids_with_environment(mark: str) -> list[int]:
    """Return the processes that have `mark` in their environment, zombies left out."""
    found = []
    for folder in PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if mark.encode() in (folder / "environ").read_bytes() and state(int(folder.name)):
                found.append(int(folder.name))
        except OSError:  # ended meanwhile, or not ours
            continue
    return found


def pids_working_in(folder: Path) -> list[int]:
    """Return the processes whose working folder is `folder` or below, zombies left out.

    A redis-server writes its title over its environment, so that only this finds it.
    """
    found = []
    for process in PROC.iterdir():
        if process.name.isdigit() and state(int(process.name)):
            with contextlib.suppress(OSError):
                if (process / "cwd").readlink().is_relative_to(folder):
                    found.append(int(process.name))
    return found


def state(pid: int) -> str:
    """Return the state letter of a process, "" if it is gone or a zombie."""
    try:
        letter = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
    return "" if letter in "ZX" else letter


def children(pid: int) -> list[int]:
    """Return the living children of a process."""
    listed = (PROC / str(pid) / "task" / str(pid) / "children").read_text().split()
    return [int(child) for child in listed if state(int(child))]


def command_line(pid: int) -> str:
    """Return the command line, arguments parted by blanks."""
    raw = (PROC / str(pid) / "cmdline").read_bytes()
    return raw.replace(b"\0", b" ").decode(errors="replace")


def open_files(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(list((PROC / str(pid) / "fd").iterdir()))


def resident_bytes(pid: int) -> int:
    """Return the memory a process has in RAM."""
    for line in (PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def wait_until(is_so: Callable[[], bool], timeout_s: float, pause_s: float = 0.02) -> bool:
    """Look until `is_so`; False when it was not within `timeout_s`.

    For what sends no event: another process's state.
    """
    end = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(pause_s)
    return True
