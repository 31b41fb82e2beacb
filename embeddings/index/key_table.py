"""Which partition each key is in, wherever that lies; used by the index's owner alone."""

from collections.abc import Callable, Iterable
from typing import Final

from embeddings.index.threads import IndexThreads

_AT_ONCE: Final = 10_000
"""Keys looked at between two calls, whether their partition is still held: about 2 ms."""


class KeyTable:
    """Each key's partition; for a while also of partitions that are no longer held."""

    def __init__(self, threads: IndexThreads, is_held: Callable[[bytes], bool]) -> None:
        """Start empty; `is_held` tells of a partition's name whether the index has it."""
        self._threads = threads
        self._is_held = is_held
        self._names: dict[bytes, bytes] = {}
        self._is_purging = False
        self._has_to_purge = False

    def get(self, key: bytes) -> bytes | None:
        """Return a key's partition, if it has one."""
        return self._names.get(key)

    def put(self, keys: Iterable[bytes], name: bytes) -> None:
        """Have keys be in a partition; `name` is the bytes it has itself, not a copy."""
        for key in keys:
            self._names[key] = name

    def drop(self, key: bytes) -> None:
        """Forget a key, if it is there."""
        self._names.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        self._names.clear()

    def purge_soon(self) -> None:
        """Forget the keys of partitions that are no longer held, behind the calls that have come.

        Their keys need not be known for that: what was lost, or lies on disk, is not read.
        """
        self._has_to_purge = True
        if not self._is_purging:
            self._is_purging = True
            self._threads.later(self._purge, [])

    def _purge(self, keys: list[bytes]) -> None:
        """Look at some of `keys`, or else of all; go on behind the calls that have come."""
        if not keys:
            if not self._has_to_purge:
                self._is_purging = False
                return
            self._has_to_purge = False
            keys = list(self._names)
        for key in keys[-_AT_ONCE:]:
            name = self._names.get(key)
            if name is not None and not self._is_held(name):
                del self._names[key]
        del keys[-_AT_ONCE:]
        self._threads.later(self._purge, keys)
