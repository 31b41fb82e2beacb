"""Vector records as bytes: what is read back, and what is not believed."""

import struct
from hashlib import blake2b

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cachestore.errors import CorruptEntry, OtherKey
from cachestore.vector_record import (
    META_FIELD,
    MOST_TEXT_BYTES,
    TEXT_FIELD,
    Meaning,
    VectorRecord,
    decode_record,
    encode_record,
    encode_vector,
)

KEY = bytes(range(32))
OTHER_KEY = bytes(32)
PARTITION = b"p" * 32
EXPIRES_AT = 1_700_000_090.25
ENCODER = "5" * 32
OTHER_ENCODER = "6" * 32
VECTOR = struct.pack("<4f", 0.5, -0.5, 0.5, 0.5)
MEANING = Meaning(PARTITION, "How high is Mount Everest?", ENCODER, VECTOR)


def fields(
    meaning: Meaning = MEANING, *, key: bytes = KEY, expires_at: float = EXPIRES_AT
) -> dict[bytes, bytes]:
    """Return a record as Redis holds it."""
    flat = encode_record(key, expires_at, meaning)
    return dict(zip(flat[::2], flat[1::2], strict=True))


def signed(content: bytes, name: bytes = TEXT_FIELD, partition: bytes = PARTITION) -> bytes:
    """Return a field with a right checksum, as anyone who may write to Redis can make it."""
    whole = b"".join((KEY, partition, b"%d:" % len(name), name, content))
    return content + blake2b(whole, digest_size=16).digest()


def with_vector(held: dict[bytes, bytes], encoder: str = ENCODER) -> VectorRecord:
    name = encoder.encode()
    return decode_record(KEY, held[META_FIELD], name, held.get(name))


def with_text(held: dict[bytes, bytes]) -> VectorRecord:
    return decode_record(KEY, held[META_FIELD], TEXT_FIELD, held.get(TEXT_FIELD))


def test_record_is_read_with_its_vector_or_with_its_text() -> None:
    """Only what is wanted; the other is left empty."""
    held = fields()

    assert set(held) == {META_FIELD, TEXT_FIELD, ENCODER.encode()}
    assert with_vector(held) == VectorRecord(KEY, PARTITION, EXPIRES_AT, vector=VECTOR)
    assert with_text(held) == VectorRecord(KEY, PARTITION, EXPIRES_AT, text=MEANING.text)


def test_record_may_have_no_vector_or_several() -> None:
    """One field for each encoder; what is of another is never given out."""
    bare = fields(Meaning(PARTITION, "text"))
    assert set(bare) == {META_FIELD, TEXT_FIELD}
    assert with_vector(bare).vector == b""

    both = fields() | dict([encode_vector(KEY, PARTITION, OTHER_ENCODER, VECTOR[::-1])])
    assert with_vector(both).vector == VECTOR
    assert with_vector(both, OTHER_ENCODER).vector == VECTOR[::-1]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=3000))
def test_any_text_is_read_back(text: str) -> None:
    """Short or long, in any script, with NULs."""
    assert with_text(fields(Meaning(PARTITION, text))).text == text


@pytest.mark.parametrize(("length", "is_shorter"), [(512, False), (513, True)])
def test_long_text_is_compressed(length: int, is_shorter: bool) -> None:
    """Above 512 bytes it pays, below it would not."""
    held = fields(Meaning(PARTITION, "a" * length))[TEXT_FIELD]

    assert (len(held) < 100) is is_shorter


def test_long_text_that_cannot_be_made_shorter_is_kept_as_it_is() -> None:
    """Compression never makes it longer."""
    noise = "".join(
        chr(0x4E00 + int.from_bytes(blake2b(b"%d" % n).digest()[:2]) % 20_000) for n in range(250)
    )

    assert len(fields(Meaning(PARTITION, noise))[TEXT_FIELD]) <= len(noise.encode()) + 21
    assert with_text(fields(Meaning(PARTITION, noise))).text == noise


def test_longest_text_is_kept_and_a_longer_one_refused() -> None:
    """64 KiB in UTF-8."""
    longest = "é" * (MOST_TEXT_BYTES // 2)

    assert with_text(fields(Meaning(PARTITION, longest))).text == longest
    with pytest.raises(ValueError, match="at most"):
        fields(Meaning(PARTITION, longest + "a"))


@pytest.mark.parametrize(
    ("key", "expires_at", "meaning"),
    [
        (KEY[1:], EXPIRES_AT, MEANING),
        (KEY, float("nan"), MEANING),
        (KEY, float("inf"), MEANING),
        (KEY, EXPIRES_AT, Meaning(PARTITION[1:], "text")),
        (KEY, EXPIRES_AT, Meaning(PARTITION, "\ud800")),
        (KEY, EXPIRES_AT, Meaning(PARTITION, "text", "", VECTOR)),
        (KEY, EXPIRES_AT, Meaning(PARTITION, "text", "m", VECTOR)),
        (KEY, EXPIRES_AT, Meaning(PARTITION, "text", "t", VECTOR)),
        (KEY, EXPIRES_AT, Meaning(PARTITION, "text", ENCODER, VECTOR[1:])),
    ],
)
def test_what_is_no_record_is_not_written(key: bytes, expires_at: float, meaning: Meaning) -> None:
    """Lengths, a finite time, a text that is one, a vector whose encoder is named."""
    with pytest.raises(ValueError):  # noqa: PT011
        encode_record(key, expires_at, meaning)


@given(st.binary(max_size=200))
def test_foreign_bytes_are_no_record(garbage: bytes) -> None:
    """Whatever lies there, it is an error of ours or a missing vector, and nothing else."""
    with pytest.raises(CorruptEntry):
        decode_record(KEY, garbage, ENCODER.encode(), garbage)
    with pytest.raises(CorruptEntry):
        decode_record(KEY, fields()[META_FIELD], TEXT_FIELD, garbage)
    assert not decode_record(KEY, fields()[META_FIELD], ENCODER.encode(), garbage).vector


@pytest.mark.parametrize("name", [META_FIELD, TEXT_FIELD])
def test_every_changed_or_missing_byte_is_noticed(name: bytes) -> None:
    """In the head and in the text."""
    whole = fields()
    for at in range(len(whole[name])):
        raw = whole[name]
        flipped = raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :]
        for spoilt in (flipped, raw[:at]):
            with pytest.raises(CorruptEntry):
                with_text(whole | {name: spoilt})


def test_every_changed_or_missing_byte_of_a_vector_makes_it_missing() -> None:
    """It can be made again, so that the record is still good."""
    whole = fields()
    name = ENCODER.encode()
    for at in range(len(whole[name])):
        raw = whole[name]
        flipped = raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :]
        for spoilt in (flipped, raw[:at]):
            assert with_vector(whole | {name: spoilt}) == VectorRecord(KEY, PARTITION, EXPIRES_AT)


@pytest.mark.parametrize("vector", [b"", VECTOR[1:]], ids=["empty", "of no whole numbers"])
def test_vector_of_a_senseless_length_is_missing(vector: bytes) -> None:
    """Also with a right checksum. Its dimension and norm are for the index to judge."""
    name = ENCODER.encode()

    assert with_vector(fields() | {name: signed(vector, name)}).vector == b""


def test_record_of_another_entry_is_told_apart() -> None:
    """Copied by someone, or a reply to another command: the caller finds out."""
    with pytest.raises(OtherKey):
        with_vector(fields(key=OTHER_KEY))


def test_no_field_is_taken_for_another_records_or_another_fields() -> None:
    """Vector and text belong to key, partition and name; a copied field is none."""
    name, other_name = ENCODER.encode(), OTHER_ENCODER.encode()
    mine = fields()
    elsewhere = fields(Meaning(b"q" * 32, MEANING.text, ENCODER, VECTOR))
    of_another = fields(key=OTHER_KEY)

    for theirs in (elsewhere, of_another):
        assert with_vector(mine | {name: theirs[name]}).vector == b""
        with pytest.raises(CorruptEntry):
            with_text(mine | {TEXT_FIELD: theirs[TEXT_FIELD]})
    assert with_vector(mine | {other_name: mine[name]}, OTHER_ENCODER).vector == b""
    assert with_vector(mine | {name: mine[TEXT_FIELD]}).vector == b""
    with pytest.raises(CorruptEntry):
        with_text(mine | {META_FIELD: elsewhere[META_FIELD]})


def test_record_of_another_version_or_kind_is_corrupt() -> None:
    """Also with a right checksum."""
    meta = fields()[META_FIELD][:-16]
    endless = struct.pack(">d", float("inf"))
    for spoilt in (b"RCL" + meta[3:], meta[:3] + b"\x02" + meta[4:], meta[:-8] + endless):
        with pytest.raises(CorruptEntry):
            with_vector(fields() | {META_FIELD: signed(spoilt, META_FIELD)})


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        struct.pack(">BI", 0, 5) + b"text",
        struct.pack(">BI", 0, 3) + b"text",
        struct.pack(">BI", 2, 4) + b"text",
        struct.pack(">BI", 0, 1) + b"\xff",
        struct.pack(">BI", 1, 4) + b"text",
        struct.pack(">BI", 1, 4) + zstandard.compress(b"a" * 40),
        struct.pack(">BI", 1, MOST_TEXT_BYTES + 1) + zstandard.compress(bytes(MOST_TEXT_BYTES + 1)),
        struct.pack(">BI", 0, MOST_TEXT_BYTES + 1) + bytes(MOST_TEXT_BYTES + 1),
    ],
    ids=[
        *("empty", "cut", "longer", "unknown flag", "no UTF-8"),
        *("not compressed", "unpacks to more", "a bomb", "too long"),
    ],
)
def test_text_with_a_right_checksum_but_no_sense_is_corrupt(packed: bytes) -> None:
    """A checksum is no signature; nothing above 64 KiB is ever unpacked."""
    with pytest.raises(CorruptEntry):
        with_text(fields() | {TEXT_FIELD: signed(packed)})


def test_record_without_its_text_is_corrupt() -> None:
    """Where the text is wanted."""
    held = fields()
    del held[TEXT_FIELD]

    with pytest.raises(CorruptEntry):
        with_text(held)
    assert with_vector(held).vector == VECTOR
