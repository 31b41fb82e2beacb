"""Redis as an embedding process sees it: vector records, the log of changes and that of samples."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from cachestore.change_log import ChangeLog
from cachestore.errors import StoreError, StoreRefused
from cachestore.sample_log import SampleLog
from cachestore.vector_records import VectorRecords
from embeddings.service.source import Changes, Learned, Record, SourceUnavailable, Witness

_log = logging.getLogger("recollect.embeddings")


class RedisSource:
    """The `Source` of one encoder."""

    def __init__(
        self, log: ChangeLog, records: VectorRecords, samples: SampleLog, fingerprint: str
    ) -> None:
        """See `log`, `records` and `samples` as the encoder with `fingerprint` does."""
        self._log = log
        self._records = records
        self._samples = samples
        self._fingerprint = fingerprint
        # What one encoder's scores mean says nothing of another's.
        self._prefix = fingerprint + "/"

    async def mark(self) -> str:
        """Write a message that means nothing into the log and return its position."""
        async with _mapped():
            return await self._log.mark()

    async def changes(self, after: str, most: int) -> Changes | None:
        """Return at most `most` messages behind `after`; None where that place is gone."""
        async with _mapped():
            changes = await self._log.read(after, most)
        if changes is None:
            return None
        return Changes(list(changes.keys), changes.position, changes.oldest_at)

    async def read(self, keys: Sequence[bytes]) -> list[Record | None]:
        """Return the records of `keys`, in their order."""
        async with _mapped():
            records = await self._records.read(keys, self._fingerprint)
        return [
            None
            if record is None
            else Record(record.key, record.partition, record.expires_at, record.vector, record.text)
            for record in records
        ]

    async def keep_vector(self, record: Record, vector: bytes) -> None:
        """Write into `record`, if it is still there, the vector its text has.

        A Redis that is full, or lets us read only, refuses: then the text is encoded again when
        the index is next filled, and that is all.
        """
        async with _mapped():
            try:
                await self._records.keep_vector(
                    record.key, record.partition, self._fingerprint, vector
                )
            except StoreRefused as error:
                _log.warning("Redis refused to keep a vector: %s", error.code)

    async def forget_gone(self, keys: Sequence[bytes]) -> None:
        """Remove the records among `keys` whose entry is gone, and tell the log."""
        async with _mapped():
            await self._records.forget_gone(keys)

    async def scan(self, cursor: int) -> tuple[int, list[bytes]]:
        """Return the next cursor (0: that was all) and the keys of some records."""
        async with _mapped():
            return await self._records.scan(cursor)

    async def witnesses(self, keys: Sequence[bytes]) -> list[Witness | None]:
        """Return what is known of `keys`, in their order."""
        async with _mapped():
            found = await self._records.witnesses(keys, self._fingerprint)
        return [
            None
            if one is None
            else Witness(
                key=one.key,
                partition=one.partition,
                expires_at=one.expires_at,
                text=one.text,
                vector=one.vector,
                group=one.group,
                words=one.answer.group,
                stored_at=one.answer.stored_at,
                answer=one.answer.text,
            )
            for one in found
        ]

    async def keep_group(self, witness: Witness, group: bytes) -> None:
        """Write into a record which group its answer belongs to, and tell the log."""
        async with _mapped():
            await self._records.keep_group(witness.key, witness.partition, witness.words, group)

    async def learn(self, route: str, sample: bytes) -> None:
        """Write a sample into the log of samples."""
        async with _mapped():
            await self._samples.add(self._prefix + route, sample)

    async def forbid(self, pair: bytes) -> None:
        """Write down, for good, a question's key and the group that must not answer it."""
        async with _mapped():
            await self._samples.forbid(pair)

    async def forbidden(self) -> frozenset[bytes]:
        """Return all pairs that were ever forbidden."""
        async with _mapped():
            return await self._samples.forbidden()

    async def learned(self, after: str, most: int) -> Learned:
        """Return at most `most` messages of the log of samples behind `after`."""
        async with _mapped():
            samples, forbidden, position = await self._samples.read(after, most)
        own = [
            (route.removeprefix(self._prefix), sample)
            for route, sample in samples
            if route.startswith(self._prefix)
        ]
        return Learned(own, forbidden, position, len(samples) + len(forbidden))


@asynccontextmanager
async def _mapped() -> AsyncIterator[None]:
    try:
        yield
    except StoreError as error:
        raise SourceUnavailable(str(error)) from error
