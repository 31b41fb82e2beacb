"""Look-ups and changes of one encoder's index: what the embedding process does when it is asked.

The store holds the truth, the index only what was true when it was last looked at. So every change
is the same step: read the record now and do as it says. Steps may be repeated and come in any
order; whichever looks last has the last word.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from embeddings.encoding.batching import Batcher, Busy
from embeddings.encoding.encoder import Refused, Vector
from embeddings.index.vector_index import IndexedVector, Match, VectorIndex
from embeddings.observer import LookUpOutcome, Observer
from embeddings.service.judge import Judge
from embeddings.service.source import Record, Source
from embeddings.wire import Decided, Feedback, Found, LookUp, Neighbour, WireError

_NORM_TOLERANCE: Final = 1e-2
"""A stored vector's norm is 1 but for rounding; what is farther off is no vector of an encoder."""

_LAST_LOOK_UPS_S: Final = 1.0
"""How long `close` waits for look-ups that have begun."""


class Engine:
    """One encoder's batcher, index and source."""

    def __init__(
        self,
        batcher: Batcher,
        index: VectorIndex,
        source: Source,
        observer: Observer,
        *,
        fingerprint: str,
        dimension: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Put an engine together; it owns the batcher and the index from now on.

        Args:
            batcher: Encodes, with the encoder that `fingerprint` and `dimension` are of.
            index: Holds vectors of this encoder only.
            source: The store, as this encoder sees it.
            observer: Told of look-ups and searches.
            fingerprint: The encoder's.
            dimension: The encoder's.
            clock: Unix seconds.
        """
        self._batcher = batcher
        self._index = index
        self._source = source
        self._observer = observer
        self._fingerprint = fingerprint
        self._dimension = dimension
        self._clock = clock
        self._judge = Judge(source, batcher.encode_in_background, observer, clock=clock)
        self._look_ups = 0
        self._none_runs = asyncio.Event()
        self._none_runs.set()
        # What is to be searched for at the end of this turn, and who waits for it.
        self._queries: list[tuple[bytes, Vector, int, asyncio.Future[list[Match]]]] = []
        self._searches: set[asyncio.Task[None]] = set()
        self._one_looks = asyncio.Lock()

    def start(self) -> None:
        """Begin to follow what all hosts learn."""
        self._judge.start()

    async def look_up(self, look_up: LookUp) -> Found:
        """Return what is stored near a text; within a budget, what of it may be served.

        Raises:
            Busy: Too much waits to be encoded.
            IndexUnavailable: The index cannot be asked now.
        """
        self._look_ups += 1
        self._none_runs.clear()
        outcome: LookUpOutcome | None = "failed"  # but for what is said below
        try:
            vector = await self._batcher.encode(look_up.text)
            if isinstance(vector, Refused):
                outcome = "refused"
                return Found((), self._fingerprint, vector.value, b"")
            matches = await self._search(look_up.partition, vector, look_up.k)
            outcome = "found" if matches else "nothing"
            near = tuple([Neighbour(match.key, match.score) for match in matches[: look_up.k]])
            decided = None
            if look_up.budgeted is not None:
                decision, is_check = await self._judge.judge(
                    look_up.budgeted, look_up.text, matches
                )
                near = tuple([Neighbour(key, score) for key, score in decision.witnesses])
                decided = Decided(decision.verdict, decision.probability, is_check, decision.guard)
            return Found(near, self._fingerprint, None, _to_bytes(vector), decided)
        except Busy:
            outcome = "busy"
            raise
        except asyncio.CancelledError:
            outcome = None  # who has left is not counted
            raise
        finally:
            if outcome is not None:
                self._observer.looked_up(outcome)
            self._look_ups -= 1
            if not self._look_ups:
                self._none_runs.set()

    async def refresh(self, keys: Sequence[bytes]) -> None:
        """Look at the records of `keys` now, and do as they say.

        A record that has no vector of this encoder yet gets one: its text is encoded when nobody
        waits for the encoder.

        Raises:
            SourceUnavailable, IndexUnavailable, Busy: Not all was done; doing it again is harmless.
        """
        keys = list(dict.fromkeys(keys))
        missing = await self._look_at(keys, {})
        if missing:
            encoded = await self._encode(missing)
            # Encoding took its time: look again whether there still is what the vectors belong to.
            await self._look_at([record.key for record in missing], encoded)
        self._judge.changed(keys)

    async def explain(self, look_up: LookUp) -> dict[str, Any]:
        """Return, as JSON, what would be decided of a look-up within a budget, and why.

        Raises:
            Busy, IndexUnavailable, SourceUnavailable: It cannot be told now.
            WireError: It has no budget.
        """
        if look_up.budgeted is None:
            raise WireError("not a look-up within a budget")
        vector = await self._batcher.encode(look_up.text)
        if isinstance(vector, Refused):
            return {"verdict": "refused", "refused": vector.value, "neighbours": []}
        matches = await self._search(look_up.partition, vector, look_up.k)
        return await self._judge.explain(look_up.budgeted, look_up.text, matches)

    async def told(self, feedback: Feedback) -> bool:
        """Take up what somebody says of an answer; return whether that was of use.

        Raises:
            SourceUnavailable: It may not have been taken up.
        """
        return await self._judge.told(feedback.key, feedback.served, feedback.is_good)

    async def forget(self, keys: Sequence[bytes]) -> None:
        """Let go of those among `keys` whose entry is gone: others found it so.

        Raises:
            SourceUnavailable, IndexUnavailable, Busy: as `refresh`.
        """
        await self._source.forget_gone(keys)
        await self.refresh(keys)

    async def stats(self) -> dict[str, Any]:
        """Return how much is held."""
        held = await self._index.stats()
        return {
            "fingerprint": self._fingerprint,
            "dimension": self._dimension,
            "vectors": held.vectors,
            "partitions": held.partitions,
            "bytes": held.bytes,
            "routes": self._judge.states(),
        }

    async def close(self) -> None:
        """Answer the look-ups that have begun, within a moment, and let go of everything."""
        try:
            async with asyncio.timeout(_LAST_LOOK_UPS_S):
                await self._none_runs.wait()
        except TimeoutError:
            pass
        for search in self._searches:
            search.cancel()
        await self._judge.stop()
        await self._batcher.close()
        await self._index.close()

    # Texts that were encoded together go on in the same turn: they are searched for together.

    def _search(self, partition: bytes, vector: Vector, k: int) -> asyncio.Future[list[Match]]:
        loop = asyncio.get_running_loop()
        if not self._queries:
            loop.call_soon(self._search_gathered)
        found: asyncio.Future[list[Match]] = loop.create_future()
        self._queries.append((partition, vector, k, found))
        return found

    def _search_gathered(self) -> None:
        queries = [query for query in self._queries if not query[3].done()]  # done: it has left
        self._queries = []
        if not queries:
            return
        search = asyncio.get_running_loop().create_task(self._search_all(queries))
        self._searches.add(search)
        search.add_done_callback(self._searches.discard)

    async def _search_all(
        self, queries: list[tuple[bytes, Vector, int, asyncio.Future[list[Match]]]]
    ) -> None:
        began = time.perf_counter()
        try:
            results = await self._index.search(
                [(partition, vector) for partition, vector, _, _ in queries],
                max(k for _, _, k, _ in queries),
                self._clock(),
            )
        except BaseException as error:
            # Whatever it is belongs to those who wait; nobody awaits this task.
            for *_, found in queries:
                if not found.done():
                    if isinstance(error, Exception):
                        found.set_exception(error)
                    else:
                        found.cancel()
            return
        self._observer.searched(len(queries), time.perf_counter() - began)
        for (*_, found), matches in zip(queries, results, strict=True):
            if not found.done():
                found.set_result(matches)

    async def _look_at(
        self, keys: list[bytes], encoded: dict[bytes, Vector | Refused]
    ) -> list[Record]:
        """Bring the index in step with the records of `keys`.

        Args:
            keys: Each once.
            encoded: What was encoded of texts whose record had no vector.

        Returns:
            The records that have a vector neither of their own nor in `encoded`.
        """
        # One at a time from the reading to the writing: what was read first must not be written
        # last, or a vector that has been removed comes back.
        async with self._one_looks:
            records = await self._source.read(keys)
            now = self._clock()
            here: list[IndexedVector] = []
            gone: list[bytes] = []
            missing: list[Record] = []
            for key, record in zip(keys, records, strict=True):
                if record is None or record.expires_at <= now:
                    gone.append(key)
                    continue
                vector = self._vector_of(record, encoded.get(key))
                if isinstance(vector, Refused):
                    gone.append(key)
                elif vector is not None:
                    here.append(IndexedVector(key, record.partition, vector, record.expires_at))
                elif record.text:
                    missing.append(record)
                else:
                    # A bad vector under a good checksum: its text was not read, as it had one.
                    gone.append(key)
            if here:
                await self._index.add(here)
            if gone:
                await self._index.remove(gone)
        return missing

    def _vector_of(
        self, record: Record, encoded: Vector | Refused | None
    ) -> Vector | Refused | None:
        """Return a record's vector if it can be one, else what was encoded of its text."""
        if len(record.vector) == 4 * self._dimension:
            vector = np.frombuffer(record.vector, dtype="<f4").astype(np.float32, copy=False)
            with np.errstate(all="ignore"):
                square = float(vector @ vector)
            if abs(square - 1) <= 2 * _NORM_TOLERANCE:  # false for what is not finite
                return vector
        return encoded

    async def _encode(self, records: list[Record]) -> dict[bytes, Vector | Refused]:
        """Encode the texts of `records`, and write their vectors into them."""
        vectors = await self._batcher.encode_in_background([record.text for record in records])
        pairs = list(zip(records, vectors, strict=True))
        await asyncio.gather(
            *(
                self._source.keep_vector(record, _to_bytes(vector))
                for record, vector in pairs
                if not isinstance(vector, Refused)
            )
        )
        return {record.key: vector for record, vector in pairs}


def _to_bytes(vector: Vector) -> bytes:
    return vector.astype("<f4", copy=False).tobytes()
