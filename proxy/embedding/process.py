"""The embedding process: encoder and index behind one address, in step with Redis.

Builds its parts, in order; nothing else does. It ends when it is told to, or when its supervisor is
gone.

A new encoder does not make the old one's work worthless at once: each encoder has its own folder
with its index, and a file that says which encoder that was. If another one's is found, that goes on
answering until the new one's index is filled (`embeddings.service.succession`).
"""

import asyncio
import logging
import os
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import orjson
import uvloop

from cachestore.change_log import ChangeLog
from cachestore.redis_link import RedisLink
from cachestore.sample_log import SampleLog
from cachestore.vector_records import VectorRecords
from config.semantic import SemanticSettings
from embeddings.encoding.batching import Batcher
from embeddings.encoding.encoder import Encoder
from embeddings.encoding.models import EncoderError, open_encoder
from embeddings.index.vector_index import IndexUnavailable, VectorIndex
from embeddings.observer import Observer
from embeddings.out_of_memory import end_process
from embeddings.service import http_server
from embeddings.service.engine import Engine
from embeddings.service.follower import Follower
from embeddings.service.succession import Reign, Succession
from proxy import logs
from proxy.data_folder import DataFolderError, make_data_folder
from proxy.embedding.redis_source import RedisSource
from proxy.embedding.start import EmbeddingStart

_FIRST_CONNECT_S: Final = 2.0
_CLUSTER_DEADLINE_S: Final = 1.0
"""A write to vector sets moves up to 128 vectors; a look-up has the worker's own deadline."""
_LEAST_DEADLINE_S: Final = 1.0
"""For reading hundreds of records at once, and nobody waits for it."""
_ENCODER_FILE: Final = "encoder.json"

_log = logging.getLogger("recollect.embeddings")


@dataclass(frozen=True, slots=True)
class _Named:
    """What an encoder is opened by."""

    model: str
    scripts: tuple[str, ...]

    def write(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = orjson.dumps({"model": self.model, "scripts": self.scripts})
        draft = folder / f".{_ENCODER_FILE}.{os.getpid()}"
        draft.write_bytes(content)
        draft.replace(folder / _ENCODER_FILE)

    @classmethod
    def read(cls, folder: Path) -> "_Named | None":
        try:
            said = orjson.loads((folder / _ENCODER_FILE).read_bytes())
            return cls(str(said["model"]), tuple(map(str, said["scripts"])))
        except (OSError, ValueError, TypeError, KeyError):
            return None


class _Process:
    """The parts of one embedding process."""

    def __init__(self, start: EmbeddingStart, observer: Observer) -> None:
        self._start = start
        self._settings: SemanticSettings = start.settings.semantic
        self._observer = observer
        redis = start.settings.redis
        self.link = RedisLink(
            start.redis_url,
            deadline_s=max(redis.deadline_ms / 1000, _LEAST_DEADLINE_S),
            ca_file=redis.ca_file,
            name=b"recollect-embeddings",
        )
        self._cluster = None
        if self._settings.index == "vector-set":
            from cachestore.redis_cluster import ClusterLink

            self._cluster = ClusterLink(
                self._settings.index_url, deadline_s=_CLUSTER_DEADLINE_S, ca_file=redis.ca_file
            )
        self._indexes = start.folder / "index"

    async def start(self) -> Succession:
        """Open everything; a Redis that is away holds nothing up.

        Raises:
            EncoderError: The encoder cannot be had.
            DataFolderError: The data folder cannot be used.
        """
        make_data_folder(self._start.folder)
        named = _Named(self._settings.model, self._settings.scripts)
        encoder = await asyncio.to_thread(self._open, named)
        await self.link.start(_FIRST_CONNECT_S)
        if self._cluster is not None:
            await self._cluster.start(_FIRST_CONNECT_S)
            await self._check_vector_sets()
        folder = self._indexes / encoder.fingerprint
        old, old_folder = await asyncio.to_thread(self._former, folder)
        named.write(folder)
        new = self._reign(encoder, folder, is_successor=old is not None)
        if old is None or old_folder is None:
            return Succession(new)
        _log.info("the encoder is another one: the former answers until its index is filled")
        return Succession(
            new,
            self._reign(old, old_folder, is_successor=False),
            lambda: shutil.rmtree(old_folder, ignore_errors=True),
        )

    async def stop(self) -> None:
        """Close connections."""
        if self._cluster is not None:
            await self._cluster.close()
        await self.link.close()

    async def _check_vector_sets(self) -> None:
        from embeddings.index.vector_set_index import supports_vector_sets

        assert self._cluster is not None
        try:
            has_them = await supports_vector_sets(self._cluster)
        except IndexUnavailable:
            return  # away now; its own faults are told when it is used
        if not has_them:
            raise EncoderError(
                "semantic.index_url names a Redis without vector sets; it should be Redis 8"
            )

    def _open(self, named: _Named) -> Encoder:
        return open_encoder(
            named.model,
            self._settings.models_dir or self._start.folder / "models",
            device=self._settings.device,
            threads=self._settings.threads,
            scripts=named.scripts,
        )

    def _former(self, current: Path) -> tuple[Encoder | None, Path | None]:
        """Return the encoder whose index lies beside `current`, and its folder, if any.

        Of several the one written last; the others go.
        """
        try:
            others = [path for path in self._indexes.iterdir() if path != current]
        except FileNotFoundError:
            return None, None
        others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in others[1:]:
            shutil.rmtree(path, ignore_errors=True)
        for path in others[:1]:
            named = _Named.read(path)
            try:
                encoder = self._open(named) if named is not None else None
            except EncoderError as error:
                _log.warning("the former encoder cannot be had: %s", error)
                encoder = None
            if encoder is not None and encoder.fingerprint == path.name:
                return encoder, path
            shutil.rmtree(path, ignore_errors=True)
        return None, None

    def _reign(self, encoder: Encoder, folder: Path, *, is_successor: bool) -> Reign:
        settings, namespace = self._settings, self._start.settings.redis.namespace
        index: VectorIndex
        if self._cluster is not None:
            from embeddings.index.vector_set_index import VectorSetIndex

            index = VectorSetIndex(self._cluster, namespace, encoder.fingerprint, encoder.dimension)
        else:
            from embeddings.index.faiss_index import FaissIndex

            index = FaissIndex(
                folder,
                encoder.dimension,
                encoder.fingerprint,
                memory_bytes=settings.index_memory_mb * 1024**2,
                observer=self._observer,
            )
        source = RedisSource(
            ChangeLog(self.link, namespace),
            VectorRecords(self.link, namespace, on_corrupt=_warn_of_corrupt),
            SampleLog(self.link, namespace),
            encoder.fingerprint,
        )
        engine = Engine(
            Batcher(
                encoder,
                self._observer,
                max_batch=settings.max_batch,
                max_queued=settings.max_queued,
            ),
            index,
            source,
            self._observer,
            fingerprint=encoder.fingerprint,
            dimension=encoder.dimension,
        )
        follower = Follower(
            engine,
            index,
            source,
            self._observer,
            cause="encoder" if is_successor else "start",
            snapshot_every_s=settings.snapshot_interval_s,
        )
        return Reign(engine, follower)


def _warn_of_corrupt() -> None:
    _log.warning("a vector record was not what had been stored, and is deleted")


async def run(start: EmbeddingStart) -> int:
    """Serve until told to end.

    Returns:
        The exit code: 0 after a signal, 1 when it could not start.
    """
    # Looked for once, when prometheus_client is imported.
    from proxy.embedding.metrics import EmbeddingMetrics, exposition

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_on_loop_error)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if start.lifeline_fd is not None:
        loop.add_reader(start.lifeline_fd, stop.set)
    process = _Process(start, EmbeddingMetrics())
    starting = loop.create_task(process.start())
    stopping = loop.create_task(stop.wait())
    try:
        # An encoder that is being exported must not hold up an end.
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            _leave_at_once()
        try:
            succession = starting.result()
        except (EncoderError, DataFolderError) as error:
            _log.error("%s", error)
            return 1
        token = start.settings.semantic.token
        try:
            server = await http_server.serve(
                lambda: succession.current,
                start.address,
                token.get_secret_value() if token is not None else None,
                exposition,
                lambda: succession.is_ready,
            )
        except OSError as error:
            _log.error("cannot listen on %s: %s", start.address, error.strerror)
            return 1
        succession.start()
        _log.info("embeddings listening on %s", server.address)
        await stopping
        await server.close()
        await succession.close()
        return 0
    finally:
        if start.lifeline_fd is not None:
            loop.remove_reader(start.lifeline_fd)
        stopping.cancel()
        await process.stop()


def _on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if isinstance(context.get("exception"), MemoryError):
        end_process()
    loop.default_exception_handler(context)


def _leave_at_once() -> NoReturn:
    """End without waiting for an encoder that is being opened, and end its export."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(0)


def serve(start: EmbeddingStart) -> int:
    """Run one embedding process in this process, to its end; see `run`."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(start))


def main() -> None:
    """Serve what standard input says."""
    start = EmbeddingStart.read(sys.stdin.buffer)
    logs.configure(start.settings.log.level)
    # prometheus_client looks for this once, when it is imported.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = start.run_dir
    sys.exit(serve(start))


if __name__ == "__main__":
    main()
