"""The end of a process that is out of memory.

What was being changed when memory ran out is changed by half. faiss takes nothing back: rows of a
graph would bear the keys of others, and a key names an answer. A connection to Redis that finds no
memory for a reply breaks, and the next one too. So the process ends, wherever it is noticed, and
the one that is started in its place begins with what was saved.

A GPU's memory is the same case: another try with what is left of it fails as this one did.
"""

import os
from typing import Final, NoReturn

OUT_OF_MEMORY: Final = 70
"""The exit status (EX_SOFTWARE in sysexits.h)."""


_BATCH_BYTES: Final = 16 * 1024**2
"""What a batch of records may take, as they are read and decoded."""


def is_for_want_of_memory(error: Exception) -> bool:
    """Say whether a library's error tells, in whatever words, that it was refused memory.

    Known: "Failed to allocate memory for requested buffer" and "std::bad_alloc" of onnxruntime,
    "can't allocate memory", "CUDA out of memory" and "CUBLAS_STATUS_ALLOC_FAILED" of torch. A GPU's
    "illegal memory access" is taken for one, too: the process can never use that GPU again.
    """
    words = str(error).lower()
    return "alloc" in words or "memory" in words


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
