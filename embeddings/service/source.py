"""Where an index is filled from: the vector records, and the log of their changes.

The truth lies in a store that this package does not know; `proxy` gives it this form.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class SourceUnavailable(Exception):
    """The store was not reached or refused. Worth another try."""


@dataclass(frozen=True, slots=True)
class Record:
    """What the store knows of one entry's meaning.

    Attributes:
        key: The stored response's key, 32 bytes.
        partition: 32 bytes.
        expires_at: Unix seconds.
        vector: The vector of this encoder, float32 little-endian, b"" if it has none yet.
        text: What it is the vector of; read only where the vector is missing, else "".
    """

    key: bytes
    partition: bytes
    expires_at: float
    vector: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What the log says happened.

    Attributes:
        keys: Keys to look at, oldest first; may repeat.
        position: Where to go on.
        oldest_at: Unix seconds of the oldest of these messages; None if there was none.
    """

    keys: list[bytes]
    position: str
    oldest_at: float | None


class Source(Protocol):
    """The store, as one embedding process sees it, for the encoder with one fingerprint.

    All methods raise SourceUnavailable.
    """

    async def mark(self) -> str:
        """Write a message that means nothing into the log and return its position."""
        ...

    async def changes(self, after: str, most: int) -> Changes | None:
        """Return at most `most` messages behind the position `after`.

        None: the message at `after` is not in the log any more. It was trimmed, or the store was
        emptied, and nobody knows what was missed.
        """
        ...

    async def read(self, keys: Sequence[bytes]) -> list[Record | None]:
        """Return the records of `keys`, in their order; None for what is gone or corrupt."""
        ...

    async def keep_vector(self, record: Record, vector: bytes) -> None:
        """Write into `record`, if it is still there, the vector its text has."""
        ...

    async def forget_gone(self, keys: Sequence[bytes]) -> None:
        """Remove the records among `keys` whose entry is gone, and tell the log."""
        ...

    async def scan(self, cursor: int) -> tuple[int, list[bytes]]:
        """Return the next cursor (0: that was all) and the keys of some records."""
        ...
