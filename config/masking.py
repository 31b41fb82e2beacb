"""What may be shown of a setting on a terminal, in a log or in an error.

Secrets are masked whole; in a URL, the password and everything in the query that looks like one.
Digests of API keys are masked too: who holds one can try keys against it without being noticed.
"""

import re
from collections.abc import Mapping

MASK = "********"
SECRET_KEYS = frozenset({"upstream.api_key", "tenancy.secret", "admin.token", "semantic.token"})
"""The settings that are masked whole, by dotted key."""

# Everything up to the last @ before the path: a password may itself hold an @ or a colon. A text
# that is no valid URL is matched as well, for it stands in the error that says so.
_USERINFO = re.compile(r"(?<=://)(?P<user>[^/:?#]*)(?P<password>:[^/?#]*)?@")
_QUERY_PASSWORD = re.compile(
    r"(?i)(?<=[?&])(?P<name>[^=&#]*(?:pass|secret|token|key)[^=&#]*)=[^&#]*"
)


def mask_url(text: str) -> str:
    """Return `text` with the passwords of the URLs in it masked.

    A user without a password is masked as well: some services take a token there.
    """
    return _QUERY_PASSWORD.sub(rf"\g<name>={MASK}", _USERINFO.sub(_mask_userinfo, text))


def mask(key: str, value: object) -> object:
    """Return what may be shown of the setting `key` (dotted), ready for JSON."""
    if value is None or (isinstance(value, bool | int | float) and key not in SECRET_KEYS):
        return value
    if key == "tenancy.names" and isinstance(value, Mapping):
        return dict.fromkeys(value, MASK)
    if key in SECRET_KEYS or key == "tenancy.names":
        return MASK
    if isinstance(value, Mapping):
        return {str(name): mask(f"{key}.{name}", item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask(key, item) for item in value]
    return mask_url(str(value))


def _mask_userinfo(found: re.Match[str]) -> str:
    if found["password"] is None:
        return f"{MASK}@"
    return f"{found['user']}:{MASK}@"
