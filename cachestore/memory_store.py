"""Values in this process' memory, bounded in bytes: the first tier.

Least recently used goes first. The synchronous half (`peek`, `keep`, `drop`) is
for the hot path, which keeps values ready to send; the asynchronous half is the
`Store` interface over stored responses.

Not shared between threads, and knows nothing of other processes' changes:
whoever learns of one calls `drop` or `clear`.
"""

import time
from collections.abc import Callable
from typing import Generic, Literal, Protocol, TypeVar

from cachetools import LRUCache

from cachestore.entry import StoredResponse

EvictionCause = Literal["capacity", "expired"]
# `bytes` means something else inside MemoryStore.
Key = bytes

# What CPython 3.11 needs for a key of 32 bytes and its places in cachetools'
# three dictionaries (270 to 340 bytes, found by filling one with 600,000
# entries) and for the value's own object. Without it a store of short answers
# would take several times the memory it was given.
_OVERHEAD_BYTES = 400

# A value larger than this share would push out too much for one answer.
_LARGEST_SHARE = 8


class HasSize(Protocol):
    """Anything that says how many bytes it holds."""

    @property
    def size_bytes(self) -> int: ...


V = TypeVar("V", bound=HasSize)


class MemoryStore(Generic[V]):
    """Keeps the values used last, at most `max_bytes` of them."""

    def __init__(
        self,
        max_bytes: int,
        *,
        clock: Callable[[], float] = time.time,
        on_evict: Callable[[EvictionCause], None] | None = None,
    ) -> None:
        """Start empty.

        Args:
            max_bytes: For all values and what it takes to hold them. 0 keeps
                nothing.
            clock: Unix seconds; only `get` and `put` ask it.
            on_evict: Told of each value that had to go without being dropped.
        """
        self._max_bytes = max_bytes
        self._largest_bytes = max_bytes // _LARGEST_SHARE
        self._clock = clock
        self._on_evict = on_evict
        self._values: LRUCache[Key, V] = self._empty()
        self.evictions = 0
        """How many values had to go without being dropped, since the start."""

    @property
    def bytes(self) -> int:
        """Bytes taken now, overhead included."""
        return int(self._values.currsize)

    @property
    def entries(self) -> int:
        """Values held now."""
        return len(self._values)

    def peek(self, key: Key) -> V | None:
        """Return the value under `key` and count it as used last."""
        try:
            return self._values[key]
        except KeyError:
            return None

    def keep(self, key: Key, value: V) -> None:
        """Hold `value` under `key`, in place of what was there.

        A value larger than an eighth of the store is not held; what was there
        goes all the same, as it is no longer what belongs to the key.
        """
        if value.size_bytes + _OVERHEAD_BYTES > self._largest_bytes:
            self.drop(key)
        else:
            self._values[key] = value

    def drop(self, key: Key) -> bool:
        """Forget the value under `key`; say whether there was one."""
        try:
            del self._values[key]
        except KeyError:
            return False
        return True

    def clear(self) -> None:
        """Forget all."""
        # Not cachetools' clear(): before 7.0 it took the values out one by
        # one as if to make room, which counts as evictions here.
        self._values = self._empty()

    async def get(self: "MemoryStore[StoredResponse]", key: Key) -> StoredResponse | None:
        """Return what was stored under `key` unless its keep time is over."""
        entry = self.peek(key)
        if entry is None or entry.is_kept(self._clock()):
            return entry
        self.drop(key)
        self._count_eviction("expired")
        return None

    async def put(self: "MemoryStore[StoredResponse]", entry: StoredResponse) -> None:
        """Store `entry` under its key, unless too large or past its keep time."""
        if entry.is_kept(self._clock()):
            self.keep(entry.key, entry)

    async def delete(self, key: Key) -> bool:
        """Forget what is stored under `key`; say whether there was anything."""
        return self.drop(key)

    def _empty(self) -> LRUCache[Key, V]:
        return _EvictingCache(self._max_bytes, self._count_eviction)

    def _count_eviction(self, cause: EvictionCause) -> None:
        self.evictions += 1
        if self._on_evict is not None:
            self._on_evict(cause)


class _EvictingCache(LRUCache[Key, V]):
    """An LRU cache that says when it makes room."""

    def __init__(self, max_bytes: int, on_evict: Callable[[EvictionCause], None]) -> None:
        super().__init__(max_bytes, getsizeof=lambda value: value.size_bytes + _OVERHEAD_BYTES)
        self._tell = on_evict

    def popitem(self) -> tuple[Key, V]:
        """Remove the value used longest ago (called by the base class only)."""
        item = super().popitem()
        self._tell("capacity")
        return item
