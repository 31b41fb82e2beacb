"""What the index in vector sets calls its keys in Redis, and the form of what lies under them.

Under `{namespace}:i:{fingerprint}` (which encoders there are, in `{namespace}:i`):

    :{partition}            a vector set, the partition's vectors under their keys
    :{partition}:layout     a hash, version → how the partition is divided; absent: it is not
    :{partition}:{tag}:N    a vector set, part N of a divided partition
    :at:{tag}               a hash, key → where its vector is and until when. This is the truth.
    :due:{tag}              a sorted set, every place a vector was put, by when it expires
    :partitions:{tag}       a set, the partitions there are
    :position:{tag}         what was saved last
    :sweep                  the stamp of the rebuild that was begun last

Those with a tag alone are sharded by hash tags that lie evenly over the slots, so that no node
carries all.
"""

import struct
from binascii import crc_hqx
from dataclasses import dataclass
from typing import NamedTuple

from embeddings.index.vector_index import KEY_BYTES, PARTITION_BYTES

SHARDS = 64
NO_STAMP = bytes(8)

_SLOTS = 16384
_PLACE = struct.Struct(f">{KEY_BYTES}s{PARTITION_BYTES}sI")
_LOCATION = struct.Struct(f">{PARTITION_BYTES}sdI{len(NO_STAMP)}s")


class Place(NamedTuple):
    """Where a vector was put; what `due` holds."""

    key: bytes
    partition: bytes
    part: int

    def pack(self) -> bytes:
        """Return it as it lies in `due`."""
        return _PLACE.pack(*self)

    @classmethod
    def unpack(cls, raw: bytes) -> "Place":
        """Read one back."""
        return cls(*_PLACE.unpack(raw))


@dataclass(frozen=True, slots=True)
class Location:
    """Where a key's vector is; what `at` holds.

    Attributes:
        part: Number of the part, 0 for the undivided set.
        stamp: The sweep in which it was added last.
    """

    partition: bytes
    expires_at: float
    part: int
    stamp: bytes

    def place(self, key: bytes) -> Place:
        """Return where `key`, located here, was put."""
        return Place(key, self.partition, self.part)

    def pack(self) -> bytes:
        """Return it as it lies in `at`."""
        return _LOCATION.pack(self.partition, self.expires_at, self.part, self.stamp)

    @classmethod
    def unpack(cls, raw: bytes | None) -> "Location | None":
        """Read one back; None too for what is none, which is then overwritten or forgotten."""
        if raw is None or len(raw) != _LOCATION.size:
            return None
        return cls(*_LOCATION.unpack(raw))


class KeyNames:
    """The names of one encoder's keys."""

    def __init__(self, namespace: str, fingerprint: str) -> None:
        """Name keys that begin with `namespace`, of the encoder with `fingerprint`."""
        self.encoders = f"{namespace}:i"
        self._prefix = f"{namespace}:i:{fingerprint}"
        self.sweep = f"{self._prefix}:sweep"

    def part(self, partition: bytes, part: int) -> str:
        """Return the vector set that is part `part` of a partition, 0 the undivided one."""
        whole = f"{self._prefix}:{partition.hex()}"
        # Neighbouring numbers are far apart in slots: 23 and 64 have no common divisor.
        return f"{whole}:{_TAGS[(partition[0] + 23 * part) % SHARDS]}:{part}" if part else whole

    def layout(self, partition: bytes) -> str:
        """Return the hash of a partition's layouts."""
        return f"{self._prefix}:{partition.hex()}:layout"

    def at(self, shard: int) -> str:
        """Return the hash of locations."""
        return f"{self._prefix}:at:{_TAGS[shard]}"

    def due(self, shard: int) -> str:
        """Return the sorted set of places."""
        return f"{self._prefix}:due:{_TAGS[shard]}"

    def partitions(self, shard: int) -> str:
        """Return the set of partitions."""
        return f"{self._prefix}:partitions:{_TAGS[shard]}"

    def position(self, shard: int) -> str:
        """Return what holds the position."""
        return f"{self._prefix}:position:{_TAGS[shard]}"


def shard_of(name: bytes) -> int:
    """Return the shard of a key or a partition."""
    return name[0] % SHARDS


def member_of(key: bytes) -> str:
    """Return what a key is called in a vector set."""
    return key.hex()


def key_of(member: bytes) -> bytes:
    """Return the key that is called so in a vector set."""
    return bytes.fromhex(member.decode())


def _even_tags() -> list[str]:
    """Return for each shard a hash tag whose slot lies in its share of the slots.

    A node that holds a few hundred slots in a row then has a shard, and when it loses its memory
    `load` notices.
    """
    tags: dict[int, str] = {}
    number = 0
    while len(tags) < SHARDS:
        # Redis Cluster's CRC16 is the XMODEM one.
        slot = crc_hqx(str(number).encode(), 0) % _SLOTS
        tags.setdefault(slot * SHARDS // _SLOTS, f"{{{number}}}")
        number += 1
    return [tags[shard] for shard in range(SHARDS)]


_TAGS = _even_tags()
