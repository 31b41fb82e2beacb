"""As many look-ups as an embedding process can do, as from workers that have many new questions.

`python -m benchmarks.saturation SOCKET` asks until it is ended. It prints a line when the encoder
is busy.
"""

import asyncio
import itertools
import os
import sys

import uvloop

from benchmarks import paraphrases
from embeddings.client import EmbeddingClient
from embeddings.wire import LookUp

_CONCURRENT = 32


async def _saturate(socket_path: str) -> None:
    client = EmbeddingClient(f"unix://{socket_path}", None, 10.0)
    partition = os.urandom(32)
    texts = itertools.cycle(paraphrases.questions())
    answered = itertools.count(1)

    async def ask() -> None:
        while True:
            await client.look_up(LookUp(partition, next(texts), 4))
            if next(answered) == _CONCURRENT:
                print("saturated", flush=True)

    await asyncio.gather(*(ask() for _ in range(_CONCURRENT)))


if __name__ == "__main__":
    uvloop.run(_saturate(sys.argv[1]))
