"""Child processes that never outlive the one that started them.

Each child is the leader of a process group of its own: a Ctrl-C on the terminal reaches
only the parent, which ends its children in the order that suits them, and what a child
leaves running in its group can be ended with it. On Linux the kernel also ends a child
whose parent was killed without a chance to do so.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

POLL_S = 0.05
"""How often a wait looks again; nobody notices half of it."""

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
# Looked up before any fork: between fork and exec a child should do as little as it can.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def end_with_parent() -> None:
    """Have the kernel send this process SIGTERM when its parent ends. Linux only; else nothing."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def start(command: Sequence[str], log: IO[bytes] | None = None) -> subprocess.Popen[str]:
    """Start `command` as the leader of a new process group that ends with this process.

    Args:
        command: The program and its arguments.
        log: Where its standard error goes; None: where ours goes. With a log its standard
            output is a pipe, else it too goes where ours goes.
    """
    parent = os.getpid()

    def before_exec() -> None:
        end_with_parent()
        # The parent may have ended before the line above: then no signal will come.
        if os.getppid() != parent:
            os._exit(1)

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if log else None,
        stderr=log,
        text=True,
        process_group=0,
        preexec_fn=before_exec,  # noqa: PLW1509 - there is no other Python thread
    )


def end(child: subprocess.Popen[str], grace_s: float) -> None:
    """End `child` and its process group: SIGTERM, and SIGKILL after `grace_s` seconds."""
    child.terminate()
    deadline = time.monotonic() + grace_s
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(POLL_S)
    kill(child)
    child.wait()


def kill(child: subprocess.Popen[str]) -> None:
    """Send SIGKILL to whatever is left of the process group of `child`."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
