"""The servers of the semantic tier's benchmarks, and what they are compared with.

As in `servers`, every function is a context manager: what it starts runs until its block ends.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import load, processes, servers

MODELS = Path(__file__).parents[1] / "build" / "models"
"""Exported encoders; kept, as an export takes a while."""

GPTCACHE = Path(__file__).parents[1] / "build" / "gptcache-venv" / "bin" / "python"
"""Of an environment that has GPTCache; see README.md."""

_LISTENING = re.compile(r"embeddings listening on unix://([^\s\"]+)")
_INDEX_S = 120


class EncoderProcess:
    """One running process, from here."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        """Ask `process`, which was started with pipes; its first line says that it is open."""
        self._process = process
        self._answer()

    def encode_s(self, text: str) -> float:
        """Return the seconds that a text takes alone."""
        answer: float = self._ask("encode_s", text)
        return answer

    def batched_cpu_s(self, texts: Sequence[str]) -> float:
        """Return the CPU seconds that the texts take in batches of 32."""
        answer: float = self._ask("batched_cpu_s", texts)
        return answer

    def fingerprint(self) -> str:
        """Return the encoder's fingerprint."""
        answer: str = self._ask("fingerprint", None)
        return answer

    def _ask(self, what: str, argument: object) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([what, argument]).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the encoder's process has ended")
        return json.loads(line)


@dataclass(frozen=True, slots=True)
class SemanticServer:
    """`recollect serve` with its embedding process, from the moment that one listens."""

    serving: servers.Serving
    embeddings_pid: int
    socket_path: str
    """Where the embedding process listens."""

    @property
    def port(self) -> int:
        """Where requests are answered."""
        return self.serving.port

    @property
    def pids(self) -> tuple[int, ...]:
        """All its processes."""
        return tuple(processes.tree(self.serving.process.pid))

    def is_index_ready(self) -> bool:
        """Say whether its index has caught up with Redis once."""
        return bool(self._ask("/healthz")["is_ready"])

    def wait_for_index(self, vectors: int = 0) -> None:
        """Return once the index has caught up and holds so many vectors."""
        deadline = time.monotonic() + _INDEX_S
        while not self.is_index_ready() or self.indexed() < vectors:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the index has {self.indexed()} vectors, not {vectors}")
            time.sleep(0.01)

    def indexed(self) -> int:
        """Return how many vectors the index holds."""
        return sum(self._ask("/stats")["vectors"].values())

    def counts(self, sample: str) -> bool:
        """Say whether that sample of its metrics is 1."""
        answer = load.ask(self.port, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return f"\n{sample} 1.0\n".encode() in answer

    def _ask(self, path: str) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(self.socket_path)
            link.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
            answer = link.recv(65536)
        document: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
        return document


@contextlib.contextmanager
def recollect(
    folder: Path,
    upstream: servers.Server,
    redis_server: servers.Redis,
    semantic: str,
    home: Path | None = None,
) -> Iterator[SemanticServer]:
    """Run `recollect serve`, its semantic tier on; see `recollect_serve`."""
    settings = f'mode = "on"\nmodels_dir = "{MODELS}"\n{semantic}'
    with servers.recollect_serve(
        folder, upstream, redis_server, servers.DEFAULT_L1_BYTES, semantic=settings, home=home
    ) as serving:
        servers.wait_until_ready(serving)
        deadline = time.monotonic() + _INDEX_S
        while not (found := _LISTENING.findall(serving.log.read_text())):
            if serving.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no embeddings:\n{serving.log.read_text()[-2000:]}")
            time.sleep(0.005)
        [pid] = servers.with_word(serving.process.pid, "proxy.embedding.process")
        yield SemanticServer(serving, pid, found[-1])


@contextlib.contextmanager
def encoder(folder: Path) -> Iterator[EncoderProcess]:
    """Run the encoder by itself."""
    command = [sys.executable, "-m", "benchmarks.encoder_process", str(MODELS)]
    with (
        (folder / "encoder.log").open("wb") as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        ) as process,
    ):
        # It ends with its standard input, which closes when the block ends.
        yield EncoderProcess(process)


@contextlib.contextmanager
def saturation(folder: Path, socket_path: str) -> Iterator[int]:
    """Have the embedding process do as many look-ups as it can; yield who asks for them."""
    log = folder / "saturation.log"
    command = [sys.executable, "-m", "benchmarks.saturation", socket_path]
    with processes.running(command, log) as process:
        while "saturated" not in log.read_text():
            if process.poll() is not None:
                raise RuntimeError(log.read_text()[-2000:])
            time.sleep(0.005)
        yield process.pid
        if process.poll() is not None:
            raise RuntimeError(log.read_text()[-2000:])


@contextlib.contextmanager
def gptcache(folder: Path) -> Iterator[servers.Server]:
    """Run GPTCache's server, from its own environment."""
    home = folder / "gptcache"
    home.mkdir()
    port = processes.free_port()
    [model] = MODELS.glob("all-MiniLM-L6-v2-*")
    command = [str(GPTCACHE), "-m", "benchmarks.gptcache_server", str(port), str(model), str(home)]
    log = folder / "gptcache.log"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with processes.running(command, log, environment) as process:
        processes.wait_for_port(port, process, log)
        yield servers.Server(port, (process.pid,))
