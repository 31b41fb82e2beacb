"""Builds the parts of one worker, in order; nothing else does."""

import os
import socket
from dataclasses import dataclass
from ipaddress import ip_address

from cachestore.leases import Leases
from cachestore.memory_store import MemoryStore
from cachestore.redis_link import RedisLink
from cachestore.redis_store import RedisStore, alias_prefix, entry_keys, entry_prefix
from config.settings import Settings
from embeddings.client import EmbeddingClient
from proxy.boarding import Boarding
from proxy.exchange import Message, Receive, Scope, Send
from proxy.fast_path import FastPath
from proxy.fetch import Fetcher
from proxy.forward import Forwarder
from proxy.handler import Handler, Limits
from proxy.lookup.answers import StoredAnswer
from proxy.lookup.ask import Reader
from proxy.lookup.flights import Flights
from proxy.lookup.peers import Peers
from proxy.lookup.routes import Routes
from proxy.lookup.semantic_tier import NoSemanticTier, SemanticTier
from proxy.lookup.tenants import Tenants
from proxy.lookup.tiers import Tiers
from proxy.lookup.token_budget import TokenBudget
from proxy.metrics import Metrics
from proxy.operations import Operations
from proxy.replies import Replies
from proxy.router import Router
from proxy.semantic_admin import Access, SemanticAdmin
from proxy.upstreams import upstream as upstreams
from proxy.wire.record import RecordPolicy

_LEASE_S = 6.0
"""Long enough that a leader whose event loop stalls keeps its lease; a dead one's is broken."""
_FIRST_CONNECT_S = 2.0
"""How long a worker waits for Redis before it serves without: a new one should find its hits."""
_HEAD_BYTES = 65536
"""Room for an entry's head beside its content, when read back."""


@dataclass(frozen=True, slots=True)
class Worker:
    """The parts of a worker that its life cycle needs, and the way in."""

    router: Router
    upstream: upstreams.Upstream
    link: RedisLink
    embeddings: EmbeddingClient | None
    peers: Peers
    flights: Flights
    metrics: Metrics
    fast_path: FastPath

    async def start(self) -> None:
        """Open connections. A Redis or an upstream that is away does not hold it up."""
        self.upstream.start()
        self.peers.start()
        await self.link.start(_FIRST_CONNECT_S)

    async def stop(self) -> None:
        """Let what is under way be stored, then close connections."""
        await self.flights.stop()
        await self.peers.stop()
        if self.embeddings is not None:
            await self.embeddings.close()
        await self.link.close()
        await self.upstream.stop()
        self.metrics.flush()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Speak ASGI."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self.router.answer(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        message: Message = await receive()
        if message["type"] == "lifespan.startup":
            await self.start()
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})


def build(
    settings: Settings, redis_url: str, tenancy_secret: bytes, admin_port: int | None
) -> Worker:
    """Return a worker that is ready to be started.

    Args:
        settings: What is in effect.
        redis_url: The Redis to use.
        tenancy_secret: Key of the tenants' HMAC.
        admin_port: The port health and metrics are served on; None for the data listener's.
    """
    cache = settings.cache
    metrics = Metrics()
    memory = MemoryStore[StoredAnswer](cache.l1_bytes, on_evict=metrics.evicted)

    owner = f"{socket.gethostname()[:32]}-{os.getpid()}-{os.urandom(6).hex()}".encode()
    link = RedisLink(
        redis_url,
        deadline_s=settings.redis.deadline_ms / 1000,
        ca_file=settings.redis.ca_file,
        name=b"recollect",
        invalidation_prefixes=(
            entry_prefix(settings.redis.namespace),
            alias_prefix(settings.redis.namespace),
        ),
        on_invalidate=lambda names: tiers.invalidate(
            None if names is None else entry_keys(settings.redis.namespace, names)
        ),
        on_state=lambda is_up, _: metrics.redis_state(is_up),
    )
    redis = RedisStore(
        link,
        settings.redis.namespace,
        settings.redis.compress_above_bytes,
        cache.max_entry_bytes + _HEAD_BYTES,
        on_corrupt=metrics.found_corrupt,
    )
    leases = Leases(link, settings.redis.namespace, owner, _LEASE_S)
    tiers = Tiers(memory, redis, leases, metrics)
    embeddings, semantic = _semantic(settings, tiers, metrics)
    flights = Flights(cache.max_entry_bytes)
    peers = Peers(link, settings.redis.namespace, owner, flights, cache.max_entry_bytes)
    key = settings.upstream.api_key
    upstream = upstreams.Upstream(
        settings.upstream.base_url,
        api_key=key.get_secret_value() if key is not None else None,
        limits=upstreams.Limits(
            connect_s=settings.upstream.connect_timeout_s,
            first_byte_s=settings.upstream.first_byte_timeout_s,
            idle_s=settings.upstream.idle_timeout_s,
            connections=settings.upstream.max_connections,
        ),
        ca_file=settings.upstream.ca_file,
    )
    fetcher = Fetcher(
        upstream=upstream,
        tiers=tiers,
        semantic=semantic,
        leases=leases,
        peers=peers,
        metrics=metrics,
        record_policy=RecordPolicy(
            finish_reasons=frozenset(cache.store_finish_reasons),
            store_refusals=cache.store_refusals,
            max_bytes=cache.max_entry_bytes,
        ),
    )
    names = {
        digest: tenant for tenant, digests in settings.tenancy.names.items() for digest in digests
    }
    forwarder = Forwarder(upstream, metrics)
    replies = Replies(tiers, metrics, cache.replay_interval_ms / 1000)
    fast_path = FastPath(tiers, metrics, cache.key_headers)
    reader = Reader(Routes(settings), Tenants(tenancy_secret, names), cache.key_headers)
    handler = Handler(
        reader=reader,
        tiers=tiers,
        semantic=semantic,
        boarding=Boarding(
            flights=flights,
            fetcher=fetcher,
            forwarder=forwarder,
            replies=replies,
            checks=TokenBudget(settings.semantic.check_tokens_per_hour / settings.server.workers),
        ),
        forwarder=forwarder,
        replies=replies,
        fast_path=None if settings.log.requests or cache.replay_interval_ms else fast_path,
        metrics=metrics,
        limits=Limits(
            settings.limits.body_bytes, settings.limits.json_depth, cache.max_entry_bytes
        ),
    )
    token = settings.admin.token.get_secret_value() if settings.admin.token is not None else None
    host = settings.server.host if admin_port is None else settings.admin.host
    router = Router(
        handler=handler,
        forwarder=forwarder,
        operations=Operations(token, lambda: link.is_up, metrics),
        semantic_admin=SemanticAdmin(
            access=Access(token, _is_loopback(host)),
            reader=reader,
            semantic=semantic,
            tiers=tiers,
            redis=redis,
            embeddings=embeddings,
            has_budgets=any(
                max_error is not None
                for max_error in (
                    settings.semantic.max_error,
                    *(r.max_error for r in settings.routes),
                )
            ),
            body_bytes=settings.limits.body_bytes,
            json_depth=settings.limits.json_depth,
        ),
        metrics=metrics,
        admin_port=admin_port,
        logs_requests=settings.log.requests,
    )
    return Worker(router, upstream, link, embeddings, peers, flights, metrics, fast_path)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _semantic(
    settings: Settings, tiers: Tiers, metrics: Metrics
) -> tuple[EmbeddingClient | None, SemanticTier]:
    """Return the way to the embedding process, if there is one, and the tier behind it."""
    semantic = settings.semantic
    if semantic.mode in (None, "off"):
        return None, NoSemanticTier()
    deadline_s = semantic.deadline_ms / 1000
    client = EmbeddingClient(
        semantic.address,
        semantic.token.get_secret_value() if semantic.token is not None else None,
        deadline_s,
        on_state=metrics.embeddings_state,
    )
    return client, SemanticTier(
        client,
        tiers,
        metrics,
        min_score=semantic.min_score,
        deadline_s=deadline_s,
        check_share=semantic.check_share,
    )
