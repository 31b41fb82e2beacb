"""Redis as an embedding process sees it: vector records and the log of their changes."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from cachestore.change_log import ChangeLog
from cachestore.errors import StoreError, StoreRefused
from cachestore.vector_records import VectorRecords
from embeddings.service.source import Changes, Record, SourceUnavailable

_log = logging.getLogger("recollect.embeddings")


class RedisSource:
    """The `Source` of one encoder."""

    def __init__(self, log: ChangeLog, records: VectorRecords, fingerprint: str) -> None:
        """See `log` and `records` as the encoder with `fingerprint` does."""
        self._log = log
        self._records = records
        self._fingerprint = fingerprint

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


@asynccontextmanager
async def _mapped() -> AsyncIterator[None]:
    try:
        yield
    except StoreError as error:
        raise SourceUnavailable(str(error)) from error
