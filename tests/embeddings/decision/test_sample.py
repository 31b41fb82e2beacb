"""Samples as bytes: what is read back, and what is not believed."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings.decision.consensus import FEATURES
from embeddings.decision.sample import GROUP_BYTES, Sample

_HEAD = struct.Struct(f"<BBd{GROUP_BYTES}sff")
_floats = st.floats(-(2.0**99), 2.0**99, width=32)


@given(
    st.builds(
        Sample,
        at=st.floats(0, 1e12),
        group=st.binary(min_size=GROUP_BYTES, max_size=GROUP_BYTES),
        evidence=st.lists(_floats, min_size=len(FEATURES), max_size=len(FEATURES)).map(np.array),
        probability=st.floats(0, 1, width=32),
        weight=st.floats(1, 1e6, width=32),
        is_right=st.booleans(),
        would_serve=st.booleans(),
    )
)
def test_sample_is_read_as_it_was_written(sample: Sample) -> None:
    """Every field; its numbers in single precision."""
    raw = sample.to_bytes()
    again = Sample.from_bytes(raw)

    assert len(raw) < 100
    for name in ("at", "group", "probability", "weight", "is_right", "would_serve"):
        assert getattr(again, name) == getattr(sample, name)
    assert np.array_equal(again.evidence, sample.evidence)


@given(st.binary(max_size=200))
def test_garbage_is_no_sample(raw: bytes) -> None:
    """Whatever lies in the log."""
    try:
        sample = Sample.from_bytes(raw)
    except ValueError:
        return
    assert sample.to_bytes() == raw


def a_sample(
    version: int = 1,
    at: float = 5.0,
    probability: float = 0.5,
    weight: float = 1.0,
    first: float = 0.0,
) -> bytes:
    """Return a sample's bytes with whatever numbers."""
    rest = [first] + [0.0] * (len(FEATURES) - 1)
    head = _HEAD.pack(version, 3, at, b"g" * GROUP_BYTES, probability, weight)
    return head + struct.pack(f"<{len(rest)}f", *rest)


def test_numbers_in_their_range_are_a_sample() -> None:
    """So that the next test refuses what it says it does."""
    assert Sample.from_bytes(a_sample()).would_serve


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        a_sample()[:-1],
        a_sample() + b"\0",
        a_sample(version=2),
        a_sample(at=float("nan")),
        a_sample(probability=1.5),
        a_sample(probability=-0.5),
        a_sample(probability=float("nan")),
        a_sample(weight=0.5),
        a_sample(weight=float("inf")),
        a_sample(first=float("nan")),
        a_sample(first=float("-inf")),
    ],
)
def test_number_out_of_its_range_is_no_sample(raw: bytes) -> None:
    """One that is not finite would spoil the calibration of every host."""
    with pytest.raises(ValueError, match="sample"):
        Sample.from_bytes(raw)
