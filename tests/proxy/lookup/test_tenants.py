"""Tenants are told apart by their credentials, and by nothing else."""

import hashlib
import hmac
import tracemalloc

import pytest

from proxy.lookup.tenants import Tenants

SECRET = b"s" * 32
NAMES = {hashlib.sha256(b"sk-1").hexdigest(): "team", hashlib.sha256(b"sk-2").hexdigest(): "team"}


@pytest.fixture
def tenants() -> Tenants:
    return Tenants(SECRET, NAMES)


CREDENTIALS: list[dict[bytes, bytes]] = [
    {},
    {b"authorization": b""},
    {b"authorization": b"Bearer a"},
    {b"authorization": b"Bearer A"},
    {b"authorization": b"Basic a"},
    {b"authorization": b"a"},
    {b"x-api-key": b"a"},
    {b"api-key": b"a"},
    {b"x-api-key": b"a", b"api-key": b"a"},
    {b"x-api-key": b"aa"},
    {b"x-api-key": b"a", b"api-key": b"b"},
    {b"x-api-key": b"a1:b"},
    {b"x-api-key": b"-"},
    {b"authorization": b"Bearer a", b"x-api-key": b"a"},
    {b"authorization": b"Bearer \xff"},
]


def test_no_two_credentials_are_one_tenant(tenants: Tenants) -> None:
    """Wherever they stand, and however they could run together."""
    told = [tenants.of(headers) for headers in CREDENTIALS]

    assert len(set(told)) == len(CREDENTIALS)


def test_same_credential_is_the_same_tenant(tenants: Tenants) -> None:
    """On each call and every host with this secret; other headers do not count."""
    again = Tenants(SECRET, NAMES)

    for headers in CREDENTIALS:
        told = tenants.of(headers)
        assert told == tenants.of({**headers, b"user-agent": b"x", b"x-tenant": b"y"})
        assert told == again.of(headers)


def test_tenant_depends_on_the_secret(tenants: Tenants) -> None:
    """Who reads the store cannot test guesses at an API key."""
    headers = {b"authorization": b"Bearer sk-x"}

    assert tenants.of(headers) != Tenants(b"t" * 32, NAMES).of(headers)


def test_tenant_shows_neither_the_credential_nor_its_hash(tenants: Tenants) -> None:
    """Nor a name by which a plain hash could be known: it is an HMAC under the secret."""
    told = tenants.of({b"authorization": b"Bearer sk-x"})

    assert told.startswith("hmac:")
    assert len(told) == len("hmac:") + 64
    for text in (b"sk-x", b"Bearer sk-x"):
        assert text.decode() not in told
        assert hashlib.sha256(text).hexdigest() not in told
        assert hmac.digest(b"", text, "sha256").hex() not in told


NAMED: list[dict[bytes, bytes]] = [
    {b"authorization": b"Bearer sk-1"},
    {b"authorization": b"bearer  sk-1 "},
    {b"authorization": b"Bearer sk-2"},
    {b"x-api-key": b"sk-1"},
    {b"api-key": b"sk-2"},
    {b"authorization": b"Bearer other", b"api-key": b"sk-2"},
]


@pytest.mark.parametrize("headers", NAMED)
def test_named_keys_belong_to_their_tenant(headers: dict[bytes, bytes], tenants: Tenants) -> None:
    """`tenancy.names`: several keys of one tenant share, in whichever field they come."""
    assert tenants.of(headers) == "name:team"


@pytest.mark.parametrize("value", [b"Basic sk-1", b"Bearersk-1", b"Bearer sk-1x", b"Bearer"])
def test_other_keys_do_not(value: bytes, tenants: Tenants) -> None:
    """A scheme is none of the key; a part of the key is not the key."""
    assert tenants.of({b"authorization": value}).startswith("hmac:")


def test_long_credentials_are_told_apart_to_their_end(tenants: Tenants) -> None:
    """Each time again, for they are not remembered."""
    long = [{b"authorization": b"Bearer " + b"x" * 5000 + end} for end in (b"1", b"2")]

    told = [[tenants.of(headers) for headers in long] for _ in range(2)]

    assert told[0] == told[1]
    assert told[0][0] != told[0][1]


@pytest.mark.parametrize(("size_bytes", "count"), [(60_000, 200), (4, 8_000)])
def test_what_clients_send_does_not_fill_memory(
    size_bytes: int, count: int, tenants: Tenants
) -> None:
    """Neither long credentials nor many; and who was forgotten is still the same tenant."""
    first = tenants.of({b"api-key": b"first"})

    tracemalloc.start()
    for number in range(count):
        tenants.of({b"api-key": b"%d" % number * size_bytes})
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert held_bytes < 1_000_000
    assert tenants.of({b"api-key": b"first"}) == first
