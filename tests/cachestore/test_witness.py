"""Whole vector records as bytes: a question with its answer, and what of it is not believed."""

import contextlib
import math
import struct
from dataclasses import replace
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachestore.errors import CorruptEntry, OtherKey
from cachestore.vector_record import (
    ANSWER_FIELD,
    GROUP_FIELD,
    META_FIELD,
    MOST_ANSWER_BYTES,
    TEXT_FIELD,
    Answer,
    Meaning,
    Witness,
    decode_witness,
    encode_group,
    encode_record,
    encode_vector,
)

KEY, OTHER_KEY = bytes(range(32)), bytes(32)
PARTITION = b"p" * 32
EXPIRES_AT, STORED_AT = 1_700_000_090.25, 1_700_000_000.5
ENCODER = "5" * 32
VECTOR = struct.pack("<4f", 0.5, -0.5, 0.5, 0.5)
GROUP, OTHER_GROUP = b"g" * 16, b"o" * 16
ANSWER = Answer(GROUP, STORED_AT, "8,849 metres.")
MEANING = Meaning(PARTITION, "How high is Mount Everest?", ENCODER, VECTOR, ANSWER)
Fields = dict[bytes, bytes]


def fields(meaning: Meaning = MEANING, key: bytes = KEY) -> Fields:
    """Return a record as Redis holds it."""
    flat = encode_record(key, EXPIRES_AT, meaning)
    return dict(zip(flat[::2], flat[1::2], strict=True))


def joined(held: Fields, group: bytes = OTHER_GROUP, key: bytes = KEY) -> Fields:
    """Return a record with the group that its answer was found to belong to."""
    name, content = encode_group(key, PARTITION, group)
    return held | {name: content}


def read(held: Fields) -> Witness | None:
    names = (META_FIELD, TEXT_FIELD, ANSWER_FIELD, GROUP_FIELD, ENCODER.encode())
    return decode_witness(KEY, ENCODER, [held.get(name) for name in names])


def signed(content: bytes, name: bytes) -> bytes:
    """Return a field with a right checksum, as anyone who may write to Redis can make it."""
    whole = b"".join((KEY, PARTITION, b"%d:" % len(name), name, content))
    return content + blake2b(whole, digest_size=16).digest()


WHOLE = Witness(KEY, PARTITION, EXPIRES_AT, MEANING.text, VECTOR, ANSWER, GROUP)


def test_witness_is_read_as_it_was_written() -> None:
    """The question, its vector, and what was answered when; its group is its own."""
    assert read(fields()) == WHOLE


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=1000),
    st.floats(0, 1e12),
)
def test_any_answer_is_read_back(text: str, stored_at: float) -> None:
    """In any script; none at all, too."""
    answer = Answer(GROUP, stored_at, text)

    assert read(fields(replace(MEANING, answer=answer))) == replace(WHOLE, answer=answer)


@pytest.mark.parametrize("sign", ["a", "é", "漢", "🙂"])
def test_only_the_beginning_of_a_long_answer_is_kept(sign: str) -> None:
    """4 KiB at most, and no sign is cut in two."""
    answer = Answer(GROUP, STORED_AT, sign * 5000)
    found = read(fields(replace(MEANING, answer=answer)))

    assert found is not None
    kept = found.answer.text
    assert MOST_ANSWER_BYTES - 4 < len(kept.encode()) <= MOST_ANSWER_BYTES
    assert set(kept) == {sign}


def test_group_that_an_answer_was_found_to_belong_to_goes_before_its_own() -> None:
    """Which is still known: other answers of the same words are found by it."""
    found = read(joined(fields()))

    assert found == replace(WHOLE, group=OTHER_GROUP)
    assert found.answer.group == GROUP


def test_group_is_sixteen_bytes() -> None:
    """Others are not written."""
    with pytest.raises(ValueError, match="16 bytes"):
        encode_group(KEY, PARTITION, b"short")


@pytest.mark.parametrize("name", [META_FIELD, TEXT_FIELD, ANSWER_FIELD, ENCODER.encode()])
def test_record_without_one_of_its_fields_is_no_witness(name: bytes) -> None:
    """An older version's has no answer; one that is new may have no vector yet."""
    held = fields()
    del held[name]

    assert read(held) is None


@pytest.mark.parametrize("name", [META_FIELD, TEXT_FIELD, ANSWER_FIELD, ENCODER.encode()])
def test_every_changed_or_missing_byte_is_noticed(name: bytes) -> None:
    """It is no witness, or corrupt; never another one."""
    whole = fields()
    for at in range(len(whole[name])):
        raw = whole[name]
        flipped = raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :]
        for spoilt in (flipped, raw[:at]):
            with contextlib.suppress(CorruptEntry):
                assert read(whole | {name: spoilt}) is None


@given(st.binary(max_size=200))
def test_garbage_for_a_group_leaves_the_answers_own(garbage: bytes) -> None:
    """A group can be found again; the record is still good."""
    assert read(fields() | {GROUP_FIELD: garbage}) == WHOLE


def test_group_of_a_wrong_length_leaves_the_answers_own() -> None:
    """Also with a right checksum."""
    held = fields() | {GROUP_FIELD: signed(b"fifteen bytes..", GROUP_FIELD)}

    assert read(held) == WHOLE


@pytest.mark.parametrize("name", [ANSWER_FIELD, ENCODER.encode()])
def test_no_field_is_taken_for_another_records(name: bytes) -> None:
    """Copied from another entry or another partition."""
    for theirs in (fields(key=OTHER_KEY), fields(replace(MEANING, partition=b"q" * 32))):
        assert read(fields() | {name: theirs[name]}) is None
    foreign = joined({}, key=OTHER_KEY)
    assert read(fields() | foreign) == WHOLE


def test_record_of_another_entry_is_told_apart() -> None:
    """Copied by someone, or a reply to another command."""
    with pytest.raises(OtherKey):
        read(fields(key=OTHER_KEY))


@pytest.mark.parametrize(
    "packed",
    [b"", struct.pack(">BI", 0, 5) + b"text", struct.pack(">BI", 0, 1) + b"\xff"],
    ids=["no text", "cut", "no UTF-8"],
)
def test_answer_with_a_right_checksum_but_no_sense_is_corrupt(packed: bytes) -> None:
    """A checksum is no signature."""
    head = struct.pack(">d16s", STORED_AT, GROUP)

    with pytest.raises(CorruptEntry):
        read(fields() | {ANSWER_FIELD: signed(head + packed, ANSWER_FIELD)})


def test_answer_without_its_head_is_none() -> None:
    """Also with a right checksum."""
    assert read(fields() | {ANSWER_FIELD: signed(b"short", ANSWER_FIELD)}) is None


@pytest.mark.parametrize("stored_at", [math.nan, math.inf, -math.inf])
def test_answer_of_no_time_is_none(stored_at: float) -> None:
    """Also with a right checksum: of nothing could be said whether it is retired."""
    answer = struct.pack(">d16s", stored_at, GROUP) + fields()[ANSWER_FIELD][24:-16]

    assert read(fields() | {ANSWER_FIELD: signed(answer, ANSWER_FIELD)}) is None


@pytest.mark.parametrize("length", [0, 1, 15, 17])
def test_record_with_a_vector_of_no_whole_numbers_is_no_witness(length: int) -> None:
    """Also with a right checksum: no vector could be made of it."""
    name = ENCODER.encode()

    assert read(fields() | {name: signed(b"v" * length, name)}) is None


@pytest.mark.parametrize(
    "answer",
    [replace(ANSWER, group=b"short"), replace(ANSWER, group=b"g" * 17)]
    + [replace(ANSWER, stored_at=at) for at in (math.nan, math.inf)],
)
def test_answer_that_would_not_be_read_is_not_written(answer: Answer) -> None:
    """Its group has sixteen bytes, and its time is one."""
    with pytest.raises(ValueError, match="16 bytes and a finite time"):
        fields(replace(MEANING, answer=answer))


@given(st.lists(st.none() | st.binary(max_size=120), min_size=5, max_size=5))
def test_foreign_bytes_are_no_witness(garbage: list[bytes | None]) -> None:
    """Whatever lies there, it is none or an error of ours, and nothing else."""
    with contextlib.suppress(CorruptEntry):
        assert decode_witness(KEY, ENCODER, garbage) is None


@pytest.mark.parametrize("name", ["a", "g", "m", "t", ""])
def test_no_encoder_is_called_like_a_field(name: str) -> None:
    """Its vector would lie where the answer or the group does."""
    with pytest.raises(ValueError):  # noqa: PT011
        encode_vector(KEY, PARTITION, name, VECTOR)
