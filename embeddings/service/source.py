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
class Witness:
    """A stored question, and what is known of its answer.

    Attributes:
        key: The stored response's key, 32 bytes.
        partition: 32 bytes.
        expires_at: Unix seconds.
        text: What was asked.
        vector: Of this encoder, float32 little-endian.
        group: Equal for answers that say the same, 16 bytes.
        words: Equal for answers of the same words, 16 bytes.
        stored_at: Unix seconds.
        answer: What was answered, or its beginning; empty if it is not known.
    """

    key: bytes
    partition: bytes
    expires_at: float
    text: str
    vector: bytes
    group: bytes
    words: bytes
    stored_at: float
    answer: str


@dataclass(frozen=True, slots=True)
class Learned:
    """What the log of samples says.

    Attributes:
        samples: Routes and their samples of this encoder, oldest first, as bytes.
        forbidden: Pairs that were forbidden since.
        position: Where to go on.
        messages: How many there were, other encoders' included.
    """

    samples: list[tuple[str, bytes]]
    forbidden: list[bytes]
    position: str
    messages: int


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

    async def witnesses(self, keys: Sequence[bytes]) -> list[Witness | None]:
        """Return what is known of `keys`, in their order; None for what is gone or not whole."""
        ...

    async def keep_group(self, witness: Witness, group: bytes) -> None:
        """Write into a record which group its answer belongs to, and tell the log.

        Nothing is written where it has another answer by now.
        """
        ...

    async def learn(self, route: str, sample: bytes) -> None:
        """Write a sample into the log of samples."""
        ...

    async def forbid(self, pair: bytes) -> None:
        """Write down, for good, a question's key and the group that must not answer it."""
        ...

    async def forbidden(self) -> frozenset[bytes]:
        """Return all pairs that were ever forbidden."""
        ...

    async def learned(self, after: str, most: int) -> Learned:
        """Return at most `most` messages of the log of samples behind `after`, "0-0" for all."""
        ...
