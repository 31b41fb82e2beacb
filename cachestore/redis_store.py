"""Stored responses in Redis: the tier all workers and hosts share.

Beside an entry may lie its *vector record*, which says what it was the answer to: written with it
in one step, which also tells the change log. And the key of a question may be an *alias*, which
says which entry answers it: the answer to the same question in other words.

Nothing read is trusted: a value that is not what was stored under its key is
counted, deleted and taken for nothing. Redis' own expiry ends each entry at the
end of its keep time.
"""

import time
from collections.abc import Callable, Sequence
from hashlib import sha1

from cachestore import store_scripts
from cachestore.alias import decode_alias, encode_alias
from cachestore.change_log import MOST_MESSAGES, log_name
from cachestore.entry import KEY_BYTES, StoredResponse, decode, encode
from cachestore.errors import CorruptEntry, OtherKey, StoreRefused
from cachestore.leases import RELEASE, Held, Lease, lease_key
from cachestore.redis_link import RedisLink
from cachestore.redis_script import RedisScript
from cachestore.vector_record import Meaning, encode_record

# Longer would overflow Redis' clock; no entry is kept for a century.
_LIFE_MAX_MS = 100 * 365 * 86_400 * 1000


def entry_prefix(namespace: str) -> bytes:
    """Return what the names of all entries begin with, for invalidation."""
    return f"{namespace}:e:".encode()


def alias_prefix(namespace: str) -> bytes:
    """Return what the names of all aliases begin with, for invalidation."""
    return f"{namespace}:a:".encode()


def record_prefix(namespace: str) -> bytes:
    """Return what the names of all vector records begin with."""
    return f"{namespace}:v:".encode()


def keys_among(names: Sequence[bytes], prefix: bytes) -> list[bytes]:
    """Return the keys in those of Redis' `names` that are `prefix` and a key; others have none."""
    keys = []
    for name in names:
        try:
            key = bytes.fromhex(name.removeprefix(prefix).decode("ascii"))
        except ValueError:
            continue
        if len(key) == KEY_BYTES and name == prefix + key.hex().encode():
            keys.append(key)
    return keys


def entry_keys(namespace: str, names: Sequence[bytes]) -> list[bytes]:
    """Return the keys of the entries and of the aliases among Redis' `names`."""
    prefixes = (entry_prefix(namespace), alias_prefix(namespace))
    return [key for prefix in prefixes for key in keys_among(names, prefix)]


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
        self._alias_prefix = alias_prefix(namespace)
        self._record_prefix = record_prefix(namespace)
        self._log_name = log_name(namespace)
        self._compress_above_bytes = compress_above_bytes
        self._max_entry_bytes = max_entry_bytes
        self._clock = clock
        self._on_corrupt = on_corrupt
        self._put = RedisScript(link, store_scripts.PUT)
        self._put_alias = RedisScript(link, store_scripts.PUT_ALIAS)
        self._get = RedisScript(link, store_scripts.GET)
        self._get_or_lease = RedisScript(link, store_scripts.GET_OR_LEASE)
        self._delete = RedisScript(link, store_scripts.DELETE)
        self._delete_if_same = RedisScript(link, store_scripts.DELETE_IF_SAME)
        self._release = RedisScript(link, RELEASE)

    async def get(self, key: bytes, *, follows_aliases: bool = False) -> StoredResponse | None:
        """Return what was stored under `key`, fresh or not.

        Args:
            key: What is asked for.
            follows_aliases: Whether `key` may be an alias. What is returned then has another key,
                its own.

        Raises:
            StoreUnavailable: not reached within the link's deadline.
            StoreRefused: Redis answered with an error.
        """
        try:
            if follows_aliases:
                names = (self._name(key), self._alias(key))
                reply = await self._get.reply(names, (self._prefix,))
            else:
                reply = await self._link.execute(b"GET", self._name(key))
        except StoreRefused as error:
            if error.code != "WRONGTYPE":
                raise
            await self._drop_corrupt(self._name(key), b"")
            return None
        return await self._read_followed(key, reply)

    async def get_or_lease(
        self, draft: Lease, *, follows_aliases: bool = False
    ) -> StoredResponse | Lease | Held | None:
        """Return what is stored; else take the lease to fetch it; else say who has that.

        Args:
            draft: From `Leases.draft`, for the key that is looked up.
            follows_aliases: Whether that may be an alias. What is returned then has another key,
                its own.

        Returns:
            The stored response, fresh or not; `draft`, which is now in force; or who holds the
            lease. None where what lay under the key was none of ours.

        Raises:
            StoreUnavailable: not reached; the lease may have been taken, and ends by itself.
            StoreRefused: Redis answered with an error.
        """
        key = draft.key
        names: tuple[bytes, ...] = (self._name(key), lease_key(self._namespace, key))
        args: tuple[bytes | int, ...] = (draft.token, draft.ttl_ms)
        if follows_aliases:
            names, args = (*names, self._alias(key)), (*args, self._prefix)
        try:
            reply = await self._get_or_lease.reply(names, args)
        except StoreRefused as error:
            if error.code != "WRONGTYPE":
                raise
            await self._drop_corrupt(self._name(key), b"")
            return None
        if reply == 1:
            return draft
        if isinstance(reply, list) and len(reply) == 1 and isinstance(reply[0], bytes):
            return Held(Lease(key, reply[0], draft.ttl_s))
        return await self._read_followed(key, reply)

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

    async def put(
        self, entry: StoredResponse, lease: Lease | None = None, meaning: Meaning | None = None
    ) -> bool:
        """Store `entry`; under a lease only while that is held.

        The lease is given back in the same step, stored or not. An alias under its key goes, where
        it is stored.

        Args:
            entry: What to store.
            lease: On its key.
            meaning: What it is the answer to. A vector record is written with it, in place of
                one from before, to end with it; and the change log is told. Without, one from
                before stays as it is: the same key is the same question.

        Returns:
            Whether it was stored. It is not when the lease is lost, the entry
            too large, or its keep time over.

        Raises:
            StoreUnavailable: not reached; the entry may or may not be stored.
            StoreRefused: Redis answered with an error. The entry may be stored without its
                vector record, but never the record without the entry.
        """
        now = self._clock()
        life_s = entry.remaining_s(now) + entry.keep_s
        life_ms = min(int(min(life_s, _LIFE_MAX_MS) * 1000), _LIFE_MAX_MS)
        is_too_large = len(entry.head) + len(entry.body) > self._max_entry_bytes
        if life_ms < 1 or is_too_large:
            if lease is not None:
                await self._release.run((lease_key(self._namespace, lease.key),), (lease.token,))
            return False
        raw = encode(entry, self._compress_above_bytes)
        key = entry.key
        lease_name = lease_key(self._namespace, key)
        names: tuple[bytes, ...] = (self._name(key), self._alias(key), lease_name)
        args: tuple[bytes | int, ...] = (b"" if lease is None else lease.token, raw, life_ms)
        if meaning is not None:
            fields = encode_record(key, now + life_ms / 1000, meaning)
            names = (*names, self._record_prefix + key.hex().encode(), self._log_name)
            args = (*args, key, MOST_MESSAGES, *fields)
        return await self._put.run(names, args) == 1

    async def put_alias(self, key: bytes, target: bytes, lease: Lease | None = None) -> bool:
        """Let what is stored under `target` be found under `key` too, until its end.

        Args:
            key: What was asked for.
            target: The key of the stored response that answers it.
            lease: On `key`; given back in the same step, in any case.

        Returns:
            Whether it was done. It is not when nothing is stored under `target` any more, or the
            lease is lost.

        Raises:
            StoreUnavailable: not reached; it may or may not have been done.
            StoreRefused: Redis answered with an error.
        """
        names = (self._alias(key), lease_key(self._namespace, key), self._name(target))
        token = b"" if lease is None else lease.token
        return await self._put_alias.run(names, (token, encode_alias(key, target))) == 1

    async def delete(self, key: bytes) -> bool:
        """Forget what is stored under `key`; say whether there was anything.

        With it goes its vector record, of which the change log is told; or the alias.

        Raises:
            StoreUnavailable: not reached; it may or may not be forgotten.
            StoreRefused: Redis answered with an error.
        """
        record = self._record_prefix + key.hex().encode()
        names = (self._name(key), self._alias(key), record, self._log_name)
        return await self._delete.run(names, (key, MOST_MESSAGES)) > 0

    def _name(self, key: bytes) -> bytes:
        return self._prefix + key.hex().encode()

    def _alias(self, key: bytes) -> bytes:
        return self._alias_prefix + key.hex().encode()

    async def _read_followed(self, key: bytes, reply: object) -> StoredResponse | None:
        """Return the entry in a reply to a look-up of `key`, come by through an alias or not."""
        match reply:
            case [bytes(alias), bytes(raw)]:
                try:
                    target = decode_alias(alias, key)
                except CorruptEntry:
                    await self._drop_corrupt(self._alias(key), alias)
                    return None
                return await self._read(target, raw)
        return await self._read(key, reply)

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
            await self._drop_corrupt(self._name(key), raw)
            return None
        return entry if entry.is_kept(self._clock()) else None

    async def _drop_corrupt(self, name: bytes, raw: bytes) -> None:
        if self._on_corrupt is not None:
            self._on_corrupt()
        seen = sha1(raw, usedforsecurity=False).hexdigest().encode()
        await self._delete_if_same.run((name,), (seen,))
