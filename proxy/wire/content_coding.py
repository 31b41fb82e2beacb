"""Undo the content codings of a response body (RFC 9110 §8.4)."""

import zlib
from typing import Final

import zstandard


class CodingError(ValueError):
    """The coding is unknown, the body is not what it claims to be, or it becomes too large."""


# zstandard's decompressor cannot be told how much to give. One block of 4 bytes can become 128 KiB,
# so that this much input is at most 8 MiB of output more than wanted.
_ZSTD_SLICE_BYTES: Final = 256
# RFC 8878 §3.1.1.1.2 asks decoders to support 8 MiB; RFC 9659 allows no more for content codings.
_ZSTD_WINDOW_BYTES: Final = 8 * 1024 * 1024


def decode_content(raw: bytes, content_encoding: bytes, max_bytes: int) -> bytes:
    """Return the body as it was before its codings were applied.

    Args:
        raw: The body as received.
        content_encoding: The field's value: codings in the order in which they were applied.
        max_bytes: The most bytes any step may give.

    Raises:
        CodingError: Unknown coding (`br` among them), damaged or cut body, or too large.
    """
    codings = [word.strip().lower() for word in content_encoding.split(b",")]
    for coding in reversed(codings):
        match coding:
            case b"" | b"identity":
                pass
            case b"gzip" | b"x-gzip":
                raw = _inflate(raw, 31, max_bytes)
            case b"deflate":
                # Some servers leave out the zlib wrapper that RFC 9110 §8.4.1.2 asks for. Its
                # first byte names the method 8; raw streams do not begin so.
                raw = _inflate(raw, 15 if raw[:1] and raw[0] & 0x0F == 8 else -15, max_bytes)
            case b"zstd":
                raw = _unzstd(raw, max_bytes)
            case _:
                raise CodingError(f"unknown content coding {coding!r}")
    return raw


def _inflate(raw: bytes, window_bits: int, max_bytes: int) -> bytes:
    pieces = []
    left_bytes = max_bytes
    # A gzip body may be several members in a row (RFC 1952 §2.2).
    while True:
        inflater = zlib.decompressobj(window_bits)
        try:
            # One byte more than allowed: so that a full buffer is told from an overfull one.
            piece = inflater.decompress(raw, left_bytes + 1)
        except zlib.error as error:
            raise CodingError(str(error)) from error
        if len(piece) > left_bytes:
            raise CodingError(f"more than {max_bytes} bytes")
        if not inflater.eof:
            raise CodingError("the body was cut off")
        pieces.append(piece)
        left_bytes -= len(piece)
        raw = inflater.unused_data
        if not raw:
            return b"".join(pieces)


def _unzstd(raw: bytes, max_bytes: int) -> bytes:
    pieces = []
    size_bytes = 0
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    frame = decompressor.decompressobj()
    is_open = False
    at = 0
    while at < len(raw):
        piece_in = raw[at : at + _ZSTD_SLICE_BYTES]
        try:
            piece = frame.decompress(piece_in)
        except zstandard.ZstdError as error:
            raise CodingError(str(error)) from error
        at += len(piece_in) - len(frame.unused_data)
        size_bytes += len(piece)
        if size_bytes > max_bytes:
            raise CodingError(f"more than {max_bytes} bytes")
        pieces.append(piece)
        is_open = not frame.eof
        if frame.eof:
            # A body may be several frames in a row (RFC 8878 §3.1).
            frame = decompressor.decompressobj()
    if is_open or not raw:
        raise CodingError("the body was cut off")
    return b"".join(pieces)
