"""What a stored response was the answer to: its vector record, and its form as bytes.

A record is a hash in Redis, so that only what is wanted is read of it: who it is about in one
field, the text that was asked in another, what was answered in a third, and one field for each
encoder whose vector of that text is known. Each field has a checksum of its own, over the key and
the field's name too, so that no field is taken for another's, or for that of another entry.

Nothing here reads a clock or touches the network.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from cachestore.compression import compressed, decompressed
from cachestore.entry import KEY_BYTES
from cachestore.errors import CorruptEntry, OtherKey

PARTITION_BYTES = 32
MOST_TEXT_BYTES = 64 * 1024
"""The longest text a record holds, in UTF-8."""

META_FIELD = b"m"
TEXT_FIELD = b"t"
ANSWER_FIELD = b"a"
GROUP_FIELD = b"g"
"""The group that an embedding process has found the answer to belong to, if not its own."""
GROUP_BYTES = 16
MOST_ANSWER_BYTES = 4096
"""Of a longer answer only the beginning lies in the record."""

_MAGIC = b"RCV"
_FORMAT_VERSION = 1
_FLAG_ZSTD = 1
_CHECKSUM_BYTES = 16
_COMPRESS_ABOVE_BYTES = 512
_FLOAT_BYTES = 4
# magic, format version, key, partition, expires_at
_META = struct.Struct(f">3sB{KEY_BYTES}s{PARTITION_BYTES}sd")
# flags, bytes of text (before compression)
_TEXT_HEADER = struct.Struct(">BI")
# stored_at, own group
_ANSWER = struct.Struct(f">d{GROUP_BYTES}s")
GROUP_OFFSET = 8
"""Where the own group of an answer begins in its field, in bytes."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What was asked, for the same question in other words to be compared with.

    Attributes:
        partition: All that must be equal, 32 bytes.
        text: What is compared by meaning; at most 64 KiB in UTF-8.
        fingerprint: The encoder that made `vector`; empty if none has yet.
        vector: The text's vector, float32 little-endian; empty if there is none yet.
        answer: What was answered.
    """

    partition: bytes
    text: str
    fingerprint: str = ""
    vector: bytes = b""
    answer: "Answer | None" = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered, as far as answers are compared.

    Attributes:
        group: Equal for answers of the same words, 16 bytes.
        stored_at: Unix seconds, by the writer's clock.
        text: Its words, or their beginning; empty if it is not known.
    """

    group: bytes
    stored_at: float
    text: str = ""


@dataclass(frozen=True, slots=True)
class VectorRecord:
    """What was read of a record: its vector, or where that is missing its text.

    Attributes:
        key: The stored response's key, 32 bytes.
        partition: 32 bytes.
        expires_at: Unix seconds, by the writer's clock.
        vector: Of the encoder that was asked for, float32 little-endian; empty if there is none.
            Its length and its norm are the reader's to check.
        text: What was asked; empty if it was not read.
    """

    key: bytes
    partition: bytes
    expires_at: float
    vector: bytes = b""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Witness:
    """A whole record: a question, and what is known of its answer.

    Attributes:
        key: The stored response's key, 32 bytes.
        partition: 32 bytes.
        expires_at: Unix seconds, by the writer's clock.
        text: What was asked.
        vector: Of the encoder that was asked for, float32 little-endian.
        answer: What was answered.
        group: The group that its answer was found to belong to; else the answer's own.
    """

    key: bytes
    partition: bytes
    expires_at: float
    text: str
    vector: bytes
    answer: Answer
    group: bytes


def encode_record(key: bytes, expires_at: float, meaning: Meaning) -> list[bytes]:
    """Return the fields of a record, each one's name before its content.

    Raises:
        ValueError: A length is not as it should be, the time is not finite, or the text cannot be
            written as UTF-8.
    """
    partition = meaning.partition
    if len(key) != KEY_BYTES or len(partition) != PARTITION_BYTES or not math.isfinite(expires_at):
        raise ValueError("a record has a key, a partition of 32 bytes and a finite end")
    packed = _packed(meaning.text.encode())
    meta = _META.pack(_MAGIC, _FORMAT_VERSION, key, partition, expires_at)
    fields = [
        META_FIELD,
        meta + _checksum(key, partition, META_FIELD, meta),
        TEXT_FIELD,
        packed + _checksum(key, partition, TEXT_FIELD, packed),
    ]
    if meaning.answer is not None:
        answer = meaning.answer
        if len(answer.group) != GROUP_BYTES or not math.isfinite(answer.stored_at):
            raise ValueError("an answer has a group of 16 bytes and a finite time")
        beginning = answer.text.encode()[:MOST_ANSWER_BYTES].decode("utf-8", "ignore").encode()
        content = _ANSWER.pack(answer.stored_at, answer.group) + _packed(beginning)
        fields += [ANSWER_FIELD, content + _checksum(key, partition, ANSWER_FIELD, content)]
    if meaning.vector:
        fields += encode_vector(key, partition, meaning.fingerprint, meaning.vector)
    return fields


def encode_vector(key: bytes, partition: bytes, fingerprint: str, vector: bytes) -> list[bytes]:
    """Return the field of one encoder's vector: its name, its content.

    Raises:
        ValueError: The vector is not of whole numbers of 4 bytes, or its encoder is not named.
    """
    name = fingerprint.encode()
    if (
        name in (b"", META_FIELD, TEXT_FIELD, ANSWER_FIELD, GROUP_FIELD)
        or not vector
        or len(vector) % _FLOAT_BYTES
    ):
        raise ValueError("a vector has the fingerprint of its encoder, and 4 bytes per number")
    return [name, vector + _checksum(key, partition, name, vector)]


def encode_group(key: bytes, partition: bytes, group: bytes) -> list[bytes]:
    """Return the field that says which group an answer belongs to: its name, its content.

    Raises:
        ValueError: The group is not of 16 bytes.
    """
    if len(group) != GROUP_BYTES:
        raise ValueError(f"a group has {GROUP_BYTES} bytes")
    return [GROUP_FIELD, group + _checksum(key, partition, GROUP_FIELD, group)]


def decode_witness(key: bytes, fingerprint: str, fields: Sequence[bytes | None]) -> Witness | None:
    """Return a whole record; None where it lacks what a witness needs.

    Args:
        key: What was asked for.
        fingerprint: The encoder whose vector is wanted.
        fields: What lay in META_FIELD, TEXT_FIELD, ANSWER_FIELD, GROUP_FIELD and under the
            encoder's fingerprint; any bytes, or None.

    Raises:
        CorruptEntry: Foreign, cut, changed, or of another format version.
    """
    meta, text, answer, group, vector = fields
    if meta is None or text is None or answer is None or vector is None:
        return None
    record = _decode_meta(meta, key)
    content = _checked(key, record.partition, ANSWER_FIELD, answer)
    numbers = _checked(key, record.partition, fingerprint.encode(), vector)
    if content is None or len(content) < _ANSWER.size:
        return None
    if not numbers or len(numbers) % _FLOAT_BYTES:
        return None
    stored_at, own_group = _ANSWER.unpack_from(content)
    if not math.isfinite(stored_at):
        return None
    joined = None if group is None else _checked(key, record.partition, GROUP_FIELD, group)
    if joined is None or len(joined) != GROUP_BYTES:
        joined = own_group
    said = Answer(own_group, stored_at, _decode_text(content[_ANSWER.size :]))
    asked = _decode_text(_checked(key, record.partition, TEXT_FIELD, text))
    return Witness(key, record.partition, record.expires_at, asked, numbers, said, joined)


def decode_record(key: bytes, meta: bytes, name: bytes, content: bytes | None) -> VectorRecord:
    """Return what was read of a record: who it is about, and one more field.

    A vector that is not whole counts as none, as it can be made again of the text.

    Args:
        key: What was asked for.
        meta: What lay in META_FIELD; any bytes.
        name: The other field: TEXT_FIELD, or an encoder's fingerprint.
        content: What lay there; any bytes, or None.

    Raises:
        OtherKey: Sound, but about another entry.
        CorruptEntry: Foreign, cut, changed, too long, or of another format version.
    """
    record = _decode_meta(meta, key)
    whole = None if content is None else _checked(key, record.partition, name, content)
    if name == TEXT_FIELD:
        return replace(record, text=_decode_text(whole))
    if not whole or len(whole) % _FLOAT_BYTES:
        return record
    return replace(record, vector=whole)


def _decode_meta(raw: bytes, key: bytes) -> VectorRecord:
    if len(raw) != _META.size + _CHECKSUM_BYTES:
        raise CorruptEntry("not the length of a vector record")
    magic, version, own_key, partition, expires_at = _META.unpack_from(raw)
    if magic != _MAGIC:
        raise CorruptEntry("not a vector record")
    if version != _FORMAT_VERSION:
        raise CorruptEntry(f"format version {version}, not {_FORMAT_VERSION}")
    if _checked(own_key, partition, META_FIELD, raw) is None:
        raise CorruptEntry("checksum differs")
    if not math.isfinite(expires_at):
        raise CorruptEntry("time out of range")
    if own_key != key:
        raise OtherKey("about another entry")
    return VectorRecord(key, partition, expires_at)


def _packed(text: bytes) -> bytes:
    if len(text) > MOST_TEXT_BYTES:
        raise ValueError(f"a text has at most {MOST_TEXT_BYTES} bytes, not {len(text)}")
    shorter = compressed(text) if len(text) > _COMPRESS_ABOVE_BYTES else None
    if shorter is None:
        return _TEXT_HEADER.pack(0, len(text)) + text
    return _TEXT_HEADER.pack(_FLAG_ZSTD, len(text)) + shorter


def _decode_text(packed: bytes | None) -> str:
    if packed is None or len(packed) < _TEXT_HEADER.size:
        raise CorruptEntry("no text, or not this entry's")
    # A checksum is no signature: all that follows is checked as well.
    flags, text_bytes = _TEXT_HEADER.unpack_from(packed)
    if text_bytes > MOST_TEXT_BYTES:
        raise CorruptEntry(f"a text of {text_bytes} bytes, more than {MOST_TEXT_BYTES}")
    content = packed[_TEXT_HEADER.size :]
    if flags == _FLAG_ZSTD:
        content = decompressed(content, text_bytes)
    elif flags:
        raise CorruptEntry(f"unknown flags {flags:#x}")
    if len(content) != text_bytes:
        raise CorruptEntry("length of the text differs")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise CorruptEntry("the text is not UTF-8") from error


def _checked(key: bytes, partition: bytes, name: bytes, raw: bytes) -> bytes | None:
    """Return a field's content without its checksum; None if that is another."""
    content = raw[:-_CHECKSUM_BYTES]
    is_whole = raw[-_CHECKSUM_BYTES:] == _checksum(key, partition, name, content)
    return content if is_whole else None


def _checksum(key: bytes, partition: bytes, name: bytes, content: bytes) -> bytes:
    # With the name's length, so that no two different fields are the same bytes in a row.
    whole = b"".join((key, partition, b"%d:" % len(name), name, content))
    return blake2b(whole, digest_size=_CHECKSUM_BYTES).digest()
