"""Whose request is it? Told from the credential, never from the content.

A tenant is the HMAC of the credential under a secret of the server's own, or the name that the
operator gave to it. Neither the credential nor its plain hash is kept in a store, a log or a
metric.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from cachetools import LRUCache

_KNOWN_MOST: Final = 1_000
_KNOWN_MOST_BYTES: Final = 4096
"""Longer credentials are told apart anew each time: what a client sends must not fill memory."""

CREDENTIAL_HEADERS: Final = (b"authorization", b"x-api-key", b"api-key")

Credential = tuple[bytes | None, ...]


class Tenants:
    """Tells tenants apart.

    Args:
        secret: The server's secret, at least 16 bytes, the same on all hosts that share a store.
        names: Tenant names by the SHA-256 (hex) of an API key.
    """

    def __init__(self, secret: bytes, names: Mapping[str, str]) -> None:
        self._secret = secret
        self._names = names
        # An HMAC costs as much as the rest of the key; the same few credentials come again.
        self._known: LRUCache[Credential, str] = LRUCache(_KNOWN_MOST)

    def of(self, headers: Mapping[bytes, bytes]) -> str:
        """Return the tenant that sent `headers`; without a credential, the anonymous one."""
        credential = tuple(headers.get(name) for name in CREDENTIAL_HEADERS)
        tenant = self._known.get(credential)
        if tenant is None:
            tenant = self._tell(credential)
            if sum(len(value) for value in credential if value) <= _KNOWN_MOST_BYTES:
                self._known[credential] = tenant
        return tenant

    def _tell(self, credential: Credential) -> str:
        for value in credential:
            if value is None:
                continue
            digest = hashlib.sha256(_bare_key(value)).hexdigest()
            if digest in self._names:
                return f"name:{self._names[digest]}"
        mac = hmac.new(self._secret, digestmod=hashlib.sha256)
        for value in credential:
            # Length first, so that no two credentials run into each other.
            mac.update(b"-" if value is None else b"%d:%b" % (len(value), value))
        return f"hmac:{mac.hexdigest()}"


def _bare_key(value: bytes) -> bytes:
    scheme, _, key = value.partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else value
