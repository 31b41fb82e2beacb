"""What all hosts have learned of their answers: a stream in Redis; and pairs never to be served.

A message is a route's name and a few bytes that whoever reads them understands; not this module.
Everyone who reads all of them in their order comes to know the same. The stream is trimmed: what is
older than the last messages is forgotten. Forbidden pairs are not.
"""

from collections.abc import Sequence

from cachestore.errors import StoreRefused
from cachestore.redis_link import RedisLink

MOST_SAMPLES = 20_000
"""Some 3 MB in Redis."""
BEGINNING = "0-0"

_ROUTE, _SAMPLE, _FORBIDDEN = b"r", b"s", b"f"


class SampleLog:
    """The log, for those who write and follow it.

    All methods raise StoreUnavailable and StoreRefused like `RedisLink.execute`.
    """

    def __init__(
        self, link: RedisLink, namespace: str, *, most_samples: int = MOST_SAMPLES
    ) -> None:
        """Read and write through `link`.

        Args:
            link: Not this one's to start and close.
            namespace: What Recollect's keys in this Redis begin with.
            most_samples: The log is trimmed to about as many.
        """
        self._link = link
        self._name = f"{namespace}:samples".encode()
        self._forbidden = f"{namespace}:forbidden".encode()
        self._most_samples = most_samples

    async def add(self, route: str, sample: bytes) -> None:
        """Write down what was learned on `route`."""
        await self._append(_ROUTE, route.encode(), _SAMPLE, sample)

    async def forbid(self, pair: bytes) -> None:
        """Write down a pair for good, and let those who follow know at once."""
        await self._link.execute(b"SADD", self._forbidden, pair)
        await self._append(_FORBIDDEN, pair)

    async def forbidden(self) -> frozenset[bytes]:
        """Return all pairs that were ever forbidden."""
        reply = await self._link.execute(b"SMEMBERS", self._forbidden)
        if not isinstance(reply, set | list):
            raise self._link.distrust(reply)
        return frozenset(reply)

    async def read(self, after: str, most: int) -> tuple[list[tuple[str, bytes]], list[bytes], str]:
        """Return what was written behind `after`: samples by route, forbidden pairs, the position.

        At most `most` messages; those that are none of ours are passed over.
        """
        try:
            reply = await self._link.execute(
                b"XREAD", b"COUNT", most, b"STREAMS", self._name, after
            )
        except StoreRefused as error:
            if error.code != "WRONGTYPE":
                raise
            await self._link.execute(b"UNLINK", self._name)
            return [], [], BEGINNING
        match reply:
            case None:
                return [], [], after
            case dict() if list(reply) == [self._name]:
                messages = reply[self._name]
            case _:
                raise self._link.distrust(reply)
        samples: list[tuple[str, bytes]] = []
        pairs: list[bytes] = []
        for _, fields in messages:
            match fields:
                case [b"r", bytes(route), b"s", bytes(sample)]:
                    samples.append((route.decode("utf-8", "replace"), sample))
                case [b"f", bytes(pair)]:
                    pairs.append(pair)
        return samples, pairs, messages[-1][0].decode("ascii")

    async def _append(self, *fields: bytes) -> None:
        trimmed: Sequence[bytes | int] = (b"MAXLEN", b"~", self._most_samples, b"*")
        await self._link.execute(b"XADD", self._name, *trimmed, *fields)
