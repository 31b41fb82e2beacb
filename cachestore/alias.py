"""Aliases: the key of a stored response that also answers another question, as bytes.

Nothing here reads a clock or touches the network.
"""

from hashlib import blake2b

from cachestore.entry import KEY_BYTES
from cachestore.errors import CorruptEntry

# A script in Redis finds the target's name by counting bytes (`store_scripts`).
_MAGIC = b"RCA1"
_CHECKSUM_BYTES = 16
_ALIAS_BYTES = len(_MAGIC) + 2 * KEY_BYTES + _CHECKSUM_BYTES


def encode_alias(key: bytes, target: bytes) -> bytes:
    """Return what lies under `key` where the stored response under `target` answers it too."""
    unsigned = _MAGIC + target.hex().encode()
    return unsigned + _checksum(key, unsigned)


def decode_alias(raw: bytes, key: bytes) -> bytes:
    """Return the key of the stored response that answers `key`.

    Args:
        raw: Any bytes.
        key: What was asked for.

    Raises:
        CorruptEntry: Foreign, cut, changed, or another key's.
    """
    unsigned = raw[:-_CHECKSUM_BYTES]
    if len(raw) != _ALIAS_BYTES or not raw.startswith(_MAGIC):
        raise CorruptEntry("not an alias")
    if raw[-_CHECKSUM_BYTES:] != _checksum(key, unsigned):
        raise CorruptEntry("checksum differs")
    try:
        return bytes.fromhex(unsigned.removeprefix(_MAGIC).decode("ascii"))
    except ValueError as error:
        raise CorruptEntry("not the alias of a key") from error


def _checksum(key: bytes, unsigned: bytes) -> bytes:
    return blake2b(key + unsigned, digest_size=_CHECKSUM_BYTES).digest()
