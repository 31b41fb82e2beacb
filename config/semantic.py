"""What can be set of the semantic tier: `[semantic]`, and the words that routes use, too."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from config.checks import check_embedding_address, check_redis_url, check_scripts
from config.section import DAY_S, Name, Secret, Section

SemanticMode = Literal["off", "shadow", "on"]
History = Literal["exact", "chain"]


class SemanticSettings(Section):
    """`[semantic]`: answers to questions that were asked before in other words."""

    mode: SemanticMode | None = None
    """`shadow` looks up and counts, but serves nothing; not set: `on` where the extra `semantic` is
    installed, else `off`."""

    min_score: float = Field(default=0.95, ge=-1, le=1)
    """Least cosine between two questions of which one may be answered by the other's answer."""

    max_error: float | None = Field(default=None, gt=0, lt=1)
    """Largest share of hits by meaning that may be wrong: what is sure enough is learned from the
    traffic, and `min_score` does not count; not set: `min_score` decides."""

    check_share: float = Field(default=0.03, gt=0, le=1)
    """With `max_error`: share of the hits for which the upstream is asked as well, behind them."""

    check_tokens_per_hour: int = Field(default=200_000, ge=0)
    """Most tokens an hour that such checks may take, on this host."""

    history: History = "exact"
    """When earlier turns count as equal: byte for byte, or also where the same stored responses
    answered them."""

    deadline_ms: int = Field(default=50, ge=1, le=10_000)
    """How long a look-up may take before the request goes on without."""

    address: Annotated[str, AfterValidator(check_embedding_address)] = ""
    """`http://host:port` or `unix:///path` of an embedding process that runs already; empty:
    `recollect serve` starts one."""

    token: Secret | None = None
    """What an embedding process on TCP asks for as `Authorization: Bearer`."""

    token_file: Path | None = None
    """File that holds `token`."""

    model: Name = "all-MiniLM-L6-v2"
    """Encoder: a name or a folder that sentence-transformers can load."""

    scripts: Annotated[tuple[str, ...], AfterValidator(check_scripts)] = ()
    """Scripts the encoder was trained for; empty: what is known of it, else Latin."""

    models_dir: Path | None = None
    """Folder of exported encoders; not set: `models` in the data folder."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where the encoder runs."""

    threads: int = Field(default=1, ge=1, le=256)
    """Threads of the encoder on the CPU."""

    max_batch: int = Field(default=16, ge=1, le=1024)
    """Most texts encoded together."""

    max_queued: int = Field(default=256, ge=1, le=65_536)
    """Most texts that wait for the encoder; further look-ups are turned away at once."""

    index: Literal["faiss", "vector-set"] = "faiss"
    """Where vectors lie: in the embedding process, or in a Redis 8."""

    index_url: Annotated[str, AfterValidator(check_redis_url)] = Field(default="", repr=False)
    """`redis://` or `rediss://` of the Redis 8, single or a cluster, for `index = "vector-set"`."""

    index_memory_mb: int = Field(default=2048, ge=16, le=1_048_576)
    """Memory for vectors in the embedding process; colder partitions than fit lie on disk."""

    snapshot_interval_s: float = Field(default=300.0, ge=1, le=DAY_S)
    """How often the index is written to disk, if it has changed."""

    @model_validator(mode="after")
    def _check_index(self) -> Self:
        if self.index == "vector-set" and not self.index_url:
            raise ValueError('semantic.index ("vector-set") should come with semantic.index_url')
        return self
