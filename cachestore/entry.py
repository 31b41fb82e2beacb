"""Stored responses: their age, and their form as bytes.

A stored response is one complete answer of an upstream, together with what is
needed to decide whether it may be used again (RFC 9111 §3 and §4.2). What its
`head` and `body` mean is its owner's affair.

Nothing here reads a clock or touches the network: the caller passes `now`.
"""

import math
import struct
from dataclasses import dataclass
from hashlib import blake2b

from cachestore.compression import compressed, decompressed
from cachestore.errors import CorruptEntry, OtherKey

KEY_BYTES = 32

_MAGIC = b"RCL"
_FORMAT_VERSION = 1
_FLAG_ZSTD = 1
_CHECKSUM_BYTES = 16
# magic, format version, flags, key, stored_at, lifetime_s, keep_s, initial_age_s,
# bytes of head, bytes of body (both before compression)
_HEADER = struct.Struct(f">3sBB{KEY_BYTES}sddddQQ")


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One complete answer, when it was stored and how long it may be used.

    Attributes:
        key: What it answers, 32 bytes.
        stored_at: Unix seconds.
        lifetime_s: Freshness lifetime, counted from `stored_at - initial_age_s`.
        keep_s: How long past its lifetime it is kept for stale use.
        head: What its owner needs to replay it; opaque here.
        body: What it is about; opaque here.
        initial_age_s: Its age when it was stored (RFC 9111 §4.2.3).
    """

    key: bytes
    stored_at: float
    lifetime_s: float
    keep_s: float
    head: bytes
    body: bytes
    initial_age_s: float = 0.0

    def age_s(self, now: float) -> float:
        """Return the seconds since it was generated, never negative.

        A clock that was set back, or another host's that runs ahead, makes an
        entry as old as it was when it was stored, not younger.
        """
        return max(0.0, now - self.stored_at) + self.initial_age_s

    def is_fresh(self, now: float) -> bool:
        """Fresh means younger than the lifetime, not as old (RFC 9111 §4.2)."""
        return self.age_s(now) < self.lifetime_s

    def remaining_s(self, now: float) -> float:
        """Return how long it stays fresh; negative once it is stale."""
        return self.lifetime_s - self.age_s(now)

    def is_kept(self, now: float) -> bool:
        """Say whether a store still holds it, be it fresh or for stale use."""
        return self.remaining_s(now) + self.keep_s > 0

    @property
    def size_bytes(self) -> int:
        """What it holds, without Python's own overhead."""
        return len(self.key) + len(self.head) + len(self.body)


def encode(entry: StoredResponse, compress_above_bytes: int) -> bytes:
    """Return `entry` as bytes that `decode` reads back.

    Args:
        entry: Its times must be finite and, but for `stored_at`, not negative.
        compress_above_bytes: A head and body longer than this are compressed,
            if that makes them shorter.

    Raises:
        ValueError: the key has not 32 bytes, or a time is out of range.
    """
    if len(entry.key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(entry.key)}")
    if not _are_times_sound(entry):
        raise ValueError("times must be finite and, but for stored_at, not negative")
    payload = entry.head + entry.body
    flags = 0
    if len(payload) > compress_above_bytes:
        shorter = compressed(payload)
        if shorter is not None:
            payload, flags = shorter, _FLAG_ZSTD
    header = _HEADER.pack(
        _MAGIC,
        _FORMAT_VERSION,
        flags,
        entry.key,
        entry.stored_at,
        entry.lifetime_s,
        entry.keep_s,
        entry.initial_age_s,
        len(entry.head),
        len(entry.body),
    )
    unsigned = header + payload
    return unsigned + blake2b(unsigned, digest_size=_CHECKSUM_BYTES).digest()


def decode(raw: bytes, key: bytes, max_bytes: int) -> StoredResponse:
    """Return the stored response that `encode` made `raw` of.

    Args:
        raw: Any bytes; nothing in them is trusted or executed.
        key: What was asked for.
        max_bytes: The most bytes head and body may have together. Nothing
            larger is ever allocated, whatever `raw` says of itself.

    Raises:
        OtherKey: sound, but stored for another key.
        CorruptEntry: foreign, truncated, changed, too large, or of another
            format version.
    """
    if len(raw) < _HEADER.size + _CHECKSUM_BYTES:
        raise CorruptEntry("too short to be a stored response")
    magic, version, flags, own_key, *times, head_bytes, body_bytes = _HEADER.unpack_from(raw)
    if magic != _MAGIC:
        raise CorruptEntry("not a stored response")
    if version != _FORMAT_VERSION:
        raise CorruptEntry(f"format version {version}, not {_FORMAT_VERSION}")
    unsigned = memoryview(raw)[:-_CHECKSUM_BYTES]
    if blake2b(unsigned, digest_size=_CHECKSUM_BYTES).digest() != raw[-_CHECKSUM_BYTES:]:
        raise CorruptEntry("checksum differs")
    # A checksum is no signature: who may write to the store can make a right
    # one. So all that follows is checked as well.
    payload_bytes = head_bytes + body_bytes
    if payload_bytes > max_bytes:
        raise CorruptEntry(f"{payload_bytes} bytes, more than {max_bytes}")
    payload = bytes(unsigned[_HEADER.size :])
    if flags == _FLAG_ZSTD:
        payload = decompressed(payload, payload_bytes)
    elif flags:
        raise CorruptEntry(f"unknown flags {flags:#x}")
    if len(payload) != payload_bytes:
        raise CorruptEntry("length differs")
    entry = StoredResponse(
        own_key, times[0], times[1], times[2], payload[:head_bytes], payload[head_bytes:], times[3]
    )
    if not _are_times_sound(entry):
        raise CorruptEntry("times out of range")
    if own_key != key:
        raise OtherKey("stored for another key")
    return entry


def _are_times_sound(entry: StoredResponse) -> bool:
    return (
        math.isfinite(entry.stored_at)
        and 0 <= entry.lifetime_s < math.inf
        and 0 <= entry.keep_s < math.inf
        and 0 <= entry.initial_age_s < math.inf
    )
