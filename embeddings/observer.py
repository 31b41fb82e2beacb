"""Where the embedding process' events are counted; metrics are the proxy's affair."""

from dataclasses import dataclass
from typing import Literal, Protocol

LookUpOutcome = Literal["found", "nothing", "refused", "busy", "failed"]
RebuildCause = Literal["start", "trimmed", "encoder", "store", "lost"]
SnapshotOutcome = Literal["saved", "loaded", "unusable", "failed"]


@dataclass(frozen=True, slots=True)
class IndexStats:
    """How much is in an index.

    Attributes:
        vectors: Vectors that can be found, by state ("flat", "graph", "spilled", "remote"; states
            that an implementation does not have are absent).
        partitions: Partitions, spilled ones included.
        bytes: Memory held in this process, estimated.
    """

    vectors: dict[str, int]
    partitions: int
    bytes: int


class Observer(Protocol):
    """Counts what happens in the embedding process."""

    def looked_up(self, outcome: LookUpOutcome) -> None:
        """A look-up has been answered so."""

    def encoded(self, texts: int, seconds: float) -> None:
        """A batch of `texts` was encoded in `seconds`."""

    def searched(self, queries: int, seconds: float) -> None:
        """A batch of `queries` was searched in `seconds`."""

    def queued(self, texts: int) -> None:
        """So many texts wait now."""

    def indexed(self, stats: IndexStats) -> None:
        """The index holds this much now."""

    def lag(self, seconds: float) -> None:
        """So far is the index behind the change log."""

    def rebuilt(self, cause: RebuildCause, seconds: float) -> None:
        """The index was filled anew from the store."""

    def snapshot(self, outcome: SnapshotOutcome, seconds: float) -> None:
        """A snapshot was written or read."""
