"""Vector records in Redis, as those see them who keep an index of them.

A record is written with its entry (`RedisStore.put`) and ends with it. An entry may also end
before its time, evicted or corrupt; whoever notices has the record removed (`forget_gone`).
"""

import asyncio
from collections.abc import Callable, Sequence

from cachestore.change_log import MOST_MESSAGES, TELL, log_name
from cachestore.errors import CorruptEntry, OtherKey, StoreRefused
from cachestore.redis_link import RedisLink
from cachestore.redis_script import RedisScript
from cachestore.redis_store import entry_prefix, keys_among, record_prefix
from cachestore.vector_record import (
    ANSWER_FIELD,
    GROUP_FIELD,
    GROUP_OFFSET,
    META_FIELD,
    TEXT_FIELD,
    VectorRecord,
    Witness,
    decode_record,
    decode_witness,
    encode_group,
    encode_vector,
)

_KEEP_VECTOR = b"""
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
"""
# Only into the record that was looked at: it may have been given another answer since. Where an
# answer's own group lies in its field is said in vector_record.
_KEEP_GROUP = (
    TELL
    + b"""
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return 0 end
local answer = redis.call('HGET', KEYS[1], ARGV[5])
if not answer or string.sub(answer, ARGV[6], ARGV[6] + #ARGV[7] - 1) ~= ARGV[7] then return 0 end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
local told = tell(KEYS[2], ARGV[2], 'k', ARGV[1])
if type(told) == 'table' then return told end
return 1
"""
)
# Told also where the record is gone already: who asks has come upon a vector of it.
_FORGET_GONE = (
    TELL
    + b"""
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('UNLINK', KEYS[2])
local told = tell(KEYS[3], ARGV[2], 'k', ARGV[1])
if type(told) == 'table' then return told end
return 1
"""
)
# Only what was looked at: a sound record may have been written since.
_DELETE_IF_SAME = (
    TELL
    + b"""
if redis.call('TYPE', KEYS[1]).ok == 'hash'
    and redis.call('HGET', KEYS[1], ARGV[3]) ~= ARGV[4] then return 0 end
redis.call('UNLINK', KEYS[1])
local told = tell(KEYS[2], ARGV[2], 'k', ARGV[1])
if type(told) == 'table' then return told end
return 1
"""
)
_GLOB_SIGNS = {ord(sign): "\\" + sign for sign in "\\*?[]^-"}


class VectorRecords:
    """The vector records of one Redis.

    All methods raise StoreUnavailable and StoreRefused like `RedisLink.execute`.
    """

    def __init__(
        self, link: RedisLink, namespace: str, *, on_corrupt: Callable[[], None] | None = None
    ) -> None:
        """Read and write through `link`.

        Args:
            link: Not this one's to start and close.
            namespace: What Recollect's keys in this Redis begin with.
            on_corrupt: Told of each record that was not what was stored.
        """
        self._link = link
        self._entry_prefix = entry_prefix(namespace)
        self._prefix = record_prefix(namespace)
        self._pattern = namespace.translate(_GLOB_SIGNS).encode() + b":v:*"
        self._log_name = log_name(namespace)
        self._on_corrupt = on_corrupt
        self._keep_vector = RedisScript(link, _KEEP_VECTOR)
        self._keep_group = RedisScript(link, _KEEP_GROUP)
        self._forget_gone = RedisScript(link, _FORGET_GONE)
        self._delete_if_same = RedisScript(link, _DELETE_IF_SAME)

    async def read(self, keys: Sequence[bytes], fingerprint: str) -> list[VectorRecord | None]:
        """Return the records of `keys`, in their order; None for what is gone or was corrupt.

        Each with its vector of the encoder with `fingerprint`; where it has none, with its text.
        """
        records = await self._read(keys, fingerprint.encode())
        vectorless = [at for at, record in enumerate(records) if record and not record.vector]
        texts = await self._read([keys[at] for at in vectorless], TEXT_FIELD)
        for at, record in zip(vectorless, texts, strict=True):
            records[at] = record
        return records

    async def keep_vector(
        self, key: bytes, partition: bytes, fingerprint: str, vector: bytes
    ) -> bool:
        """Write the vector that an encoder has made of a record's text into that record.

        Returns:
            Whether the record was still there.
        """
        field = encode_vector(key, partition, fingerprint, vector)
        return await self._keep_vector.run((self._name(key),), tuple(field)) == 1

    async def witnesses(self, keys: Sequence[bytes], fingerprint: str) -> list[Witness | None]:
        """Return the whole records of `keys`, in their order; None for what is not whole."""
        wanted = (META_FIELD, TEXT_FIELD, ANSWER_FIELD, GROUP_FIELD, fingerprint.encode())
        replies = [self._link.execute(b"HMGET", self._name(key), *wanted) for key in keys]
        witnesses: list[Witness | None] = []
        for key, reply in zip(keys, replies, strict=True):
            try:
                fields = await reply
                if not isinstance(fields, list) or len(fields) != len(wanted):
                    raise self._link.distrust(fields)
                witnesses.append(decode_witness(key, fingerprint, fields))
            except StoreRefused as error:
                if error.code != "WRONGTYPE":
                    raise
                witnesses.append(None)
            except CorruptEntry:
                # The index finds it so, too, and deletes it.
                witnesses.append(None)
        return witnesses

    async def keep_group(self, key: bytes, partition: bytes, own: bytes, group: bytes) -> bool:
        """Write into a record which group its answer belongs to, and tell the change log.

        Args:
            key: The record's.
            partition: The record's.
            own: The group of the answer's own words, 16 bytes.
            group: The group it was found to belong to, 16 bytes.

        Returns:
            Whether it was written: the record was still there, with that answer.
        """
        names = (self._name(key), self._log_name)
        args: tuple[bytes | int, ...] = (key, MOST_MESSAGES)
        args += (*encode_group(key, partition, group), ANSWER_FIELD, GROUP_OFFSET + 1, own)
        return await self._keep_group.run(names, args) == 1

    async def forget_gone(self, keys: Sequence[bytes]) -> None:
        """Remove the records among `keys` whose entry is gone, and tell the change log."""
        await asyncio.gather(*map(self._forget_if_gone, keys))

    async def scan(self, cursor: int, count: int = 1000) -> tuple[int, list[bytes]]:
        """Return the next cursor and the keys of some records.

        Each record that is there from the first call to the last is returned at least once.

        Args:
            cursor: 0, then what was returned last; 0 again: that was all.
            count: How many names Redis looks at, whatever they are.
        """
        scan = (b"SCAN", cursor, b"MATCH", self._pattern, b"COUNT", count)
        reply = await self._link.execute(*scan)
        match reply:
            case [bytes(following), list(names)] if following.isdigit():
                return int(following), keys_among(names, self._prefix)
        raise self._link.distrust(reply)

    def _name(self, key: bytes) -> bytes:
        return self._prefix + key.hex().encode()

    async def _forget_if_gone(self, key: bytes) -> None:
        names = (self._entry_prefix + key.hex().encode(), self._name(key), self._log_name)
        await self._forget_gone.run(names, (key, MOST_MESSAGES))

    async def _read(self, keys: Sequence[bytes], field: bytes) -> list[VectorRecord | None]:
        """Return records with one field, either an encoder's vector or the text."""
        # Both fields in one command: what is read of a record belongs together.
        replies = [self._link.execute(b"HMGET", self._name(k), META_FIELD, field) for k in keys]
        records: list[VectorRecord | None] = []
        for key, reply in zip(keys, replies, strict=True):
            try:
                fields = await reply
            except StoreRefused as error:
                if error.code != "WRONGTYPE":
                    raise
                await self._drop_corrupt(key, b"")
                records.append(None)
            else:
                records.append(await self._decoded(key, field, fields))
        return records

    async def _decoded(self, key: bytes, field: bytes, fields: object) -> VectorRecord | None:
        match fields:
            case [None, _]:
                return None
            case [bytes(meta), bytes() | None as content]:
                pass
            case _:
                raise self._link.distrust(fields)
        try:
            return decode_record(key, meta, field, content)
        except CorruptEntry as error:
            if isinstance(error, OtherKey):
                # Copied by someone, or another command's reply? See RedisStore.
                await self._link.probe()
            await self._drop_corrupt(key, meta)
            return None

    async def _drop_corrupt(self, key: bytes, meta: bytes) -> None:
        if self._on_corrupt is not None:
            self._on_corrupt()
        args = (key, MOST_MESSAGES, META_FIELD, meta)
        await self._delete_if_same.run((self._name(key), self._log_name), args)
