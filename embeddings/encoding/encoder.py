"""What turns a text into a vector, and what it says of itself.

Implementations: `onnx_encoder` (CPU) and `torch_encoder` (GPU). Which one is used, and where its
files come from, is `open_encoder`'s affair (`embeddings/encoding/models.py`).
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""One embedding: shape (dimension,), float32, L2 norm 1."""


class Refused(StrEnum):
    """Why a text has no vector that could be compared: the request goes on exact-only."""

    SCRIPT = "script"
    """It is written in a script the encoder was not trained for."""
    LONG = "long"
    """It has more tokens than the encoder's window: the rest would not be seen."""
    UNKNOWN = "unknown-tokens"
    """A word in it is none to the encoder: another one in its place would look the same."""


class Encoder(Protocol):
    """Texts in, vectors out. Blocking; used by one thread at a time.

    Attributes:
        fingerprint: 32 hexadecimal digits over weights, tokenizer, pooling and precision. Vectors
            with different fingerprints are never compared.
        dimension: Numbers in a vector.
        window_tokens: The most tokens a text may have, special ones included.
    """

    @property
    def fingerprint(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    @property
    def window_tokens(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> list[Vector | Refused]:
        """Return for each of `texts`, in order, its vector or why it has none.

        Texts of different lengths may stand together; the vector of a text does not depend on
        what it is encoded with, beyond rounding (1e-5).
        """
        ...
