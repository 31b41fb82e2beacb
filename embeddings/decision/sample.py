"""What was learned from one answer: the evidence there was before it, and whether it was right.

A sample is some 90 bytes, holds no text, and is shared by all hosts through a log in Redis.

Pure: no clock, no chance, no I/O.
"""

import math
import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from embeddings.decision.consensus import FEATURES, Floats

GROUP_BYTES: Final = 16

_FORMAT_VERSION: Final = 1
_RIGHT, _WOULD = 1, 2
# format version, flags, Unix seconds, answer group, probability, weight, evidence
_LAYOUT: Final = struct.Struct(f"<BBd{GROUP_BYTES}sff{len(FEATURES)}f")


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One answer against what the neighbours spoke for.

    Attributes:
        at: When it came, Unix seconds.
        group: The answer group they spoke for.
        evidence: Shape (len(FEATURES),).
        probability: How likely that was thought to be right, 0 … 1.
        weight: How many like it there were: above 1 for a checked hit, as few hits are checked.
        is_right: Whether the upstream's answer was of that group.
        would_serve: Whether it was sure enough to be served, were the route allowed to.
    """

    at: float
    group: bytes
    evidence: Floats
    probability: float
    weight: float
    is_right: bool
    would_serve: bool

    def to_bytes(self) -> bytes:
        """Return it as it lies in the log."""
        flags = _RIGHT * self.is_right | _WOULD * self.would_serve
        head = (_FORMAT_VERSION, flags, self.at, self.group, self.probability, self.weight)
        return _LAYOUT.pack(*head, *self.evidence)

    @classmethod
    def from_bytes(cls, raw: bytes) -> "Sample":
        """Read one.

        Raises:
            ValueError: It is none, or of another format version.
        """
        if len(raw) != _LAYOUT.size or raw[0] != _FORMAT_VERSION:
            raise ValueError("not a sample of this version")
        _, flags, at, group, probability, weight, *evidence = _LAYOUT.unpack(raw)
        numbers = (at, probability, weight, *evidence)
        if not all(map(math.isfinite, numbers)) or not 0 <= probability <= 1 or weight < 1:
            raise ValueError("a number of the sample is out of its range")
        return cls(
            at=at,
            group=group,
            evidence=np.array(evidence),
            probability=probability,
            weight=weight,
            is_right=bool(flags & _RIGHT),
            would_serve=bool(flags & _WOULD),
        )
