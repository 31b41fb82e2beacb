"""What the request's way is tested with: a client, an upstream and a Redis, all in this process.

Each of them does at once what it is told, and waits wherever a test says so, at an event. Time
is virtual (`VirtualTimeLoop`): when nothing is left to do, the next timer is due.
"""

import asyncio
import hashlib
import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cachestore.errors import StoreRefused, StoreUnavailable
from cachestore.leases import Leases
from cachestore.memory_store import MemoryStore
from cachestore.redis_link import RedisLink
from cachestore.redis_store import RedisStore
from config.settings import Settings
from embeddings.client import EmbeddingsUnavailable
from embeddings.wire import Decided, Found, LookUp, Neighbour
from proxy.boarding import Boarding
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
from proxy.upstreams.upstream import Answer, Upstream
from proxy.wire.record import RecordPolicy

Headers = list[tuple[bytes, bytes]]
App = Callable[..., Any]

PATIENCE_S: Final = 300.0
"""Virtual seconds after which a wait counts as endless."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when there is nothing else to do."""

    def __init__(self) -> None:
        super().__init__()
        self._jumped_s = 0.0

    def time(self) -> float:
        """Return the clock's time, jumps included."""
        return super().time() + self._jumped_s

    def _run_once(self) -> None:
        if not self._ready:  # type: ignore[attr-defined]
            timers = [t.when() for t in self._scheduled if not t.cancelled()]  # type: ignore[attr-defined]
            if timers:
                self._jumped_s += max(0.0, min(timers) - self.time())
        super()._run_once()  # type: ignore[misc]


async def settle() -> None:
    """Let all run that can run without time passing."""
    for _ in range(100):
        await asyncio.sleep(0)


class Clock:
    """Unix time, as a test sets it."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


# The upstream.


@dataclass
class Play:
    """How the upstream answers one request: at once, but for the events in its way."""

    pieces: Sequence[bytes | asyncio.Event | Exception] = ()
    status: int = 200
    headers: Sequence[tuple[bytes, bytes]] = ()
    """Added to the content type; a content type here replaces it."""
    content_type: bytes = b"application/json"
    gate: asyncio.Event | None = None
    """Waited for before the head."""
    error: Exception | None = None
    """Raised in place of the head."""


@dataclass
class Sent:
    """One request as the upstream got it."""

    method: str
    path: str
    query: str
    headers: Headers
    content: bytes
    has_content: bool
    end: str = ""
    """"" while it runs, then "answered" or "cancelled"."""


class FakeAnswer(Answer):
    """An answer played from a script."""

    def __init__(self, play: Play, sent: Sent) -> None:
        self._play = play
        self._sent = sent
        self.status = play.status
        self.headers = list(play.headers)
        if not any(name == b"content-type" for name, _ in self.headers):
            self.headers.append((b"content-type", play.content_type))

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield what the script says."""
        for piece in self._play.pieces:
            if isinstance(piece, asyncio.Event):
                await piece.wait()
            elif isinstance(piece, Exception):
                raise piece
            else:
                yield piece
        self._sent.end = "answered"

    def close(self) -> None:
        """Note how far it was read."""
        self._sent.end = self._sent.end or "cancelled"


class FakeUpstream(Upstream):
    """Answers each request with the next play; the last one repeats."""

    def __init__(self, *plays: Play) -> None:
        super().__init__(
            "http://upstream.invalid", api_key=None, limits=upstreams.Limits(1, 1, 1, 1)
        )
        self.plays = list(plays)
        self.sent: list[Sent] = []

    @property
    def calls(self) -> int:
        """How many requests came."""
        return len(self.sent)

    @property
    def running(self) -> int:
        """How many are still being answered."""
        return sum(not sent.end for sent in self.sent)

    async def send(
        self,
        method: str,
        path: str,
        query: str,
        headers: Iterable[tuple[bytes, bytes]],
        content: bytes | AsyncIterator[bytes] | None,
    ) -> Answer:
        """Take a request and return its answer's head."""
        play = self.plays[min(len(self.sent), len(self.plays) - 1)]
        sent = Sent(method, path, query, list(headers), b"", content is not None)
        self.sent.append(sent)
        try:
            if isinstance(content, bytes):
                sent.content = content
            elif content is not None:
                async for piece in content:
                    sent.content += piece
            if play.gate is not None:
                await play.gate.wait()
            if play.error is not None:
                sent.end = "answered"
                raise play.error
        except BaseException:
            sent.end = sent.end or "cancelled"
            raise
        return FakeAnswer(play, sent)


# Redis.


class FakeRedis:
    """The few commands that are sent, run in the order in which they are sent.

    Attributes:
        values: What lies under each name.
        is_down: Commands fail as if there were no connection.
        refusals: Error codes by command ("SET" also within a script).
        losing: Whether a message published on a channel is lost.
        outbox: While a list, replies wait in it instead of arriving.
        commands: All that was sent, first words only.
    """

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.is_down = False
        self.refusals: dict[str, str] = {}
        self.losing: Callable[[bytes, bytes], bool] = lambda channel, message: False
        self.outbox: list[Callable[[], None]] | None = None
        self.commands: list[str] = []
        self.receivers: dict[bytes, Callable[[bytes], None]] = {}
        self._scripts: set[str] = set()

    def hold(self) -> None:
        """Let replies wait from now on."""
        self.outbox = []

    def let_go(self) -> None:
        """Deliver the replies that wait, and all later ones at once."""
        waiting, self.outbox = self.outbox or [], None
        for deliver in waiting:
            deliver()

    def keys(self, kind: str = "e") -> list[bytes]:
        """Return the keys in these names, those of entries unless told otherwise."""
        return [bytes.fromhex(name.rpartition(b":")[2].decode()) for name in self.names(kind)]

    def names(self, kind: str) -> list[bytes]:
        """Return the names of all entries ("e"), leases ("l"), aliases ("a") or records ("v")."""
        return [name for name in self.values if f":{kind}:".encode() in name]

    def run(self, words: Sequence[bytes]) -> object:
        """Run one command; an exception is an error reply."""
        command = words[0].decode()
        self.commands.append(command)
        if command in self.refusals:
            return StoreRefused(self.refusals[command])
        match words:
            case [b"GET", name]:
                return self.values.get(name)
            case [b"MGET", *names]:
                return [self.values.get(name) for name in names]
            case [b"SET", name, value, *options]:
                if b"NX" in options and name in self.values:
                    return None
                self.values[name] = value
                return b"OK"
            case [b"UNLINK", name]:
                return int(self.values.pop(name, None) is not None)
            case [b"PUBLISH", channel, message]:
                return self._publish(channel, message)
            case [b"EVALSHA", digest, count, *rest]:
                if digest.decode() not in self._scripts:
                    return StoreRefused("NOSCRIPT")
                return self._script(rest[: int(count)], rest[int(count) :])
            case [b"EVAL", source, count, *rest]:
                self._scripts.add(hashlib.sha1(source, usedforsecurity=False).hexdigest())
                return self._script(rest[: int(count)], rest[int(count) :])
        raise AssertionError(f"unknown command {words[0]!r}")

    def _publish(self, channel: bytes, message: bytes) -> int:
        receiver = self.receivers.get(channel)
        if receiver is None or self.losing(channel, message):
            return 0
        asyncio.get_running_loop().call_soon(receiver, message)
        return 1

    def _script(self, names: Sequence[bytes], args: Sequence[bytes]) -> object:
        """Do what the script with these names and arguments does; told by their number."""
        values = self.values
        match list(names), list(args):
            case [entry, alias], [prefix]:
                return values.get(entry) or self._followed(alias, prefix)
            case [entry, alias, lease, *record], [token, raw, _, *fields] if b":a:" in alias:
                written = self._written(entry, lease, token, raw)
                if written == 1:
                    values.pop(alias, None)
                if written == 1 and record:
                    values[record[0]] = b"".join(fields)
                return written
            case [alias, lease, target], [token, raw] if b":a:" in alias:
                return self._written(alias, lease, token, raw if target in values else None)
            case [entry, lease, *aliases], [token, _, *prefix]:
                if entry in values:
                    return values[entry]
                if aliases and (found := self._followed(aliases[0], prefix[0])):
                    return found
                if lease in values:
                    return [values[lease]]
                values[lease] = token
                return 1
            case [name], [token, _]:
                return int(values.get(name) == token)
            case [name], [token] if b":l:" in name:
                if values.get(name) != token:
                    return 0
                del values[name]
                return 1
            case [name], [_]:
                return int(values.pop(name, None) is not None)
        raise AssertionError("unknown script")

    def _followed(self, alias: bytes, prefix: bytes) -> list[bytes] | None:
        raw = self.values.get(alias)
        if raw is None:
            return None
        target = self.values.get(prefix + raw[4:68])
        if target is None:
            del self.values[alias]
            return None
        return [raw, target]

    def _written(self, name: bytes, lease: bytes, token: bytes, raw: bytes | None) -> object:
        if token and self.values.get(lease) != token:
            return 0
        if token:
            del self.values[lease]
        if raw is None:
            return 0
        if "SET" in self.refusals:
            return StoreRefused(self.refusals["SET"])
        self.values[name] = raw
        return 1


class FakeLink(RedisLink):
    """A worker's link to the fake Redis."""

    def __init__(self, redis: FakeRedis) -> None:
        super().__init__("redis://redis.invalid", deadline_s=1)
        self._redis = redis
        self._channel = b""

    @property
    def is_up(self) -> bool:
        """Whether commands are sent now."""
        return not self._redis.is_down

    def execute(self, *args: bytes | str | int) -> "asyncio.Future[Any]":
        """Run a command; its reply comes in a later turn of the loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        redis = self._redis
        if redis.is_down:
            future.set_exception(StoreUnavailable("down"))
            future.exception()
            return future
        words = [a if isinstance(a, bytes) else str(a).encode() for a in args]
        reply = redis.run(words)

        def deliver() -> None:
            if future.done():
                return
            if isinstance(reply, Exception):
                future.set_exception(reply)
                future.exception()
            else:
                future.set_result(reply)

        if redis.outbox is None:
            loop.call_soon(deliver)
        else:
            redis.outbox.append(deliver)
        return future

    def subscribe(self, channel: bytes, on_message: Callable[[bytes], None]) -> None:
        """Listen on `channel`."""
        self._channel = channel
        self._redis.receivers[channel] = on_message

    def die(self) -> None:
        """Listen no more, like a worker that was killed."""
        self._redis.receivers.pop(self._channel, None)


# The embedding process.

FINGERPRINT: Final = "f" * 32
VECTOR: Final = b"\0\0\x80\x3f"


class FakeEmbeddings:
    """Finds for each text what a test says.

    Attributes:
        matches: What is near every text, best first.
        refused: Why no text has a vector.
        decided: What a budget decides of each look-up that has one.
        error: Raised in place of an answer.
        gate: Waited for before each answer, as long as there is time.
        asked: The look-ups that came.
        added: The keys it was told were stored.
        removed: The keys it was told are gone.
    """

    def __init__(self, *matches: Neighbour) -> None:
        self.matches = matches
        self.refused: str | None = None
        self.decided: Decided | None = None
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.asked: list[LookUp] = []
        self.added: list[bytes] = []
        self.removed: list[bytes] = []

    async def look_up(self, look_up: LookUp, until: float) -> Found:
        """Return what is near a text."""
        self.asked.append(look_up)
        if self.gate is not None:
            try:
                async with asyncio.timeout_at(until):
                    await self.gate.wait()
            except TimeoutError as error:
                raise EmbeddingsUnavailable("deadline", "the gate is shut") from error
        if self.error is not None:
            raise self.error
        if self.refused is not None:
            return Found((), FINGERPRINT, self.refused, b"")
        decided = self.decided if look_up.budgeted is not None else None
        return Found(self.matches, FINGERPRINT, None, VECTOR, decided)

    def add_soon(self, keys: Sequence[bytes]) -> None:
        """Note keys that were stored."""
        self.added += keys

    def remove_soon(self, keys: Sequence[bytes]) -> None:
        """Note keys that are gone."""
        self.removed += keys


# The client.


@dataclass
class Call:
    """One request of a client, and what has come back so far.

    Attributes:
        status: 0 until the head is here.
        headers: The answer's fields.
        body: What came of its content.
        is_ended: Whether the end of the content was sent.
        reads: Cleared, the client reads no more: sending waits.
    """

    status: int = 0
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    is_ended: bool = False
    reads: asyncio.Event = field(default_factory=asyncio.Event)
    _left: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _task: "asyncio.Task[None] | None" = None

    def all(self, name: bytes) -> list[bytes]:
        """Return every value of a header field."""
        return [value for key, value in self.headers if key == name]

    def one(self, name: bytes) -> bytes:
        """Return the only value of a header field."""
        (value,) = self.all(name)
        return value

    @property
    def cache_status(self) -> str:
        """What `Cache-Status` says."""
        return self.one(b"cache-status").decode()

    @property
    def json(self) -> Any:
        """The content as JSON."""
        return json.loads(self.body)

    @property
    def error_code(self) -> str:
        """The code in an error of ours."""
        code: str = self.json["error"]["code"]
        return code

    @property
    def is_done(self) -> bool:
        """Whether the server is done with the request."""
        return self._task is not None and self._task.done()

    def leave(self) -> None:
        """Close the connection."""
        self._left.set()
        self.reads.set()

    async def until(self, is_so: Callable[["Call"], bool]) -> None:
        """Wait until `is_so` holds; what does not come in `PATIENCE_S` never will."""
        async with asyncio.timeout(PATIENCE_S):
            while not is_so(self):
                self._changed.clear()
                await self._changed.wait()

    async def done(self) -> "Call":
        """Wait until the server is done."""
        assert self._task is not None
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.shield(self._task)
        return self

    def start(
        self, app: App, scope: dict[str, Any], parts: Iterable[bytes | asyncio.Event]
    ) -> None:
        """Send a request."""
        self.reads.set()
        self._task = asyncio.get_running_loop().create_task(self._run(app, scope, parts))

    async def _run(
        self, app: App, scope: dict[str, Any], parts: Iterable[bytes | asyncio.Event]
    ) -> None:
        unsent = iter([*parts, None])

        async def receive() -> dict[str, Any]:
            for part in unsent:
                if isinstance(part, asyncio.Event):
                    await _first_of(part, self._left)
                elif self._left.is_set():
                    break
                elif part is None:
                    return {"type": "http.request", "body": b"", "more_body": False}
                else:
                    return {"type": "http.request", "body": part, "more_body": True}
            if not self.is_ended:
                await self._left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Mapping[str, Any]) -> None:
            # As uvicorn does it: what is sent to a client that has left goes nowhere.
            await self.reads.wait()
            if self._left.is_set():
                return
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.headers = list(message["headers"])
            else:
                assert self.status, "content before the head"
                assert not self.is_ended, "content after the end"
                self.body += message["body"]
                self.is_ended = not message.get("more_body", False)
            self._changed.set()

        try:
            await app(scope, receive, send)
        finally:
            self._changed.set()


async def _first_of(*events: asyncio.Event) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def scope_of(
    method: str = "POST",
    path: str = "/v1/chat/completions",
    *,
    query: str = "",
    headers: Iterable[tuple[bytes, bytes]] = (),
    port: int = 8080,
) -> dict[str, Any]:
    """Return an ASGI scope."""
    return {
        "type": "http",
        "method": method,
        "raw_path": path.encode("latin-1"),
        "path": path,
        "query_string": query.encode("latin-1"),
        "headers": list(headers),
        "server": ("127.0.0.1", port),
    }


# A worker.

_names = itertools.count(1)


class Worker:
    """The parts of one worker, put together as `proxy.app` does it, around fakes."""

    def __init__(
        self,
        upstream: FakeUpstream,
        redis: FakeRedis | None = None,
        *,
        embeddings: FakeEmbeddings | None = None,
        clock: Clock | None = None,
        admin_port: int | None = None,
        routes: Sequence[Mapping[str, object]] = (),
        **sections: Mapping[str, object],
    ) -> None:
        unjittered = {"jitter": 0.0, **sections.pop("cache", {})}
        meant = {"mode": "off" if embeddings is None else "on", **sections.pop("semantic", {})}
        settings = Settings.model_validate(
            {"cache": unjittered, "semantic": meant, "routes": routes, **sections}
        )
        cache = settings.cache
        self.clock = clock or Clock()
        self.upstream = upstream
        self.redis = redis or FakeRedis()
        self.link = FakeLink(self.redis)
        self.metrics = Metrics()
        self.memory = MemoryStore[StoredAnswer](cache.l1_bytes, on_evict=self.metrics.evicted)
        store = RedisStore(
            self.link,
            "test",
            cache.max_entry_bytes,
            cache.max_entry_bytes + 65536,
            clock=self.clock,
            on_corrupt=self.metrics.found_corrupt,
        )
        self.owner = f"worker-{next(_names)}".encode()
        self.leases = Leases(self.link, "test", self.owner, 6.0)
        self.tiers = Tiers(self.memory, store, self.leases, self.metrics)
        self.semantic: SemanticTier = NoSemanticTier()
        if embeddings is not None:
            self.semantic = SemanticTier(
                embeddings,
                self.tiers,
                self.metrics,
                min_score=settings.semantic.min_score,
                deadline_s=5.0,
                check_share=settings.semantic.check_share,
                clock=self.clock,
            )
        self.flights = Flights(cache.max_entry_bytes)
        self.peers = Peers(self.link, "test", self.owner, self.flights, cache.max_entry_bytes)
        self.peers.start()
        self.fetcher = Fetcher(
            upstream=upstream,
            tiers=self.tiers,
            semantic=self.semantic,
            leases=self.leases,
            peers=self.peers,
            metrics=self.metrics,
            record_policy=RecordPolicy(
                finish_reasons=frozenset(cache.store_finish_reasons),
                store_refusals=cache.store_refusals,
                max_bytes=cache.max_entry_bytes,
            ),
            clock=self.clock,
        )
        self.forwarder = Forwarder(upstream, self.metrics)
        self.replies = Replies(
            self.tiers, self.metrics, cache.replay_interval_ms / 1000, clock=self.clock
        )
        self.boarding = Boarding(
            flights=self.flights,
            fetcher=self.fetcher,
            forwarder=self.forwarder,
            replies=self.replies,
            checks=TokenBudget(settings.semantic.check_tokens_per_hour, self.clock),
            clock=self.clock,
        )
        reader = Reader(Routes(settings), Tenants(b"x" * 32, {}), cache.key_headers)
        self.handler = Handler(
            reader=reader,
            tiers=self.tiers,
            semantic=self.semantic,
            boarding=self.boarding,
            forwarder=self.forwarder,
            replies=self.replies,
            fast_path=None,
            metrics=self.metrics,
            limits=Limits(
                settings.limits.body_bytes,
                settings.limits.json_depth,
                settings.cache.max_entry_bytes,
            ),
            clock=self.clock,
        )
        secret = settings.admin.token
        token = secret.get_secret_value() if secret is not None else None
        self.semantic_admin = SemanticAdmin(
            access=Access(token, is_local=True),
            reader=reader,
            semantic=self.semantic,
            tiers=self.tiers,
            redis=store,
            embeddings=None,
            has_budgets=False,
            body_bytes=settings.limits.body_bytes,
            json_depth=settings.limits.json_depth,
        )
        self.router = Router(
            handler=self.handler,
            forwarder=self.forwarder,
            operations=Operations(token, lambda: self.link.is_up, self.metrics),
            semantic_admin=self.semantic_admin,
            metrics=self.metrics,
            admin_port=admin_port,
            logs_requests=settings.log.requests,
        )

    def ask(
        self,
        body: bytes | Sequence[bytes | asyncio.Event] = b"",
        path: str = "/v1/chat/completions",
        *,
        method: str = "POST",
        query: str = "",
        headers: Mapping[str, str] | Sequence[tuple[bytes, bytes]] = {},
        port: int = 8080,
    ) -> Call:
        """Send a request without waiting for its answer."""
        fields = (
            [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            if isinstance(headers, Mapping)
            else list(headers)
        )
        parts = [body] if isinstance(body, bytes) else body
        call = Call()
        scope = scope_of(method, path, query=query, headers=fields, port=port)
        call.start(self.router.answer, scope, parts)
        return call

    async def get(self, *args: Any, **kwargs: Any) -> Call:
        """Send a request and wait for its answer's end; arguments as `ask` takes them."""
        return await self.ask(*args, **kwargs).done()

    def forget(self) -> None:
        """Empty this worker's memory."""
        self.memory.clear()


# Requests and answers.


def chat(prompt: str = "Hello", **fields: object) -> bytes:
    """Return the content of a chat request."""
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], **fields}
    return json.dumps(body).encode()


ASKED: Final = "How many people live in town?"
IN_OTHER_WORDS: Final = "What is the population of the town?"


async def learn(
    worker: "Worker", embeddings: FakeEmbeddings, score: float = 0.97, **fields: object
) -> bytes:
    """Let `worker` store the answer to ASKED, and have it found for all words; return its key."""
    before = worker.redis.keys()
    await worker.get(chat(ASKED, **fields))
    await settle()
    (key,) = set(worker.redis.keys()) - set(before)
    embeddings.matches = (Neighbour(key, score),)
    return key


def meant_status(worker: "Worker", ttl_s: int = 3600) -> str:
    """Return the `Cache-Status` of the hit by meaning that left the only alias."""
    (asked,) = worker.redis.keys("a")
    hit = f"recollect; hit; ttl={ttl_s}; detail=semantic; score=0.970"
    return f'{hit}; key="{asked.hex()}"'


def completion(text: str = "Hi", finish_reason: str = "stop") -> bytes:
    """Return a chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return json.dumps(
        {
            "id": "chatcmpl-upstream",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }
    ).encode()


def event(delta: Mapping[str, object], finish_reason: str | None = None) -> bytes:
    """Return one event of a streamed chat completion."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    chunk = {
        "id": "chatcmpl-upstream",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


DONE: Final = b"data: [DONE]\n\n"


def stream_of(*texts: str, finish_reason: str = "stop") -> list[bytes]:
    """Return the pieces of a streamed chat completion: one per text, then its end."""
    said = [event({"content": text}) for text in texts]
    return [event({"role": "assistant"}), *said, event({}, finish_reason), DONE]


def text_of(body: bytes) -> str:
    """Return what a streamed chat completion says."""
    chunks = [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: {")]
    return "".join(
        choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]
    )


def json_play(text: str = "Hi", **more: Any) -> Play:
    """Play a chat completion."""
    finish_reason = more.pop("finish_reason", "stop")
    return Play([completion(text, finish_reason)], **more)


def stream_play(pieces: Sequence[bytes | asyncio.Event | Exception], **more: Any) -> Play:
    """Play a stream of events."""
    return Play(pieces, content_type=b"text/event-stream", **more)
