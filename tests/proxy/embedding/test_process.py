"""The embedding process from outside: the real model, a real Redis, real signals."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cachestore.entry import StoredResponse
from cachestore.redis_link import RedisLink
from cachestore.redis_store import RedisStore
from cachestore.vector_record import Meaning
from config.settings import Settings
from embeddings.client import EmbeddingClient, EmbeddingsUnavailable
from embeddings.wire import Found, LookUp
from proxy.embedding.start import EmbeddingStart
from tests.support import processes
from tests.support.redis8_cluster import Redis8Cluster, Redis8Node
from tests.support.redis_server import RedisServer

MODELS = Path(__file__).parents[3] / "build" / "models"
PARTITION = b"p" * 32
ASKED = "How many people live in Paris?"
IN_OTHER_WORDS = "How many people are living in Paris?"
pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="looks at the processes through /proc"
)

START_S = 120.0
"""Exporting the model takes half a minute, the first time on a machine."""


class Process:
    """One embedding process.

    Attributes:
        said: What it wrote to standard error.
    """

    def __init__(self, start: EmbeddingStart, pass_fds: tuple[int, ...] = ()) -> None:
        self.address = start.address
        self.said: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "proxy.embedding.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            process_group=0,
        )
        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            stdin.write(start.encode())
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            for line in stderr:
                self.said.append(line.decode(errors="replace"))

    def wait_for_log(self, text: str) -> None:
        """Return when `text` was said."""
        found = processes.wait_until(
            lambda: any(text in line for line in self.said) or self._process.poll() is not None,
            START_S,
        )
        assert found, self.said
        assert any(text in line for line in self.said), self.said

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for its end and return its exit code."""
        code = self._process.wait(30)
        self._reader.join(10)
        return code

    def close(self) -> None:
        """End it, in whatever state it is."""
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self.wait()


class Rig:
    """Embedding processes over one Redis, and the store whose changes they follow."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.namespace = f"t{uuid.uuid4().hex[:12]}"
        self.processes: list[Process] = []

    def start(self, *, lifeline_fd: int | None = None, **semantic: Any) -> Process:
        """Start a process; it may not serve yet."""
        run_dir = self.folder / f"run-{len(self.processes)}"
        run_dir.mkdir()
        given = {"mode": "on", "models_dir": str(MODELS), "address": "", **semantic}
        address = given["address"] or f"unix://{self.folder}/e.sock"
        settings = Settings.model_validate(
            {"semantic": {**given, "address": ""}, "redis": {"namespace": self.namespace}}
        )
        start = EmbeddingStart(
            settings=settings,
            redis_url=self.redis_url,
            folder=self.folder / "data",
            address=address,
            lifeline_fd=lifeline_fd,
            run_dir=str(run_dir),
        )
        self.processes.append(Process(start, () if lifeline_fd is None else (lifeline_fd,)))
        return self.processes[-1]

    def serving(self, **semantic: Any) -> Process:
        """Start a process and wait until it listens."""
        process = self.start(**semantic)
        process.wait_for_log("embeddings listening on")
        return process

    def store(self, key: bytes, text: str = ASKED) -> None:
        """Store a response as the answer to `text`."""

        async def put() -> None:
            link = RedisLink(self.redis_url, deadline_s=5)
            await link.start(5)
            store = RedisStore(link, self.namespace, 2048, 1 << 20)
            entry = StoredResponse(key, time.time(), 600.0, 0.0, b"head", b"body")
            assert await store.put(entry, None, Meaning(PARTITION, text))
            await link.close()

        asyncio.run(put())

    def look_up(self, process: Process, text: str = IN_OTHER_WORDS) -> Found | None:
        """Ask; None where there is no answer."""

        async def ask() -> Found | None:
            client = EmbeddingClient(process.address, None, 5)
            try:
                return await client.look_up(LookUp(PARTITION, text, 3))
            except EmbeddingsUnavailable:
                return None
            finally:
                await client.close()

        return asyncio.run(ask())

    def found(self, process: Process, is_so: Callable[[Found], bool]) -> Found:
        """Ask until what is found is so."""
        last: list[Found | None] = []

        def look() -> bool:
            last.append(self.look_up(process))
            return last[-1] is not None and is_so(last[-1])

        assert processes.wait_until(look, 20, 0.05), last[-1]
        assert last[-1] is not None
        return last[-1]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="rce-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def rig(folder: Path, own_redis: RedisServer) -> Iterator[Rig]:
    """A rig over a Redis that may be hurt."""
    rig = Rig(folder, own_redis.url)
    yield rig
    for process in rig.processes:
        process.close()


def has(key: bytes) -> Callable[[Found], bool]:
    """Whether the nearest has `key`."""
    return lambda found: bool(found.matches) and found.matches[0].key == key


def test_what_is_stored_is_found_in_other_words_and_after_a_restart(rig: Rig) -> None:
    """SIGTERM: it saves its index and ends with 0; the next one begins where it stood."""
    process = rig.serving()
    empty = rig.look_up(process)
    assert empty is not None
    assert (empty.matches, empty.refused) == ((), None)

    rig.store(b"k" * 32)
    near = rig.found(process, has(b"k" * 32))
    process.terminate()

    assert near.matches[0].score >= 0.95
    assert near.fingerprint == empty.fingerprint
    assert process.wait() == 0
    index = rig.folder / "data" / "index" / near.fingerprint
    assert (index / "encoder.json").exists()
    rig.store(b"o" * 32, "How do I bake a loaf of bread?")
    again = rig.serving()
    rig.found(again, has(b"k" * 32))
    assert rig.look_up(again, "How do I bake bread?") is not None
    rig.processes[-1].terminate()
    assert rig.processes[-1].wait() == 0


def test_ten_thousand_additions_under_way_when_the_process_is_killed_are_all_found(
    rig: Rig,
) -> None:
    """What is stored is in Redis with its vector, and told in the log, in one step."""
    process = rig.serving()
    known = rig.found(process, lambda found: bool(found.vector))
    rng = np.random.default_rng(7)
    vectors = rng.standard_normal((10_000, len(known.vector) // 4)).astype("<f4")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    async def put() -> None:
        now = time.time()
        link = RedisLink(rig.redis_url, deadline_s=10)
        await link.start(5)
        store = RedisStore(link, rig.namespace, 2048, 1 << 20)
        for first in range(0, len(vectors), 500):
            if first == 5000:
                os.kill(process.pid, signal.SIGKILL)
            await asyncio.gather(
                *(
                    store.put(
                        StoredResponse(sha256(b"%d" % at).digest(), now, 600.0, 0, b"", b""),
                        None,
                        Meaning(PARTITION, str(at), known.fingerprint, vectors[at].tobytes()),
                    )
                    for at in range(first, first + 500)
                )
            )
        await link.close()

    asyncio.run(put())
    process.wait()
    again = rig.serving()

    async def held() -> int:
        reader, writer = await asyncio.open_unix_connection(again.address.removeprefix("unix://"))
        writer.write(b"GET /stats HTTP/1.1\r\nhost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        stats = json.loads(await reader.readexactly(length))
        writer.close()
        return sum(stats["vectors"].values())

    assert processes.wait_until(lambda: asyncio.run(held()) == 10_000, 60, 0.2)


def test_record_that_is_not_what_was_stored_is_told_of(rig: Rig, own_redis: RedisServer) -> None:
    """And found no more."""
    process = rig.serving()
    rig.store(b"k" * 32)
    rig.found(process, has(b"k" * 32))
    with own_redis.client() as client:
        client.hset(f"{rig.namespace}:v:{(b'k' * 32).hex()}", "m", "garbage")
        client.xadd(f"{rig.namespace}:log", {"k": b"k" * 32})

    process.wait_for_log("a vector record was not what had been stored")
    rig.found(process, lambda found: not found.matches)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of chance weights, not exported yet; it knows letters only."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    from tests.embeddings.encoding import tiny_models

    folder = tmp_path_factory.mktemp("tiny")
    tiny_models.save(folder / "tiny", tiny_models.transformer(folder / "bert"), Pooling(16))
    return folder / "tiny"


def test_another_encoder_answers_when_its_index_is_filled(
    rig: Rig, own_redis: RedisServer, tiny: Path
) -> None:
    """Until then the former one does, from its own index; then that goes."""
    models = rig.folder / "models"
    models.mkdir()
    for export in MODELS.iterdir():
        (models / export.name).symlink_to(export)
    rig.store(b"k" * 32)
    process = rig.serving(model=str(tiny), models_dir=str(models))
    former = rig.found(process, has(b"k" * 32))
    process.terminate()
    assert process.wait() == 0

    # While Redis is silent, the new index cannot be filled.
    own_redis.suspend()
    process = rig.serving(models_dir=str(models))
    meanwhile = rig.found(process, has(b"k" * 32))
    own_redis.resume()
    new = rig.found(process, lambda found: found.fingerprint != former.fingerprint)

    assert any("the former answers until its index is filled" in line for line in process.said)
    assert meanwhile.fingerprint == former.fingerprint
    assert (len(former.vector), len(new.vector)) == (16 * 4, 384 * 4)
    assert has(b"k" * 32)(new)
    indexes = rig.folder / "data" / "index"
    assert processes.wait_until(
        lambda: [path.name for path in indexes.iterdir()] == [new.fingerprint], 10
    )


def test_signal_ends_an_export_too(rig: Rig, tiny: Path) -> None:
    """It takes half a minute, and nobody waits for it: nothing of the process is left."""
    process = rig.start(model=str(tiny), models_dir=str(rig.folder / "models"))
    exports: list[int] = []

    def is_exporting() -> bool:
        # A thread's child is listed with that thread.
        for listed in Path(f"/proc/{process.pid}/task").glob("*/children"):
            exports.extend(map(int, listed.read_text().split()))
        return bool(exports)

    assert processes.wait_until(is_exporting, START_S)
    process.terminate()
    began = time.monotonic()
    process.wait()

    assert time.monotonic() - began < 3
    assert processes.wait_until(lambda: not any(map(processes.state, exports)), 5)


@pytest.mark.parametrize(
    "said",
    [
        None,
        b"no JSON",
        b'{"model": "/nowhere/at-all", "scripts": []}',
        b'{"model": "all-MiniLM-L6-v2", "scripts": ["Klingon"]}',
        b'{"model": "all-MiniLM-L6-v2", "scripts": []}',
    ],
)
def test_index_of_an_encoder_that_cannot_be_had_is_removed(rig: Rig, said: bytes | None) -> None:
    """Its model has gone, or is another one now; and so is any index before the last."""
    indexes = rig.folder / "data" / "index"
    for number, name in enumerate(("1" * 32, "2" * 32)):
        (indexes / name).mkdir(parents=True)
        if said is not None:
            (indexes / name / "encoder.json").write_bytes(said)
        os.utime(indexes / name, (number, number))

    process = rig.serving()
    rig.store(b"k" * 32)
    found = rig.found(process, has(b"k" * 32))

    assert [path.name for path in indexes.iterdir()] == [found.fingerprint]


def test_redis_that_is_away_does_not_hold_up_a_start(folder: Path, own_redis: RedisServer) -> None:
    """What is asked is answered with nothing; once Redis is there, with what it holds."""
    own_redis.kill()
    rig = Rig(folder, own_redis.url)
    try:
        process = rig.serving()
        found = rig.look_up(process)
        assert found is not None
        assert found.matches == ()
        own_redis.start()
        rig.store(b"k" * 32)
        rig.found(process, has(b"k" * 32))
    finally:
        rig.processes[0].close()


def test_with_an_index_in_vector_sets_what_is_stored_is_found_also_after_a_restart(
    rig: Rig, redis8_cluster: Redis8Cluster
) -> None:
    """The vectors lie in the cluster, under our namespace; the process has no snapshot."""
    where = {"index": "vector-set", "index_url": redis8_cluster.url}
    process = rig.serving(**where)
    empty = rig.look_up(process)
    assert empty is not None
    assert empty.matches == ()

    rig.store(b"k" * 32)
    near = rig.found(process, has(b"k" * 32))
    process.terminate()

    assert near.matches[0].score >= 0.95
    assert process.wait() == 0
    rig.store(b"o" * 32, "How do I bake a loaf of bread?")
    again = rig.serving(**where)
    rig.found(again, has(b"k" * 32))

    def is_new_found() -> bool:
        found = rig.look_up(again, "How do I bake bread?")
        return found is not None and has(b"o" * 32)(found)

    assert processes.wait_until(is_new_found, 20, 0.05)
    again.terminate()
    assert again.wait() == 0
    assert [path.name for path in (rig.folder / "data/index").glob("*/*")] == ["encoder.json"]
    assert not any("Traceback" in line for each in rig.processes for line in each.said)


@pytest.mark.usefixtures("_redis8")
def test_index_in_vector_sets_that_is_away_does_not_hold_up_a_start(rig: Rig) -> None:
    """What is asked gets no answer; once that Redis is there, what is stored is found."""
    away = Redis8Node()
    away.kill()
    try:
        process = rig.serving(index="vector-set", index_url=away.url)
        assert rig.look_up(process) is None
        assert not any("Traceback" in line for line in process.said), process.said
        away.start()
        rig.store(b"k" * 32)
        rig.found(process, has(b"k" * 32))
    finally:
        away.close()


def test_process_ends_when_its_supervisor_is_gone(rig: Rig) -> None:
    """It sees the end of a pipe that only the supervisor held open."""
    reading, writing = os.pipe()
    process = rig.start(lifeline_fd=reading)
    os.close(reading)
    process.wait_for_log("embeddings listening on")

    os.close(writing)

    assert process.wait() == 0


@pytest.mark.parametrize(
    ("semantic", "reason"),
    [
        ({"model": "/nowhere/at-all"}, "/nowhere/at-all is neither a folder"),
        ({"scripts": ["Klingon"]}, "not the name of a Unicode script: Klingon"),
        ({"address": "unix:///nowhere/at/all.sock"}, "cannot listen on unix:///nowhere"),
        ({"index": "vector-set"}, "a Redis without vector sets; it should be Redis 8"),
    ],
)
def test_what_cannot_work_is_said_with_exit_code_1(
    rig: Rig, own_redis: RedisServer, semantic: dict[str, Any], reason: str
) -> None:
    """No traceback: these are an operator's slips."""
    if semantic.get("index"):
        semantic = {**semantic, "index_url": own_redis.url}
    process = rig.start(**semantic)

    assert process.wait() == 1
    assert any(reason in line for line in process.said), process.said
    assert not any("Traceback" in line for line in process.said)


def test_data_folder_that_cannot_be_used_is_named(rig: Rig) -> None:
    """The folder is named, so that one sees whose rights are missing."""
    (rig.folder / "data").write_text("a file is in the way")

    process = rig.start()

    assert process.wait() == 1
    assert any(str(rig.folder / "data") in line for line in process.said), process.said
