"""Run a program that ends when the process that started it does (Linux).

    python end_with_parent.py PARENT_PID PROGRAM [ARGUMENT …]

A program of its own, not a function for Popen's `preexec_fn`: that would run
Python between fork and exec, where a lock held by another thread stays locked.
Replaces itself by PROGRAM, so that its process id is the program's.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for SIGTERM at the parent's end, then become the program."""
    parent_pid, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        # The parent may have ended before the line above.
        if os.getppid() != int(parent_pid):
            sys.exit("the parent has ended")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
