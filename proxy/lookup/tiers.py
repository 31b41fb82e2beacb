"""The exact tier: this worker's memory, then Redis.

A question that was answered by the answer to another has an *alias* here: its own key, and behind
it the key of the response that answers both. An alias lives as long as that response.

A fault of a store is a miss. It is caught, counted and logged here, and nowhere else.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final, Protocol

from cachetools import LRUCache

from cachestore.entry import StoredResponse
from cachestore.errors import StoreError, StoreRefused
from cachestore.leases import Held, Lease, Leases
from cachestore.memory_store import MemoryStore
from cachestore.redis_store import RedisStore
from cachestore.vector_record import Meaning
from proxy.lookup.answers import StoredAnswer, read_stored
from proxy.wire.endpoint import Form

_MOST_ALIASES: Final = 100_000
"""Two keys each: some 20 MB at the most."""

_log = logging.getLogger("recollect.tiers")


class TierObserver(Protocol):
    """Where look-ups and faults are counted."""

    def looked_up(self, tier: str, seconds: float) -> None:
        """A look-up in `tier` took `seconds`."""

    def store_failed(self, operation: str, error: StoreError) -> None:
        """A store did not do what it should."""

    def memory_holds(self, held_bytes: int, entries: int) -> None:
        """What memory holds has changed."""

    def evicted(self, cause: str) -> None:
        """An entry had to leave memory."""


class Tiers:
    """Look up and store answers.

    Args:
        memory: This worker's memory.
        redis: The truth, shared by all workers and hosts.
        leases: Drafts the leases taken together with a look-up.
        observer: Counts what happens.
    """

    def __init__(
        self,
        memory: MemoryStore[StoredAnswer],
        redis: RedisStore,
        leases: Leases,
        observer: TierObserver,
    ) -> None:
        self._memory = memory
        self._redis = redis
        self._leases = leases
        self._observer = observer
        self._aliases: LRUCache[bytes, bytes] = LRUCache(_MOST_ALIASES)
        self._told: set[tuple[str, str]] = set()
        self._releasing: set[asyncio.Task[None]] = set()

    def peek(self, key: bytes) -> StoredAnswer | None:
        """Return what this worker's memory holds under `key`, or under what it is an alias of."""
        answer = self._memory.peek(key)
        if answer is None and (target := self._aliases.get(key)) is not None:
            answer = self._memory.peek(target)
        return answer

    async def fetch(self, key: bytes, *, follows_aliases: bool = False) -> StoredAnswer | None:
        """Return what Redis holds under `key`, and keep it in memory.

        Args:
            key: The exact key.
            follows_aliases: Whether it may be an alias.
        """
        began = time.perf_counter()
        try:
            stored = await self._redis.get(key, follows_aliases=follows_aliases)
        except StoreError as error:
            self._failed("get", error)
            return None
        self._observer.looked_up("redis", time.perf_counter() - began)
        if stored is None:
            return None
        # No await from here to keep(): an invalidation that follows the reply on the wire
        # must find the answer in memory, to drop it.
        return self._take_up(key, stored)

    async def fetch_or_lease(
        self, key: bytes, *, follows_aliases: bool = False
    ) -> StoredAnswer | Lease | Held | None:
        """Return what Redis holds under `key`; else take the lease on it, or say who has it.

        None where Redis cannot be asked: then there is nobody to agree with.
        """
        began = time.perf_counter()
        draft = self._leases.draft(key)
        try:
            found = await self._redis.get_or_lease(draft, follows_aliases=follows_aliases)
        except asyncio.CancelledError:
            # It is on its way, and may be granted to nobody.
            self.release_soon(draft)
            raise
        except StoreError as error:
            self._failed("get", error)
            return None
        self._observer.looked_up("redis", time.perf_counter() - began)
        if not isinstance(found, StoredResponse):
            return found
        # No await from here to keep(): see fetch().
        return self._take_up(key, found)

    def _take_up(self, key: bytes, stored: StoredResponse) -> StoredAnswer | None:
        """Keep in memory what Redis held under `key`."""
        try:
            answer = read_stored(stored)
        except ValueError:
            return None
        self.keep(answer)
        if answer.key != key:
            self._aliases[key] = answer.key
        return answer

    async def lease(self, key: bytes) -> Lease | Held | None:
        """Take the lease on `key`, or say who has it; None where Redis cannot be asked."""
        draft = self._leases.draft(key)
        try:
            return await self._leases.acquire(draft) or await self._leases.held(key)
        except asyncio.CancelledError:
            self.release_soon(draft)
            raise
        except StoreError as error:
            self._failed("lease", error)
            return None

    async def fetch_many(self, keys: Sequence[bytes]) -> dict[bytes, StoredAnswer | None]:
        """Return what memory or, in one trip for all the others, Redis holds under `keys`.

        Aliases are not followed.

        Returns:
            None for a key under which nothing is stored. A key that is missing could not be asked
            for: whether there is something is unknown.
        """
        found: dict[bytes, StoredAnswer | None] = {}
        for key in keys:
            if (held := self._memory.peek(key)) is not None:
                found[key] = held
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        if not missing:
            return found
        began = time.perf_counter()
        try:
            stored = await self._redis.get_many(missing)
        except StoreError as error:
            self._failed("get", error)
            return found
        self._observer.looked_up("redis", time.perf_counter() - began)
        for key, entry in zip(missing, stored, strict=True):
            found[key] = None if entry is None else self._take_up(key, entry)
        return found

    def _failed(self, operation: str, error: StoreError) -> None:
        """Count a fault; log it once until Redis does as it is told again."""
        self._observer.store_failed(operation, error)
        told = operation, str(error)
        # That Redis cannot be reached is logged where the link goes down.
        if isinstance(error, StoreRefused) and told not in self._told:
            self._told.add(told)
            _log.warning("Redis refused to %s: %s", *told)

    async def store(
        self, answer: StoredAnswer, lease: Lease | None, meaning: Meaning | None = None
    ) -> bool:
        """Store `answer` everywhere; under a lease only while that lease is still ours.

        Args:
            answer: What to store.
            lease: Given back in the same step.
            meaning: What was asked, for questions in other words to find it.

        Returns:
            False where the lease had passed to another: then nothing was stored. A Redis that
            cannot be reached leaves the answer in memory and counts as stored.
        """
        try:
            stored = await self._redis.put(answer.stored_response(), lease, meaning)
        except StoreError as error:
            self._failed("put", error)
        else:
            self._told.clear()
            if not stored:
                self._memory.drop(answer.key)
                return False
        return True

    async def alias(self, key: bytes, answer: StoredAnswer, lease: Lease | None) -> None:
        """Let `answer`, stored under a key of its own, be found under `key` as well.

        Args:
            key: The exact key of the same question in other words.
            answer: The stored response.
            lease: On `key`; given back in the same step.
        """
        self._aliases[key] = answer.key
        try:
            await self._redis.put_alias(key, answer.key, lease)
        except StoreError as error:
            self._failed("put", error)

    def release_soon(self, lease: Lease) -> None:
        """Give a lease back, without waiting for it."""
        task = asyncio.get_running_loop().create_task(self.release(lease))
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    async def release(self, lease: Lease) -> None:
        """Give a lease back; or take it away from another, if it is another's."""
        try:
            await self._leases.release(lease)
        except StoreError as error:
            self._failed("lease", error)

    def keep(self, answer: StoredAnswer) -> None:
        """Keep `answer` in this worker's memory."""
        # It has an answer of its own from now on.
        self._aliases.pop(answer.key, None)
        self._memory.keep(answer.key, answer)
        self._observer.memory_holds(self._memory.bytes, self._memory.entries)

    def invalidate(self, keys: Sequence[bytes] | None) -> None:
        """Drop from memory what another has changed; None: anything may have changed."""
        if keys is None:
            self._memory.clear()
            self._aliases.clear()
        else:
            for key in keys:
                # Told of an alias, too: it may have gone, or lead elsewhere.
                self._aliases.pop(key, None)
                if self._memory.drop(key):
                    self._observer.evicted("invalidated")
        self._observer.memory_holds(self._memory.bytes, self._memory.entries)

    def template(self, answer: StoredAnswer, form: Form, include_usage: bool) -> bytes | None:
        """Return `answer` ready to send, remembering the form for the next time."""
        template, has_grown = answer.template(form, include_usage)
        if has_grown and self._memory.peek(answer.key) is answer:
            self.keep(answer)
        return template
