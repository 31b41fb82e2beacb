"""An index's threads end the process when there is no memory, whichever it was that found none."""

import subprocess
import sys

import pytest

from embeddings.out_of_memory import OUT_OF_MEMORY


@pytest.mark.parametrize("thread", ["saver", "loader", "renewer"])
def test_want_of_memory_beside_the_owner_ends_the_process(thread: str) -> None:
    """The owner would take it for a fault of the disk: a partition would be lost."""
    program = f"""
import threading
from embeddings.index.threads import IndexThreads

def take_memory():
    raise MemoryError

threads = IndexThreads()
threads.beside(threads.{thread}, take_memory, lambda done: None)
threading.Event().wait(30)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )

    assert done.returncode == OUT_OF_MEMORY, done.stderr
    assert "out of memory" in done.stderr
