"""What a worker process is given at its start.

The supervisor writes it to the worker's standard input: secrets are in it, and neither a command
line nor an environment is private to its process.
"""

from typing import BinaryIO, Self

from pydantic import BaseModel, ConfigDict, Field

from config.section import REVEAL_SECRETS
from config.settings import Settings


class WorkerStart(BaseModel):
    """One worker's settings and inheritance.

    Attributes:
        settings: The settings in effect.
        redis_url: Redis to use; the private server's, if there is one.
        tenancy_secret: Key of the tenants' HMAC, hexadecimal.
        worker: Number of the worker's slot, from 0.
        data_fd: Listening socket for applications.
        admin_fd: Listening socket for health and metrics, when `admin.port` is set.
        lifeline_fd: Read end of a pipe that ends when the supervisor is gone, however it went.
        ready_fd: Write end of a pipe: one byte says that the worker serves.
        run_dir: Private folder of this run, $PROMETHEUS_MULTIPROC_DIR.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    settings: Settings
    redis_url: str = Field(repr=False)
    tenancy_secret: str = Field(repr=False, pattern=r"^([0-9a-f]{2})+$")
    worker: int
    data_fd: int
    admin_fd: int | None
    lifeline_fd: int
    ready_fd: int
    run_dir: str

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
