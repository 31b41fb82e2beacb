"""Where the embedding process' events are counted; metrics are the proxy's affair."""

from dataclasses import dataclass
from typing import Literal, Protocol

from embeddings.verdict import Verdict

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


@dataclass(frozen=True, slots=True)
class Measured:
    """What was seen of answers that were served, or would have been.

    Attributes:
        seen: How many answers were compared with the upstream's.
        wrong: How many of those were wrong.
        low: Lower end of the share's 95 % interval (Wilson 1927), 0 … 1.
        high: Its upper end.
    """

    seen: int
    wrong: int
    low: float
    high: float


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

    def decided(self, route: str, verdict: Verdict) -> None:
        """A look-up within a route's error budget was decided so."""

    def compared(self, route: str, would_serve: bool, is_right: bool) -> None:
        """An upstream's answer was compared with what would have been, or was, served."""

    def budget(self, route: str, is_serving: bool, threshold: float, measured: Measured) -> None:
        """A route's budget stands so now."""
