"""Header fields by name."""

from collections.abc import Sequence


def by_name(headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return fields by name, the lines of a repeated one in one (RFC 9110 §5.3).

    Args:
        headers: The fields as they came, names in lower case.
    """
    named = dict(headers)
    if len(named) == len(headers):
        return named
    named.clear()
    for name, value in headers:
        named[name] = named[name] + b", " + value if name in named else value
    return named
