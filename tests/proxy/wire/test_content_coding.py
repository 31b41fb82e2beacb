"""Content codings are undone within bounds, or not at all."""

import gzip
import zlib
from collections.abc import Callable

import pytest
import zstandard

from proxy.wire.content_coding import CodingError, decode_content

_TEXT = b'{"choices":[]}' * 1000


def _raw_deflate(raw: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(raw) + deflater.flush()


def _streamed_zstd(raw: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(raw) + compressor.flush()


_CODINGS: list[tuple[bytes, Callable[[bytes], bytes]]] = [
    (b"gzip", gzip.compress),
    (b"X-GZIP", gzip.compress),
    (b"deflate", zlib.compress),
    (b"deflate", _raw_deflate),
    (b"zstd", zstandard.compress),
    (b"zstd", _streamed_zstd),
    (b"gzip, zstd", lambda raw: zstandard.compress(gzip.compress(raw))),
    (b" gzip ,, identity", gzip.compress),
    (b"", bytes),
    (b"identity", bytes),
]


@pytest.mark.parametrize(("coding", "encode"), _CODINGS)
def test_codings_are_undone_in_reverse_order(
    coding: bytes, encode: Callable[[bytes], bytes]
) -> None:
    """RFC 9110 §8.4: listed in the order in which they were applied, names in any case."""
    assert decode_content(encode(_TEXT), coding, len(_TEXT)) == _TEXT


@pytest.mark.parametrize(("coding", "encode"), _CODINGS[:6])
def test_several_members_or_frames_in_a_row_are_one_body(
    coding: bytes, encode: Callable[[bytes], bytes]
) -> None:
    """RFC 1952 §2.2, RFC 8878 §3.1."""
    assert decode_content(encode(b"a" * 999) + encode(b"b"), coding, 1000) == b"a" * 999 + b"b"


@pytest.mark.parametrize(("coding", "encode"), _CODINGS[:6])
def test_a_coded_body_cut_at_any_byte_is_refused(
    coding: bytes, encode: Callable[[bytes], bytes]
) -> None:
    """Promise 2: what is cut is never stored."""
    raw = encode(_TEXT)
    for size in range(len(raw)):
        with pytest.raises(CodingError):
            decode_content(raw[:size], coding, len(_TEXT))


@pytest.mark.parametrize(("coding", "encode"), _CODINGS[:6])
def test_a_coded_body_with_something_behind_it_is_refused(
    coding: bytes, encode: Callable[[bytes], bytes]
) -> None:
    """Neither a member nor a frame."""
    with pytest.raises(CodingError):
        decode_content(encode(_TEXT) + b"{}", coding, 2 * len(_TEXT))


@pytest.mark.parametrize(("coding", "encode"), _CODINGS[:6])
def test_a_body_that_becomes_larger_than_allowed_is_refused(
    coding: bytes, encode: Callable[[bytes], bytes]
) -> None:
    """Promise 19: limits of our own on decompression."""
    with pytest.raises(CodingError):
        decode_content(encode(_TEXT), coding, len(_TEXT) - 1)
    with pytest.raises(CodingError):
        decode_content(encode(_TEXT) + encode(b"1"), coding, len(_TEXT))


@pytest.mark.parametrize("coding", [b"br", b"compress", b"gzip2", b"gzip, br"])
def test_an_unknown_coding_is_refused(coding: bytes) -> None:
    """Nothing is guessed."""
    with pytest.raises(CodingError):
        decode_content(gzip.compress(_TEXT), coding, len(_TEXT))


def test_a_zstd_window_larger_than_content_codings_may_have_is_refused() -> None:
    """RFC 9659 §3: at most 8 MiB, so that memory is bounded by us and not by the sender."""
    parameters = zstandard.ZstdCompressionParameters(window_log=24)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    raw = compressor.compress(_TEXT) + compressor.flush()

    with pytest.raises(CodingError):
        decode_content(raw, b"zstd", len(_TEXT))
