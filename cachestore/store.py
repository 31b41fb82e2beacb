"""What every place for stored responses can do.

One contract test runs over all of them. Faults are raised as `StoreError`; it
is the caller who turns them into misses.
"""

from typing import Protocol

from cachestore.entry import StoredResponse


class Store(Protocol):
    """Holds stored responses by key until the end of their keep time."""

    async def get(self, key: bytes) -> StoredResponse | None:
        """Return what was stored under `key`, fresh or not.

        Returns:
            None: nothing is there, or nothing that is whole, or its keep time
            (freshness lifetime and time for stale use) is over.

        Raises:
            StoreUnavailable: not reached within the store's deadline.
            StoreRefused: the store answered with an error.
        """
        ...

    async def put(self, entry: StoredResponse) -> bool | None:
        """Store `entry` under its key, in place of what was there.

        An entry that is too large or past its keep time is not stored, and
        what was there may stay. That is no error.

        Raises:
            StoreUnavailable: not reached; the entry may or may not be stored.
            StoreRefused: the store answered with an error.
        """
        ...

    async def delete(self, key: bytes) -> bool:
        """Forget what is stored under `key`; say whether there was anything.

        Raises:
            StoreUnavailable: not reached; it may or may not be forgotten.
            StoreRefused: the store answered with an error.
        """
        ...
