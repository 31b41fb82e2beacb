"""A service behind the real HTTP server that does what the text says; also as a process of its own.

As a process: `python -m tests.embeddings.fake_service ADDRESS [TOKEN]`; it writes a line to its
standard output once it listens.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import uvloop

from embeddings.encoding.batching import Busy
from embeddings.index.vector_index import IndexUnavailable
from embeddings.service.http_server import serve
from embeddings.service.source import SourceUnavailable
from embeddings.wire import Feedback, Found, LookUp, Neighbour

FINGERPRINT = "0123456789abcdef" * 2
VECTOR = b"\0\0\x80?" * 384


def found_for(text: str) -> Found:
    """Return what is found near `text`: a key made of it, so that answers can be told apart."""
    key = text.encode().ljust(32, b".")[:32]
    return Found((Neighbour(key, 0.5),), FINGERPRINT, None, VECTOR)


class FakeService:
    """Answers at once, but for the texts below."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.refreshed: list[list[bytes]] = []
        self.forgotten: list[list[bytes]] = []
        self.was_hinted = asyncio.Event()
        self.feedback: list[Feedback] = []
        self.has_begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.was_cancelled = asyncio.Event()
        self.is_store_down = False

    async def look_up(self, look_up: LookUp) -> Found:
        """Do what the text says."""
        text = look_up.text
        self.texts.append(text)
        match text:
            case "busy":
                raise Busy
            case "index down":
                raise IndexUnavailable("the index is away")
            case "defect":
                raise RuntimeError("a defect")
            case "refused":
                return Found((), FINGERPRINT, "script", b"")
            case "wait":
                self.has_begun.set()
                try:
                    await self.may_end.wait()
                except asyncio.CancelledError:
                    self.was_cancelled.set()
                    raise
        return found_for(text)

    async def explain(self, look_up: LookUp) -> dict[str, Any]:
        """Return something of the text."""
        if self.is_store_down:
            raise SourceUnavailable("the store is away")
        return {"verdict": look_up.text}

    async def told(self, feedback: Feedback) -> bool:
        """Note it; what is bad is of use."""
        if self.is_store_down:
            raise SourceUnavailable("the store is away")
        self.feedback.append(feedback)
        return not feedback.is_good

    async def refresh(self, keys: Sequence[bytes]) -> None:
        """Note the keys."""
        if self.is_store_down:
            raise SourceUnavailable("the store is away")
        self.refreshed.append(list(keys))
        self.was_hinted.set()

    async def forget(self, keys: Sequence[bytes]) -> None:
        """Note the keys."""
        self.forgotten.append(list(keys))
        self.was_hinted.set()

    async def stats(self) -> dict[str, Any]:
        """Return something."""
        return {"vectors": {"flat": 1}}


async def _main(address: str, token: str | None) -> None:
    service = FakeService()
    server = await serve(lambda: service, address, token, lambda: b"", lambda: True)
    print(server.address, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
