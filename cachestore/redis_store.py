"""Stored responses in Redis: the tier all workers and hosts share.

Nothing read is trusted: a value that is not what was stored under its key is
counted, deleted and taken for nothing. Redis' own expiry ends each entry at the
end of its keep time.
"""

import time
from collections.abc import Callable, Sequence
from hashlib import sha1

from cachestore.entry import StoredResponse, decode, encode
from cachestore.errors import CorruptEntry, OtherKey, StoreRefused
from cachestore.leases import RELEASE, Held, Lease, lease_key
from cachestore.redis_link import RedisLink
from cachestore.redis_script import RedisScript

# Longer would overflow Redis' clock; no entry is kept for a century.
_LIFE_MAX_MS = 100 * 365 * 86_400 * 1000

# pcall, so that the lease is given back also when the SET is refused (out of
# memory): followers need not wait for an answer that will not come.
_PUT_UNDER_LEASE = b"""
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
local reply = redis.pcall('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[2])
if reply.err then return reply end
return 1
"""
# One trip instead of two on every miss. The entry is a string, our lease the number 1, and
# somebody else's lease a list of one.
_GET_OR_LEASE = b"""
local entry = redis.call('GET', KEYS[1])
if entry then return entry end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return {redis.call('GET', KEYS[2])}
"""
# Only what was looked at: a sound entry may have been stored since.
_DELETE_IF_SAME = b"""
if redis.call('TYPE', KEYS[1]).ok == 'string'
    and redis.sha1hex(redis.call('GET', KEYS[1])) ~= ARGV[1] then return 0 end
return redis.call('UNLINK', KEYS[1])
"""


def entry_prefix(namespace: str) -> bytes:
    """Return what the names of all entries begin with, for invalidation."""
    return f"{namespace}:e:".encode()


def entry_keys(namespace: str, names: Sequence[bytes]) -> list[bytes]:
    """Return the keys of the entries among Redis' `names`; what others put there has none."""
    prefix = entry_prefix(namespace)
    keys = []
    for name in names:
        try:
            keys.append(bytes.fromhex(name.removeprefix(prefix).decode("ascii")))
        except ValueError:
            continue
    return keys


class RedisStore:
    """The `Store` interface over a Redis link."""

    def __init__(
        self,
        link: RedisLink,
        namespace: str,
        compress_above_bytes: int,
        max_entry_bytes: int,
        *,
        clock: Callable[[], float] = time.time,
        on_corrupt: Callable[[], None] | None = None,
    ) -> None:
        """Store through `link`, which the caller starts and closes.

        Args:
            link: Its faults come through as they are.
            namespace: What Recollect's keys in this Redis begin with.
            compress_above_bytes: Entries with more are compressed.
            max_entry_bytes: Larger entries are neither stored nor read.
            clock: Unix seconds.
            on_corrupt: Told of each value that was not what was stored.
        """
        self._link = link
        self._namespace = namespace
        self._prefix = entry_prefix(namespace)
        self._compress_above_bytes = compress_above_bytes
        self._max_entry_bytes = max_entry_bytes
        self._clock = clock
        self._on_corrupt = on_corrupt
        self._put_under_lease = RedisScript(link, _PUT_UNDER_LEASE)
        self._get_or_lease = RedisScript(link, _GET_OR_LEASE)
        self._release = RedisScript(link, RELEASE)
        self._delete_if_same = RedisScript(link, _DELETE_IF_SAME)

    async def get(self, key: bytes) -> StoredResponse | None:
        """Return what was stored under `key`, fresh or not.

        Raises:
            StoreUnavailable: not reached within the link's deadline.
            StoreRefused: Redis answered with an error.
        """
        try:
            raw = await self._link.execute(b"GET", self._name(key))
        except StoreRefused as error:
            if error.code != "WRONGTYPE":
                raise
            await self._drop_corrupt(key, b"")
            return None
        return await self._read(key, raw)

    async def get_or_lease(self, draft: Lease) -> StoredResponse | Lease | Held | None:
        """Return what is stored; else take the lease to fetch it; else say who has that.

        Args:
            draft: From `Leases.draft`, for the key that is looked up.

        Returns:
            The stored response, fresh or not; `draft`, which is now in force; or who holds the
            lease. None where what lay under the key was none of ours.

        Raises:
            StoreUnavailable: not reached; the lease may have been taken, and ends by itself.
            StoreRefused: Redis answered with an error.
        """
        names = (self._name(draft.key), lease_key(self._namespace, draft.key))
        try:
            reply = await self._get_or_lease.reply(names, (draft.token, draft.ttl_ms))
        except StoreRefused as error:
            if error.code != "WRONGTYPE":
                raise
            await self._drop_corrupt(draft.key, b"")
            return None
        if reply == 1:
            return draft
        if isinstance(reply, list) and len(reply) == 1 and isinstance(reply[0], bytes):
            return Held(Lease(draft.key, reply[0], draft.ttl_s))
        return await self._read(draft.key, reply)

    async def get_many(self, keys: Sequence[bytes]) -> list[StoredResponse | None]:
        """Return what was stored under each of `keys`, in their order.

        Raises:
            StoreUnavailable: not reached within the link's deadline.
            StoreRefused: Redis answered with an error.
        """
        if not keys:
            return []
        # One MGET, not many GETs: its one reply is what an invalidation comes
        # before or after. Between many replies it could come in the middle, and
        # values read before it would be put into memory after it.
        values = await self._link.execute(b"MGET", *map(self._name, keys))
        if not isinstance(values, list) or len(values) != len(keys):
            raise self._link.distrust(values)
        return [await self._read(key, raw) for key, raw in zip(keys, values, strict=True)]

    async def put(self, entry: StoredResponse, lease: Lease | None = None) -> bool:
        """Store `entry`; under a lease only while that is held.

        The lease is given back in the same step, stored or not.

        Returns:
            Whether it was stored. It is not when the lease is lost, the entry
            too large, or its keep time over.

        Raises:
            StoreUnavailable: not reached; the entry may or may not be stored.
            StoreRefused: Redis answered with an error.
        """
        life_s = entry.remaining_s(self._clock()) + entry.keep_s
        life_ms = min(int(min(life_s, _LIFE_MAX_MS) * 1000), _LIFE_MAX_MS)
        is_too_large = len(entry.head) + len(entry.body) > self._max_entry_bytes
        if life_ms < 1 or is_too_large:
            if lease is not None:
                await self._release.run((lease_key(self._namespace, lease.key),), (lease.token,))
            return False
        raw = encode(entry, self._compress_above_bytes)
        name = self._name(entry.key)
        if lease is None:
            reply = await self._link.execute(b"SET", name, raw, b"PX", life_ms)
            if reply != b"OK":
                raise self._link.distrust(reply)
            return True
        names = (name, lease_key(self._namespace, lease.key))
        return await self._put_under_lease.run(names, (lease.token, raw, life_ms)) == 1

    async def delete(self, key: bytes) -> bool:
        """Forget what is stored under `key`; say whether there was anything.

        Raises:
            StoreUnavailable: not reached; it may or may not be forgotten.
            StoreRefused: Redis answered with an error.
        """
        reply = await self._link.execute(b"UNLINK", self._name(key))
        if not isinstance(reply, int):
            raise self._link.distrust(reply)
        return reply > 0

    def _name(self, key: bytes) -> bytes:
        return self._prefix + key.hex().encode()

    async def _read(self, key: bytes, raw: object) -> StoredResponse | None:
        """Return the entry in one reply; delete what is none."""
        if raw is None:
            return None
        if not isinstance(raw, bytes):
            raise self._link.distrust(raw)
        try:
            entry = decode(raw, key, self._max_entry_bytes)
        except CorruptEntry as error:
            if isinstance(error, OtherKey):
                # Copied by someone, or another command's reply? In the second
                # case nothing is wrong with what lies under this key.
                await self._link.probe()
            await self._drop_corrupt(key, raw)
            return None
        return entry if entry.is_kept(self._clock()) else None

    async def _drop_corrupt(self, key: bytes, raw: bytes) -> None:
        if self._on_corrupt is not None:
            self._on_corrupt()
        seen = sha1(raw, usedforsecurity=False).hexdigest().encode()
        await self._delete_if_same.run((self._name(key),), (seen,))
