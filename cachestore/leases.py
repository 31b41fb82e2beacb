"""Single flight across processes and hosts: who may fetch an answer now.

A lease is a key in Redis that holds its leader's token and ends by itself, so
that a leader that died holds nobody up for longer than the lease's time.

A lease is no lock: its leader may be paused past its end and come back to find
another leads. Hence the token: what a leader stores is stored only while the
lease still holds its token, and Redis compares and stores in one step
(`RedisStore.put`; "fencing" in Kleppmann, How to do distributed locking, 2016).
"""

from dataclasses import dataclass
from itertools import count

from cachestore.redis_link import RedisLink
from cachestore.redis_script import RedisScript

RELEASE = b"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""
_RENEW = b"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to fetch and store one answer, for a while.

    Attributes:
        key: The stored response it is about, 32 bytes.
        token: Never given out twice; Redis compares it before it stores.
        ttl_s: How long it lasts from when it was acquired or renewed.
    """

    key: bytes
    token: bytes
    ttl_s: float

    @property
    def ttl_ms(self) -> int:
        """`ttl_s` as Redis counts it."""
        return max(1, round(self.ttl_s * 1000))

    @property
    def owner(self) -> bytes:
        """The name of the process that holds it."""
        return self.token.rpartition(b":")[0]


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody else has the lease. Whoever releases it takes it away from them."""

    lease: Lease


def lease_key(namespace: str, key: bytes) -> bytes:
    """Return the name under which Redis holds the lease for `key`."""
    return f"{namespace}:l:{key.hex()}".encode()


class Leases:
    """The leases one worker process takes and gives back.

    All methods raise StoreUnavailable and StoreRefused like `RedisLink.execute`.
    """

    def __init__(self, link: RedisLink, namespace: str, owner: bytes, ttl_s: float) -> None:
        """Take leases as `owner`, each for `ttl_s`.

        Args:
            link: Shared with the store.
            namespace: What Recollect's keys in this Redis begin with.
            owner: Unique to this process, on all hosts and for all time.
            ttl_s: At least 0.001. A leader renews well before it is over.
        """
        self._link = link
        self._namespace = namespace
        self._owner = owner
        self._ttl_s = ttl_s
        self._sequence = count(1)
        self._release = RedisScript(link, RELEASE)
        self._renew = RedisScript(link, _RENEW)

    async def acquire(self, draft: Lease) -> Lease | None:
        """Put `draft` in force; None if someone holds the lease for its key.

        After StoreUnavailable it may have been taken all the same; it then
        ends by itself.
        """
        name = lease_key(self._namespace, draft.key)
        reply = await self._link.execute(b"SET", name, draft.token, b"NX", b"PX", draft.ttl_ms)
        if reply is None:
            return None
        if reply != b"OK":
            raise self._link.distrust(reply)
        return draft

    def draft(self, key: bytes) -> Lease:
        """Return a lease with a token of its own that nobody has been told of yet."""
        return Lease(key, b"%s:%d" % (self._owner, next(self._sequence)), self._ttl_s)

    async def held(self, key: bytes) -> Held | None:
        """Return the lease that someone holds for `key`; None if nobody does."""
        token = await self._link.execute(b"GET", lease_key(self._namespace, key))
        if token is None:
            return None
        if not isinstance(token, bytes):
            raise self._link.distrust(token)
        return Held(Lease(key, token, self._ttl_s))

    async def renew(self, lease: Lease) -> bool:
        """Let `lease` last its whole time again; False if it is lost."""
        name = lease_key(self._namespace, lease.key)
        return await self._renew.run((name,), (lease.token, lease.ttl_ms)) == 1

    async def release(self, lease: Lease) -> None:
        """Give `lease` back, if it is still held."""
        await self._release.run((lease_key(self._namespace, lease.key),), (lease.token,))
