"""The end of a process that is out of memory.

What was being changed when memory ran out is changed by half. faiss takes nothing back: rows of a
graph would bear the keys of others, and a key names an answer. A connection to Redis that finds no
memory for a reply breaks, and the next one too. So the process ends, wherever it is noticed, and
the one that is started in its place begins with what was saved.
"""

import os
from typing import Final, NoReturn

OUT_OF_MEMORY: Final = 70
"""The exit status (EX_SOFTWARE in sysexits.h)."""


_BATCH_BYTES: Final = 16 * 1024**2
"""What a batch of records may take, as they are read and decoded."""


def end_without_memory() -> None:
    """End if a batch of records would find no memory: for a fault that memory may be behind."""
    try:
        bytearray(_BATCH_BYTES)
    except MemoryError:
        end_process()


def end_process() -> NoReturn:
    """End at once; nothing is saved, and nothing that takes memory is done."""
    os.write(2, b"recollect: the embedding process is out of memory, and ends\n")
    os._exit(OUT_OF_MEMORY)
