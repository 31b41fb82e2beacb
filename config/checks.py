"""What a setting's value must look like beyond its type and range.

Each function returns the value in its normal form, or raises ValueError with what would be right.
The text never holds the value: `config.load` shows it, masked where need be.
"""

import re
from collections import Counter
from urllib.parse import urlsplit

from pydantic import SecretStr

_HTTP_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")
_TENANT_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_QUESTION_FIELDS = frozenset({"model", "messages", "prompt", "input", "instructions"})


def check_secret(secret: SecretStr) -> SecretStr:
    # A line end or another control character in a credential would break a header in two.
    text = secret.get_secret_value()
    if not (text.isascii() and text.isprintable()):
        raise ValueError("should hold printable ASCII characters only")
    return secret


def check_base_url(url: str) -> str:
    if not url:
        return url
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("should be a URL such as http://127.0.0.1:8000/v1") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise ValueError("should be a URL such as http://127.0.0.1:8000/v1")
    if "@" in parts.netloc:
        raise ValueError("should hold no user or password; use upstream.api_key")
    if "?" in url or "#" in url:
        raise ValueError("should have no query and no fragment")
    if not url.isprintable() or " " in url:
        raise ValueError("should hold no spaces or control characters")
    return url.rstrip("/")


def check_redis_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            is_right = len(parts.path) > len("/")
        else:
            database = parts.path.strip("/")
            is_right = (
                parts.scheme in {"redis", "rediss"}
                and bool(parts.hostname)
                and parts.port != 0
                and (not database or database.isdecimal())
            )
    except ValueError:
        is_right = False
    if url and not is_right:
        raise ValueError("should be redis://host:port/db, rediss://host:port/db or unix:///path")
    return url


def check_embedding_address(address: str) -> str:
    try:
        parts = urlsplit(address)
        is_socket = parts.scheme == "unix" and not parts.netloc and len(parts.path) > len("/")
        is_tcp = parts.scheme == "http" and bool(parts.hostname and parts.port)
        is_bare = not parts.query and not parts.fragment and "@" not in parts.netloc
        is_right = is_bare and (is_socket or (is_tcp and parts.path in ("", "/")))
    except ValueError:
        is_right = False
    if address and not is_right:
        raise ValueError("should be http://host:port or unix:///path")
    return address.rstrip("/")


def check_scripts(scripts: tuple[str, ...]) -> tuple[str, ...]:
    for script in scripts:
        if not (script.isascii() and script.isalpha()):
            raise ValueError("should be names of Unicode scripts such as Latin, Han, Cyrillic")
    return tuple(script.capitalize() for script in scripts)


def check_header_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not _HTTP_TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is no header name")
    return tuple(name.lower() for name in names)


def check_ignorable(fields: tuple[str, ...]) -> tuple[str, ...]:
    # Without these in the key, every question to a route would get the first one's answer.
    if refused := sorted(_QUESTION_FIELDS.intersection(fields)):
        raise ValueError(f"should not leave out the question itself: {', '.join(refused)}")
    return fields


def check_tenants(names: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    checked = {}
    for name, digests in names.items():
        if not _TENANT_NAME.fullmatch(name):
            raise ValueError("should have tenant names of 1 to 64 letters, digits, '_', '.', '-'")
        checked[name] = tuple(digest.lower() for digest in digests)
        if not all(_SHA256_HEX.fullmatch(digest) for digest in checked[name]):
            raise ValueError(f"should give tenant {name} SHA-256 digests of 64 hexadecimal digits")
    uses = Counter(digest for digests in checked.values() for digest in digests)
    if any(count > 1 for count in uses.values()):
        raise ValueError("should not give one API key to two tenants")
    return checked
