"""Stored responses: their age, and their form as bytes."""

import pickle
import struct
from hashlib import blake2b

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from cachestore.entry import StoredResponse, decode, encode
from cachestore.errors import CorruptEntry, OtherKey

KEY = bytes(range(32))
MAX_BYTES = 1 << 20
HEADER_BYTES = 85


def stored(
    *,
    at: float = 100.0,
    lifetime_s: float = 60.0,
    keep_s: float = 0.0,
    head: bytes = b"head",
    body: bytes = b"body",
    initial_age_s: float = 0.0,
) -> StoredResponse:
    return StoredResponse(KEY, at, lifetime_s, keep_s, head, body, initial_age_s)


def signed(unsigned: bytes) -> bytes:
    """Return a record with a right checksum, as any writer to Redis could make."""
    return unsigned + blake2b(unsigned, digest_size=16).digest()


def forged(
    payload: bytes,
    *,
    flags: int = 0,
    head_bytes: int = 0,
    body_bytes: int | None = None,
    lifetime_s: float = 60.0,
    version: int = 1,
) -> bytes:
    length = len(payload) if body_bytes is None else body_bytes
    header = struct.pack(
        ">3sBB32sddddQQ",
        *(b"RCL", version, flags, KEY, 100.0, lifetime_s, 0.0, 0.0, head_bytes, length),
    )
    return signed(header + payload)


def test_entry_is_stale_when_its_age_reaches_its_lifetime() -> None:
    """Fresh means younger than the lifetime, not as old (RFC 9111 §4.2)."""
    entry = stored(at=100, lifetime_s=60)

    assert entry.is_fresh(now=159.9)
    assert not entry.is_fresh(now=160)
    assert entry.remaining_s(now=150) == 10
    assert entry.remaining_s(now=170) == -10


def test_age_counts_what_the_entry_had_when_it_was_stored() -> None:
    """The corrected initial age is part of the current age (RFC 9111 §4.2.3)."""
    entry = stored(at=100, lifetime_s=60, initial_age_s=50)

    assert entry.age_s(now=105) == 55
    assert entry.is_fresh(now=109.9)
    assert not entry.is_fresh(now=110)


def test_age_is_never_negative_when_the_clock_was_set_back() -> None:
    """Another host's clock may run ahead; its entries are then new, not from the future."""
    assert stored(at=100).age_s(now=90) == 0
    assert stored(at=100, initial_age_s=7).age_s(now=90) == 7


def test_entry_is_kept_past_its_lifetime_for_as_long_as_it_says() -> None:
    """What may be served stale must still be there (RFC 9111 §4.2.4)."""
    entry = stored(at=100, lifetime_s=60, keep_s=30)

    assert entry.is_kept(now=189.9)
    assert not entry.is_kept(now=190)


def test_size_counts_key_head_and_body() -> None:
    """The bytes it holds are what a store bounded in bytes must count."""
    assert stored(head=b"abc", body=b"defgh").size_bytes == 32 + 3 + 5


seconds = st.floats(min_value=0, allow_infinity=False)


@given(
    entry=st.builds(
        StoredResponse,
        key=st.binary(min_size=32, max_size=32),
        stored_at=st.floats(allow_nan=False, allow_infinity=False),
        lifetime_s=seconds,
        keep_s=seconds,
        head=st.binary(),
        body=st.one_of(st.binary(), st.binary(min_size=1, max_size=9).map(lambda b: b * 500)),
        initial_age_s=seconds,
    ),
    compress_above_bytes=st.integers(min_value=0, max_value=10_000),
)
@example(entry=stored(body=b"x" * 5000), compress_above_bytes=0)
def test_decoding_gives_back_what_was_encoded(
    entry: StoredResponse, compress_above_bytes: int
) -> None:
    """Every field, bit for bit, compressed or not."""
    raw = encode(entry, compress_above_bytes)

    assert decode(raw, entry.key, MAX_BYTES) == entry


def test_only_parts_above_the_size_that_get_shorter_are_compressed() -> None:
    """Compressing what is short, or dense already, costs time and saves nothing."""
    dense = blake2b(b"seed").digest() * 1

    assert b"x" * 100 in encode(stored(head=b"", body=b"x" * 100), 100)
    assert b"x" * 101 not in encode(stored(head=b"", body=b"x" * 101), 100)
    assert dense in encode(stored(head=b"", body=dense), 0)


@given(data=st.data(), compress_above_bytes=st.sampled_from([0, 1 << 30]))
def test_a_record_with_any_bit_flipped_is_corrupt(
    data: st.DataObject, compress_above_bytes: int
) -> None:
    """A bad disk or line must never make a wrong answer."""
    raw = bytearray(encode(stored(body=b"all work and no play " * 9), compress_above_bytes))
    at = data.draw(st.integers(min_value=0, max_value=len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(min_value=0, max_value=7))

    with pytest.raises(CorruptEntry):
        decode(bytes(raw), KEY, MAX_BYTES)


@pytest.mark.parametrize("compress_above_bytes", [0, 1 << 30])
def test_a_record_cut_or_lengthened_anywhere_is_corrupt(compress_above_bytes: int) -> None:
    """A write that was not finished must never make a shorter answer."""
    raw = encode(stored(body=b"all work and no play " * 9), compress_above_bytes)

    for length in range(len(raw)):
        with pytest.raises(CorruptEntry):
            decode(raw[:length], KEY, MAX_BYTES)
    with pytest.raises(CorruptEntry):
        decode(raw + b"\0", KEY, MAX_BYTES)


@given(raw=st.binary(max_size=300))
def test_foreign_bytes_are_corrupt(raw: bytes) -> None:
    """Anything may lie in a shared Redis."""
    with pytest.raises(CorruptEntry):
        decode(raw, KEY, MAX_BYTES)


class Trap:
    """Fails the test when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("something in the record was executed",))


def test_pickled_bytes_are_foreign_and_are_not_executed() -> None:
    """Values of GPTCache, LiteLLM and the like are pickles; unpickling runs code."""
    raw = pickle.dumps([Trap(), stored(body=b"x" * 500)])

    with pytest.raises(CorruptEntry):
        decode(raw, KEY, MAX_BYTES)
    with pytest.raises(CorruptEntry):
        decode(forged(raw, flags=1), KEY, MAX_BYTES)


def test_a_sound_record_of_another_key_is_not_served() -> None:
    """Replies out of step, or a copied record, must not answer another question."""
    raw = encode(stored(), 2048)

    with pytest.raises(OtherKey):
        decode(raw, bytes(32), MAX_BYTES)


def test_another_format_version_is_corrupt() -> None:
    """After a downgrade the newer version's records are misses."""
    assert decode(forged(b"abc"), KEY, MAX_BYTES).body == b"abc"
    with pytest.raises(CorruptEntry, match="version"):
        decode(forged(b"abc", version=2), KEY, MAX_BYTES)


def test_a_record_with_unknown_flags_is_corrupt() -> None:
    """What they mean is not known, so the payload cannot be read."""
    with pytest.raises(CorruptEntry, match="flags"):
        decode(forged(b"abc", flags=2), KEY, MAX_BYTES)
    with pytest.raises(CorruptEntry, match="flags"):
        decode(forged(b"abc", flags=3), KEY, MAX_BYTES)


@pytest.mark.parametrize("lifetime_s", [-1.0, float("nan"), float("inf")])
def test_a_record_with_times_out_of_range_is_corrupt(lifetime_s: float) -> None:
    """NaN compares false with everything: such an entry would be neither fresh nor stale."""
    with pytest.raises(CorruptEntry, match="times"):
        decode(forged(b"abc", lifetime_s=lifetime_s), KEY, MAX_BYTES)


def test_a_record_whose_lengths_do_not_add_up_is_corrupt() -> None:
    """Head and body may not run into each other."""
    with pytest.raises(CorruptEntry, match="length"):
        decode(forged(b"abc", body_bytes=2), KEY, MAX_BYTES)
    with pytest.raises(CorruptEntry, match="length"):
        decode(forged(zstandard.compress(b"abc"), flags=1, body_bytes=2), KEY, MAX_BYTES)


def test_a_decompression_bomb_is_not_unpacked() -> None:
    """8 GiB of zeros fit in 800 kB; nothing above `max_bytes` is allocated."""
    bomb = zstandard.compress(bytes(MAX_BYTES * 4))
    unstated = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(MAX_BYTES * 4))

    with pytest.raises(CorruptEntry, match="more than"):
        decode(forged(bomb, flags=1, body_bytes=MAX_BYTES * 4), KEY, MAX_BYTES)
    with pytest.raises(CorruptEntry, match="length"):
        decode(forged(bomb, flags=1, body_bytes=100), KEY, MAX_BYTES)
    with pytest.raises(CorruptEntry, match="length"):
        decode(forged(unstated, flags=1, body_bytes=100), KEY, MAX_BYTES)


def test_an_entry_larger_than_allowed_is_corrupt_and_one_as_large_is_not() -> None:
    """The limit may have been lowered since it was stored."""
    raw = encode(stored(head=b"1234", body=b"5678"), 0)

    assert decode(raw, KEY, 8).body == b"5678"
    with pytest.raises(CorruptEntry, match="more than"):
        decode(raw, KEY, 7)


def test_a_broken_compressed_payload_is_corrupt() -> None:
    """Even when the checksum is right."""
    broken = bytearray(zstandard.compress(b"abc" * 1000))
    broken[-3:] = b"\xff\xff\xff"

    with pytest.raises(CorruptEntry):
        decode(forged(bytes(broken), flags=1, body_bytes=3000), KEY, MAX_BYTES)
    with pytest.raises(CorruptEntry):
        decode(forged(b"no frame", flags=1), KEY, MAX_BYTES)


@pytest.mark.parametrize(
    "entry",
    [
        StoredResponse(b"short", 0, 0, 0, b"", b""),
        stored(at=float("nan")),
        stored(lifetime_s=-1),
        stored(keep_s=float("inf")),
        stored(initial_age_s=float("nan")),
    ],
)
def test_an_entry_that_could_not_be_read_back_is_not_encoded(entry: StoredResponse) -> None:
    """Better an error where it is made than a record that is always corrupt."""
    with pytest.raises(ValueError, match=r"key|times"):
        encode(entry, 0)


def test_the_header_has_the_length_the_tests_take_it_to_have() -> None:
    """The format is fixed: records outlive releases."""
    assert encode(stored(head=b"H", body=b"B"), 100)[HEADER_BYTES : HEADER_BYTES + 2] == b"HB"
