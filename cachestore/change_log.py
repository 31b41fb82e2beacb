"""The log of changes: a stream in Redis that every index follows.

A message is a key, and means "look at this key": how things stand is in the vector record, not in
the message. So it is harmless to read messages twice or in another order.

The stream is trimmed. Whoever stands at a message that is no longer in it may have missed some,
and has to look at everything.
"""

import re
from dataclasses import dataclass
from typing import Any

from cachestore.entry import KEY_BYTES
from cachestore.errors import StoreRefused
from cachestore.redis_link import RedisLink
from cachestore.redis_script import RedisScript

MOST_MESSAGES = 100_000
"""Some 10 MB in Redis, and more changes than come during a rebuild."""

# For other scripts, which change a record and tell the log in one step. What is none of ours goes
# from the log's place; whoever follows then finds its position gone, and looks at everything.
TELL = b"""
local function tell(log, most, field, value)
    local told = redis.pcall('XADD', log, 'MAXLEN', '~', most, '*', field, value)
    if type(told) == 'table' and string.find(told.err, 'WRONGTYPE', 1, true) then
        redis.call('UNLINK', log)
        return redis.call('XADD', log, 'MAXLEN', '~', most, '*', field, value)
    end
    return told
end
"""
_MARK = TELL + b"return tell(KEYS[1], ARGV[1], 'm', '')"

_KEY_FIELD = b"k"
_POSITION = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
_PART_MAX = 2**64 - 1


@dataclass(frozen=True, slots=True)
class LoggedChanges:
    """Some messages of the log.

    Attributes:
        keys: Keys to look at, oldest first; may repeat.
        position: Where to go on.
        oldest_at: When the oldest of these messages was written, Unix seconds by Redis' clock;
            None if there was none.
    """

    keys: list[bytes]
    position: str
    oldest_at: float | None


def log_name(namespace: str) -> bytes:
    """Return the name of the stream."""
    return f"{namespace}:log".encode()


class ChangeLog:
    """The log, as those who follow it see it; written by whoever changes a record.

    All methods raise StoreUnavailable and StoreRefused like `RedisLink.execute`.
    """

    def __init__(
        self, link: RedisLink, namespace: str, *, most_messages: int = MOST_MESSAGES
    ) -> None:
        """Read and write through `link`.

        Args:
            link: Not this one's to start and close.
            namespace: What Recollect's keys in this Redis begin with.
            most_messages: `mark` trims the log to about as many.
        """
        self._link = link
        self._name = log_name(namespace)
        self._most_messages = most_messages
        self._mark = RedisScript(link, _MARK)

    async def mark(self) -> str:
        """Write a message that means nothing, and return its position."""
        reply = await self._mark.reply((self._name,), (self._most_messages,))
        if not isinstance(reply, bytes):
            raise self._link.distrust(reply)
        return reply.decode("ascii")

    async def read(self, after: str, most: int) -> LoggedChanges | None:
        """Return at most `most` messages behind the position `after`.

        None: the message at `after` is not in the log. It was trimmed, or Redis was emptied, and
        what was missed is unknown.
        """
        if not _is_position(after):
            return None
        # In one write, so that nothing is awaited between them, and the look at `after` second:
        # messages go from the old end, so if it is still there now, none behind it was missing
        # when they were read.
        reading = self._link.execute(b"XREAD", b"COUNT", most, b"STREAMS", self._name, after)
        looking = self._link.execute(b"XRANGE", self._name, after, after, b"COUNT", 1)
        try:
            reply, found = await reading, await looking
        except StoreRefused as error:
            if error.code != "WRONGTYPE":
                raise
            # The next one who writes puts the log into its place again.
            return None
        if not isinstance(found, list):
            raise self._link.distrust(found)
        if not found:
            return None
        messages = self._messages(reply)
        if not messages:
            return LoggedChanges([], after, None)
        positions = [position.decode("ascii") for position, _ in messages]
        return LoggedChanges(
            keys=[fields[1] for _, fields in messages if _is_ours(fields)],
            position=positions[-1],
            oldest_at=int(positions[0].partition("-")[0]) / 1000,
        )

    def _messages(self, reply: object) -> list[Any]:
        match reply:
            case None:
                return []
            case dict() if list(reply) == [self._name]:
                messages: list[Any] = reply[self._name]
                return messages
        raise self._link.distrust(reply)


def _is_position(text: str) -> bool:
    parts = _POSITION.fullmatch(text)
    return parts is not None and all(int(part) <= _PART_MAX for part in parts.groups())


def _is_ours(fields: list[bytes]) -> bool:
    return len(fields) == 2 and fields[0] == _KEY_FIELD and len(fields[1]) == KEY_BYTES
