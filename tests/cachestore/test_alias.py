"""Aliases as bytes: what is read back, and what is not believed."""

from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachestore.alias import decode_alias, encode_alias
from cachestore.errors import CorruptEntry

KEY = bytes(range(32))
TARGET = b"t" * 32


def test_alias_leads_to_its_target() -> None:
    """In 84 bytes; the script in Redis finds the target's digits from the fifth on."""
    raw = encode_alias(KEY, TARGET)

    assert decode_alias(raw, KEY) == TARGET
    assert raw[4:68] == TARGET.hex().encode()
    assert len(raw) == 84


def test_every_changed_or_missing_byte_is_noticed() -> None:
    """An alias that leads elsewhere would be another question's answer."""
    raw = encode_alias(KEY, TARGET)
    for at in range(len(raw)):
        for spoilt in (raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :], raw[:at]):
            with pytest.raises(CorruptEntry):
                decode_alias(spoilt, KEY)


def test_alias_of_another_key_is_none() -> None:
    """Copied under our name by someone."""
    with pytest.raises(CorruptEntry):
        decode_alias(encode_alias(TARGET, TARGET), KEY)


@pytest.mark.parametrize("unsigned", [b"RCA1" + b"xy" * 32, b"RCA2" + TARGET.hex().encode()])
def test_alias_with_a_right_checksum_but_no_sense_is_none(unsigned: bytes) -> None:
    """A checksum is no signature: who may write to the store can make a right one."""
    raw = unsigned + blake2b(KEY + unsigned, digest_size=16).digest()

    with pytest.raises(CorruptEntry):
        decode_alias(raw, KEY)


@given(st.binary(max_size=100))
def test_foreign_bytes_are_no_alias(garbage: bytes) -> None:
    """Nothing else is ever raised."""
    with pytest.raises(CorruptEntry):
        decode_alias(garbage, KEY)
