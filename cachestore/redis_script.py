"""Small programs that Redis runs in one step (Lua, EVALSHA)."""

from hashlib import sha1

from cachestore.errors import StoreRefused
from cachestore.redis_link import RedisLink


class RedisScript:
    """A Lua script; sent once, then named by its hash."""

    def __init__(self, link: RedisLink, source: bytes) -> None:
        self._link = link
        self._source = source
        self._is_known = False
        # Redis' own name for it, not a safeguard.
        self._hash = sha1(source, usedforsecurity=False).hexdigest()

    async def run(self, keys: tuple[bytes, ...], args: tuple[bytes | int, ...]) -> int:
        """Run one that answers with a number; `keys` and `args` are its KEYS and ARGV.

        Raises:
            StoreUnavailable: not reached; it may or may not have run.
            StoreRefused: Redis answered with an error.
        """
        reply = await self.reply(keys, args)
        if not isinstance(reply, int):
            raise self._link.distrust(reply)
        return reply

    async def reply(self, keys: tuple[bytes, ...], args: tuple[bytes | int, ...]) -> object:
        """Run it and return whatever it answers. Raises what `run` does."""
        # In full the first time, not after a refusal: commands must take effect in the order
        # in which they were given, and a second try would come after its successors.
        if self._is_known:
            try:
                return await self._link.execute(b"EVALSHA", self._hash, len(keys), *keys, *args)
            except StoreRefused as error:
                if error.code != "NOSCRIPT":
                    raise
                # Redis was restarted.
        self._is_known = True
        return await self._link.execute(b"EVAL", self._source, len(keys), *keys, *args)
