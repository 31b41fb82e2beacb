"""The servers of one of the semantic tier's rows, and the questions that are put to them."""

import contextlib
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks import load, paraphrases, semantic_servers, servers, traffic
from benchmarks.compare import Size
from benchmarks.semantic_servers import EncoderProcess, SemanticServer

SETTLE_S: Final = 0.3
MEANT: Final = load.Expectation(b"detail=semantic", b'"finish_reason":"stop"')
_FEWEST_PAIRS: Final = 8


class LeftOut(Exception):
    """The row cannot be measured here; the message says what it needs."""


class Stage:
    """The servers of one row."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self.encoder: EncoderProcess = stack.enter_context(semantic_servers.encoder(folder))
        self.upstream = stack.enter_context(servers.fake_upstream(folder))
        self.redis = stack.enter_context(servers.redis(folder))

    def recollect(self, settings: str) -> SemanticServer:
        server = self._stack.enter_context(
            semantic_servers.recollect(self.folder, self.upstream, self.redis, settings)
        )
        server.wait_for_index()
        return server

    def exact_only(self) -> servers.Server:
        return self._stack.enter_context(servers.recollect(self.folder, self.upstream, self.redis))

    def gptcache(self) -> servers.Server:
        return self._stack.enter_context(semantic_servers.gptcache(self.folder))

    def asks(
        self, port: int, requests: Iterator[bytes], expected: load.Expectation
    ) -> Callable[[], float]:
        """Return what sends the next request and returns the seconds to its first byte."""
        client = self._stack.enter_context(contextlib.closing(load.Client(port)))
        return lambda: client.first_byte_s(next(requests), expected.check)

    def encodes(self, texts: Iterator[str]) -> Callable[[], float]:
        """Return what has the next text encoded and returns the seconds it took."""
        return lambda: self.encoder.encode_s(next(texts))

    def learn(self, server: SemanticServer, size: Size) -> list[paraphrases.Pair]:
        """Store answers, at most as many as are asked for; return pairs that are hits."""
        calls = servers.upstream_calls(self.upstream)
        pairs = paraphrases.pairs()[: size.requests]
        for pair in pairs:
            load.ask(server.port, traffic.question(pair.stored))
        # Some are so near to each other that they are hits themselves.
        server.wait_for_index(servers.upstream_calls(self.upstream) - calls)
        answers = [load.ask(server.port, traffic.question(pair.asked)) for pair in pairs]
        hits = [pair for pair, answer in zip(pairs, answers, strict=True) if MEANT.header in answer]
        if len(hits) < _FEWEST_PAIRS:
            raise RuntimeError(f"only {len(hits)} of {len(pairs)} paraphrases are hits")
        # What missed is stored now: not while something is measured.
        time.sleep(SETTLE_S)
        return hits


def new_texts(pairs: Sequence[paraphrases.Pair]) -> Iterator[str]:
    """Yield texts without end, none twice, each near to a stored one."""
    for number in itertools.count(1):
        for pair in pairs:
            yield paraphrases.respelled(pair.asked, number)


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    if not paraphrases.are_there():
        raise LeftOut("its questions are missing; RECOLLECT_DATA names their folder")
    with (
        tempfile.TemporaryDirectory(prefix="recollect-bench-") as folder,
        contextlib.ExitStack() as stack,
    ):
        yield Stage(Path(folder), stack)
