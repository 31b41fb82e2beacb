"""What an embedding process is given at its start, and whether there can be one.

Given over standard input, like a worker's: secrets are in it.
"""

import importlib.util
from pathlib import Path
from typing import BinaryIO, Final, Self

from pydantic import BaseModel, ConfigDict, Field

from config.section import REVEAL_SECRETS
from config.settings import Settings

SOCKET_NAME: Final = "embeddings.sock"
ONE_BLAS_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1"}
"""Environment of a process with an index. With more, numpy's threads wait for one another in each
search, for eight times its time. The encoder's threads are its own: `semantic.threads`."""

_NEEDED: Final = ("faiss", "numpy", "onnxruntime", "sentence_transformers", "tokenizers", "torch")


class EmbeddingStart(BaseModel):
    """Settings and inheritance of one embedding process.

    Attributes:
        settings: The settings in effect.
        redis_url: Redis to follow; the private server's, if there is one.
        folder: Where exported encoders and snapshots lie.
        address: Where to listen.
        lifeline_fd: Read end of a pipe that ends when the supervisor is gone; None without one.
        run_dir: Private folder of the supervisor's run, $PROMETHEUS_MULTIPROC_DIR; "" without one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    settings: Settings
    redis_url: str = Field(repr=False)
    folder: Path
    address: str
    lifeline_fd: int | None = None
    run_dir: str = ""

    def encode(self) -> bytes:
        """Return the JSON document, secrets in clear."""
        return self.model_dump_json(context=REVEAL_SECRETS).encode()

    @classmethod
    def read(cls, stream: BinaryIO) -> Self:
        """Read the document up to the end of `stream`.

        Raises:
            ValueError: It is not one of ours.
        """
        return cls.model_validate_json(stream.read())


def is_installed() -> bool:
    """Return whether the extra `semantic` is there. Imports nothing of it."""
    return all(importlib.util.find_spec(name) is not None for name in _NEEDED)


def decided(settings: Settings, own_address: str) -> Settings:
    """Return `settings` with `semantic.mode` and `semantic.address` as they come to.

    Args:
        settings: As `config.load` has read them, which refuses a mode that cannot be.
        own_address: Where an embedding process of our own listens, if one is needed.
    """
    semantic = settings.semantic
    mode = semantic.mode or ("on" if semantic.address or is_installed() else "off")
    address = semantic.address if mode == "off" else semantic.address or own_address
    changed = semantic.model_copy(update={"mode": mode, "address": address})
    return settings.model_copy(update={"semantic": changed})
