"""What can be set: frozen models, one per section of the settings file.

Units are in the names (`_s` seconds, `_ms` milliseconds, `_bytes`, `_mb` mebibytes). Unknown keys
are refused and values out of range are errors, never clamped. Each setting's docstring is its
contract; docs/configuration.md says the same at more length, and why a default is what it is. The
semantic tier's are in `config.semantic`.

Nothing here reads a file or the environment: see `config.load`.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from config.checks import (
    check_base_url,
    check_header_names,
    check_ignorable,
    check_redis_url,
    check_tenants,
)
from config.section import DAY_S, Name, Secret, Section, TimeoutS
from config.semantic import History, SemanticMode, SemanticSettings

RedisPolicy = Literal[
    "noeviction",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
]

_YEAR_S = 365 * DAY_S
_GIB = 1024**3

IgnoredFields = Annotated[tuple[Name, ...], AfterValidator(check_ignorable)]


class ServerSettings(Section):
    """`[server]`: the listener applications talk to, and its worker processes."""

    host: Name = "127.0.0.1"
    """Address or host name to listen on."""

    port: int = Field(default=8080, ge=0, le=65535)
    """TCP port to listen on; 0 lets the kernel choose one, which is then logged."""

    workers: int = Field(default=1, ge=1, le=64)
    """Number of worker processes."""

    drain_s: float = Field(default=30.0, ge=0, le=3600)
    """How long a worker that was told to end may finish the answers it has begun."""

    data_dir: Path | None = None
    """Folder of the private Redis, the tenancy secret, the encoder and the index's snapshots; see
    `config.load.data_folder`."""


class UpstreamSettings(Section):
    """`[upstream]`: the LLM server that is asked on a miss."""

    base_url: Annotated[str, AfterValidator(check_base_url)] = ""
    """Base URL, with or without a path such as `/v1`; required to serve."""

    api_key: Secret | None = None
    """Sent instead of the client's API key; the client's own is passed on when not set."""

    api_key_file: Path | None = None
    """File that holds `api_key`."""

    connect_timeout_s: TimeoutS = 5.0
    """How long connecting may take, TLS included."""

    first_byte_timeout_s: TimeoutS = 600.0
    """How long the upstream may take until its answer begins."""

    idle_timeout_s: TimeoutS = 120.0
    """How long an answer that has begun may pause."""

    max_connections: int = Field(default=1000, ge=1, le=65535)
    """Most connections of one worker to the upstream at a time."""

    ca_file: Path | None = None
    """PEM file of the certificate authorities to trust instead of the system's."""

    stores_responses: bool = False
    """Whether the upstream keeps responses (`store`, `previous_response_id` of /v1/responses)."""

    revision: str = ""
    """Revision of model, adapter and chat template: part of every key."""


class RedisSettings(Section):
    """`[redis]`: where stored responses lie, shared by all workers and hosts."""

    url: Annotated[str, AfterValidator(check_redis_url)] = Field(default="", repr=False)
    """`redis://`, `rediss://` or `unix://`; empty: a private redis-server is started."""

    deadline_ms: int = Field(default=200, ge=1, le=10_000)
    """How long a command may take before Redis counts as down and the request goes on without."""

    namespace: str = Field(default="recollect", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """First part of every key in Redis."""

    compress_above_bytes: int = Field(default=2048, ge=0, le=_GIB)
    """Stored responses larger than this are compressed (zstd)."""

    maxmemory_mb: int = Field(default=512, ge=1, le=1_048_576)
    """`maxmemory` of the private redis-server."""

    maxmemory_policy: RedisPolicy = "allkeys-lru"
    """`maxmemory-policy` of the private redis-server."""

    ca_file: Path | None = None
    """PEM file of the certificate authorities to trust for `rediss://`."""


class CacheSettings(Section):
    """`[cache]`: what is stored, for how long, and what counts as the same request."""

    ttl_s: float = Field(default=3600.0, gt=0, le=_YEAR_S)
    """Freshness lifetime of a stored response when neither route nor request says otherwise."""

    max_ttl_s: float = Field(default=604_800.0, gt=0, le=_YEAR_S)
    """Longest lifetime a request or an upstream may ask for."""

    jitter: float = Field(default=0.1, ge=0, lt=1)
    """Largest share of a lifetime by which it is shortened at random."""

    l1_bytes: int = Field(default=64 * 1024**2, ge=0, le=1024 * _GIB)
    """Memory of one worker for answers ready to send; 0 keeps none."""

    max_entry_bytes: int = Field(default=8 * 1024**2, ge=1024, le=_GIB // 4)
    """Answers larger than this stream through and are not stored."""

    max_stale_s: float = Field(default=0.0, ge=0, le=_YEAR_S)
    """How long a stored response is kept past its lifetime, for stale use."""

    stale_if_error_s: float = Field(default=0.0, ge=0, le=_YEAR_S)
    """How long past its lifetime a response may be served when the upstream fails (RFC 5861 §4)."""

    stale_while_revalidate_s: float = Field(default=0.0, ge=0, le=_YEAR_S)
    """How long past its lifetime a response may be served while a new one is fetched."""

    upstream_cache_control: Literal["ignore", "honour"] = "ignore"
    """Whether the upstream's `Cache-Control`, `Expires`, `Age` and `Vary` decide on storing."""

    fold_defaults: bool = True
    """Whether a parameter at its documented default counts as absent."""

    store_finish_reasons: tuple[Name, ...] = ("stop", "tool_calls", "function_call")
    """Finish reasons of answers that may be stored."""

    store_refusals: bool = False
    """Whether a refusal may be stored."""

    side_effect_tools: tuple[Name, ...] = ()
    """Glob patterns of function names whose presence in a request bypasses the cache."""

    ignore_fields: IgnoredFields = ()
    """Top-level fields of the body that do not count in the key."""

    key_headers: Annotated[tuple[Name, ...], AfterValidator(check_header_names)] = ()
    """Request headers that count in the key, beside OpenAI-Organization, -Project and -Beta."""

    replay_interval_ms: float = Field(default=0.0, ge=0, le=10_000)
    """Pause between the chunks of a replayed stream."""

    @model_validator(mode="after")
    def _check_durations(self) -> Self:
        bounds = {
            "ttl_s": "max_ttl_s",
            "stale_if_error_s": "max_stale_s",
            "stale_while_revalidate_s": "max_stale_s",
        }
        mistakes = [
            f"cache.{name} ({getattr(self, name):g}) should not be more than "
            f"cache.{bound} ({getattr(self, bound):g})"
            for name, bound in bounds.items()
            if getattr(self, name) > getattr(self, bound)
        ]
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self


class LimitSettings(Section):
    """`[limits]`: the largest request that is read."""

    body_bytes: int = Field(default=32 * 1024**2, ge=1024, le=_GIB)
    """Largest body; larger ones get 413."""

    header_bytes: int = Field(default=64 * 1024, ge=1024, le=1024**2)
    """Largest header section; larger ones get 431."""

    json_depth: int = Field(default=128, ge=1, le=250)
    """Deepest nesting of a JSON body; deeper ones get 400."""


class TenancySettings(Section):
    """`[tenancy]`: who shares entries with whom."""

    secret: Annotated[Secret, Field(min_length=16)] | None = None
    """Key of the HMAC that turns a client's API key into its tenant; equal on all hosts."""

    secret_file: Path | None = None
    """File that holds `secret`; without either, one is made once in the data folder."""

    names: Annotated[dict[str, tuple[str, ...]], AfterValidator(check_tenants)] = Field(
        default_factory=dict
    )
    """Tenant name → SHA-256 digests (hexadecimal) of the API keys that belong to it."""


class AdminSettings(Section):
    """`[admin]`: health and metrics."""

    host: Name = "127.0.0.1"
    """Address of the listener of its own, if there is one."""

    port: int | None = Field(default=None, ge=0, le=65535)
    """Port of a listener of its own; without it, health and metrics are on the data listener."""

    token: Secret | None = None
    """When set, /metrics asks for it as `Authorization: Bearer`."""


class LogSettings(Section):
    """`[log]`: what is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is written."""

    requests: bool = False
    """Whether each request gets one line."""


class RouteSettings(Section):
    """`[[routes]]`: what differs for some models; the first route that matches counts."""

    models: tuple[Name, ...] = Field(min_length=1)
    """Glob patterns of model names."""

    cache: bool = True
    """Whether answers of these models are looked up and stored at all."""

    ttl_s: float | None = Field(default=None, gt=0, le=_YEAR_S)
    """Freshness lifetime instead of `cache.ttl_s`."""

    shared: bool = False
    """Whether all tenants share these entries."""

    revision: str = ""
    """Revision of these models, beside `upstream.revision`: part of their keys."""

    ignore_fields: IgnoredFields = ()
    """Top-level fields of the body that do not count, beside `cache.ignore_fields`."""

    fold_defaults: bool | None = None
    """Overrides `cache.fold_defaults`."""

    semantic: SemanticMode | None = None
    """Overrides `semantic.mode`, unless that is `off`."""

    max_error: float | None = Field(default=None, gt=0, lt=1)
    """Overrides `semantic.max_error`."""

    history: History | None = None
    """Overrides `semantic.history`."""


class Settings(Section):
    """All settings, in effect and checked."""

    server: ServerSettings = ServerSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    redis: RedisSettings = RedisSettings()
    cache: CacheSettings = CacheSettings()
    semantic: SemanticSettings = SemanticSettings()
    limits: LimitSettings = LimitSettings()
    tenancy: TenancySettings = TenancySettings()
    admin: AdminSettings = AdminSettings()
    log: LogSettings = LogSettings()
    routes: tuple[RouteSettings, ...] = ()

    @model_validator(mode="after")
    def _check_listeners(self) -> Self:
        listener = (self.server.host, self.server.port)
        if self.admin.port and (self.admin.host, self.admin.port) == listener:
            raise ValueError(f"admin.port ({self.admin.port}) should not be server.port")
        return self

    @model_validator(mode="after")
    def _check_route_lifetimes(self) -> Self:
        longest_s = max((route.ttl_s or 0.0 for route in self.routes), default=0.0)
        if longest_s > self.cache.max_ttl_s:
            raise ValueError(
                f"routes.ttl_s ({longest_s:g}) should not be more than "
                f"cache.max_ttl_s ({self.cache.max_ttl_s:g})"
            )
        return self
