"""Promise 6, the upstream's side: `cache.upstream_cache_control = "honour"`.

A table in the manner of the public HTTP cache tests, for POST: one answer with certain
headers, a second equal request some time later, and whether it may be answered by the
first. Times are kept apart by headers (`Age`, `Date`, `Expires`), not by waiting.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate

import pytest

from tests.support.fake_upstream import FakeUpstream, Play
from tests.support.http_client import Headers
from tests.support.processes import wait_until
from tests.support.recollect_server import RecollectServer, unique


@pytest.fixture(scope="module")
def honouring(upstream: FakeUpstream) -> Iterator[RecollectServer]:
    """A Recollect that does what the upstream's headers say."""
    cache = {"upstream_cache_control": "honour", "jitter": 0.0, "ttl_s": 3600.0}
    server = RecollectServer(upstream.url, settings={"cache": cache})
    yield server
    server.close()


def date(offset_s: float) -> str:
    """Return an HTTP date `offset_s` from now (RFC 9110 §5.6.7)."""
    return formatdate(time.time() + offset_s, usegmt=True)


def rfc850(offset_s: float) -> str:
    """Return the obsolete form of a date that must still be read."""
    return time.strftime("%A, %d-%b-%y %H:%M:%S GMT", time.gmtime(time.time() + offset_s))


def asctime(offset_s: float) -> str:
    """Return the other obsolete form."""
    return time.asctime(time.gmtime(time.time() + offset_s))


@dataclass(frozen=True, slots=True)
class Case:
    """Headers of the answer, and whether a second request may be answered by it."""

    name: str
    headers: tuple[tuple[str, str], ...]
    is_reused: bool
    section: str


def case(name: str, is_reused: bool, section: str, *headers: tuple[str, str]) -> Case:
    return Case(name, headers, is_reused, section)


CC = "Cache-Control"
HOUR = 3600

FRESHNESS = [
    case("max-age", True, "4.2.1", (CC, "max-age=3600")),
    case("max-age=0", False, "4.2.1", (CC, "max-age=0")),
    case("max-age and Age below", True, "4.2.3", (CC, "max-age=3600"), ("Age", "1800")),
    case("max-age and Age above", False, "4.2.3", (CC, "max-age=3600"), ("Age", "7200")),
    case("max-age equal to Age", False, "4.2", (CC, "max-age=3600"), ("Age", "3600")),
    case("s-maxage", True, "5.2.2.10", (CC, "s-maxage=3600")),
    case("s-maxage over max-age", True, "4.2.1", (CC, "s-maxage=3600, max-age=1"), ("Age", "9")),
    case("s-maxage=0 over max-age", False, "4.2.1", (CC, "s-maxage=0, max-age=3600")),
    case("max-age over Expires", True, "5.3", (CC, "max-age=3600"), ("Expires", date(-HOUR))),
    case("max-age=0 over Expires", False, "5.3", (CC, "max-age=0"), ("Expires", date(HOUR))),
    case("s-maxage over Expires", True, "5.3", (CC, "s-maxage=3600"), ("Expires", date(-HOUR))),
    case("no-store", False, "5.2.2.5", (CC, "no-store")),
    case("no-store and max-age", False, "5.2.2.5", (CC, "no-store, max-age=3600")),
    case("no-cache", False, "5.2.2.4", (CC, "no-cache")),
    case("no-cache and max-age", False, "5.2.2.4", (CC, "max-age=3600, no-cache")),
    case("private", False, "5.2.2.7", (CC, "private, max-age=3600")),
    case("public", True, "5.2.2.9", (CC, "public, max-age=3600")),
    case("must-revalidate while fresh", True, "5.2.2.2", (CC, "max-age=3600, must-revalidate")),
    case(
        "old Date, max-age over",
        False,
        "4.2.3",
        (CC, "max-age=3600"),
        ("Date", date(-7200)),
    ),
    case("old Date, max-age left", True, "4.2.3", (CC, "max-age=7200"), ("Date", date(-HOUR))),
    case("unknown directive", True, "5.2.3", (CC, "max-age=3600, x-new=1")),
    case(
        "must-understand",
        True,
        "5.2.2.3",
        (CC, "max-age=3600, must-understand"),
    ),
]

CC_PARSE = [
    case("upper case", True, "5.2", (CC, "MaX-aGe=3600")),
    case("no-store in upper case", False, "5.2", (CC, "NO-STORE, max-age=3600")),
    case("two header lines", True, "5.2", (CC, "public"), (CC, "max-age=3600")),
    case("two header lines with no-store", False, "5.2", (CC, "max-age=3600"), (CC, "no-store")),
    case("no space after the comma", True, "5.2", (CC, "public,max-age=3600")),
    case("tabs around the comma", True, "5.2", (CC, "public\t,\tmax-age=3600")),
    case("empty members", True, "RFC 9110 5.6.1", (CC, ", ,max-age=3600,,")),
    case("quoted argument", True, "5.2", (CC, 'max-age="3600"')),
    case("leading zeros", True, "1.2.2", (CC, "max-age=003600")),
    case("huge max-age", True, "1.2.2", (CC, "max-age=99999999999999999999")),
    case("2^31", True, "1.2.2", (CC, "max-age=2147483648")),
    case("two max-age, smaller first", False, "4.2.1", (CC, "max-age=0, max-age=3600")),
    case("two max-age, smaller last", False, "4.2.1", (CC, "max-age=3600, max-age=0")),
    case("two equal max-age", True, "4.2.1", (CC, "max-age=3600, max-age=3600")),
    case("max-age inside a quoted extension", False, "5.2", (CC, 'x="max-age=3600", max-age=0')),
    case("no-store inside a quoted extension", True, "5.2", (CC, 'x="no-store", max-age=3600')),
    case("negative max-age", False, "4.2.1", (CC, "max-age=-3600")),
    case("decimal max-age", False, "4.2.1", (CC, "max-age=3600.5")),
    case("max-age with letters", False, "4.2.1", (CC, "max-age=3600a")),
    case("max-age without argument", False, "4.2.1", (CC, "max-age")),
    case("empty max-age", False, "4.2.1", (CC, "max-age=")),
    case("max-age in single quotes", False, "4.2.1", (CC, "max-age='3600'")),
    case("space before the equals sign", False, "5.2", (CC, "max-age =3600, no-store")),
    case("no-cache with a field name", False, "5.2.2.4", (CC, 'no-cache="Set-Cookie", max-age=0')),
    case("private with a field name", False, "5.2.2.7", (CC, 'private="x, y", no-store')),
]

AGE_PARSE = [
    case("Age as a list of two", False, "5.1", (CC, "max-age=3600"), ("Age", "7200, 0")),
    case(
        "two Age lines",
        False,
        "5.1",
        (CC, "max-age=3600"),
        ("Age", "7200"),
        ("Age", "0"),
    ),
    case("Age zero", True, "5.1", (CC, "max-age=3600"), ("Age", "0")),
    case("huge Age", False, "1.2.2", (CC, "max-age=3600"), ("Age", "99999999999999999999")),
    case("Age with a parameter is ignored", True, "5.1", (CC, "max-age=3600"), ("Age", "7200;x=1")),
    case("Age with leading zeros", False, "5.1", (CC, "max-age=3600"), ("Age", "0007200")),
]

EXPIRES = [
    case("future", True, "5.3", ("Expires", date(HOUR)), ("Date", date(0))),
    case("future without Date", True, "5.3", ("Expires", date(HOUR))),
    case("past", False, "5.3", ("Expires", date(-HOUR)), ("Date", date(0))),
    case("equal to Date", False, "4.2", ("Expires", date(0)), ("Date", date(0))),
    case("Age above its distance", False, "4.2.3", ("Expires", date(HOUR)), ("Age", "7200")),
    case("Age below its distance", True, "4.2.3", ("Expires", date(HOUR)), ("Age", "1000")),
    case("zero", False, "5.3", ("Expires", "0")),
    case("minus one", False, "5.3", ("Expires", "-1")),
    case("empty", False, "5.3", ("Expires", "")),
    case("words", False, "5.3", ("Expires", "tomorrow")),
    case("ISO 8601", False, "5.3", ("Expires", "2099-01-01T00:00:00Z")),
    case("RFC 850 form", True, "RFC 9110 5.6.7", ("Expires", rfc850(HOUR))),
    case("asctime form", True, "RFC 9110 5.6.7", ("Expires", asctime(HOUR))),
    case("RFC 850 form in the past", False, "RFC 9110 5.6.7", ("Expires", rfc850(-HOUR))),
    case("far future", True, "5.3", ("Expires", "Fri, 31 Dec 9999 23:59:59 GMT")),
    case("another time zone", False, "RFC 9110 5.6.7", ("Expires", date(-HOUR)[:-3] + "UTC")),
    case("no comma", False, "5.3", ("Expires", date(-HOUR).replace(",", ""))),
    case("two, one past", False, "4.2.1", ("Expires", date(-HOUR)), ("Expires", date(HOUR))),
]


@pytest.mark.parametrize(
    "given", [*FRESHNESS, *CC_PARSE, *AGE_PARSE, *EXPIRES], ids=lambda given: given.name
)
def test_answer_is_reused_as_its_headers_allow(
    given: Case, upstream: FakeUpstream, honouring: RecollectServer
) -> None:
    """RFC 9111, the section beside each case; what cannot be read counts as stale."""
    prompt = unique(given.name)
    upstream.on(prompt, Play(headers=given.headers))

    answers = [honouring.chat(prompt) for _ in range(2)]

    assert [answer.status for answer in answers] == [200, 200]
    assert answers[1].cache.hit is given.is_reused, given.section
    assert upstream.calls(prompt) == 2 - given.is_reused


def test_upstream_that_says_nothing_gets_the_configured_life(
    upstream: FakeUpstream, honouring: RecollectServer
) -> None:
    """Explicit freshness is the operator's where the upstream gives none (RFC 9111 §9.3.3)."""
    prompt = unique("silent")
    honouring.chat(prompt)

    hit = honouring.chat(prompt)

    assert hit.cache.ttl_s is not None
    assert 3590 <= hit.cache.ttl_s <= 3600


def test_age_counts_what_the_upstream_said(
    upstream: FakeUpstream, honouring: RecollectServer
) -> None:
    """RFC 9111 §4.2.3: the age at arrival is added; the lifetime left is less by it."""
    prompt = unique("age")
    upstream.on(prompt, Play(headers=[(CC, "max-age=3600"), ("Age", "100")]))

    first, hit = honouring.chat(prompt), honouring.chat(prompt)

    assert first.header("age") == "100"
    assert 100 <= int(hit.header("age")) <= 102
    assert hit.cache.ttl_s is not None
    assert 3498 <= hit.cache.ttl_s <= 3500


def test_short_life_ends(upstream: FakeUpstream, honouring: RecollectServer) -> None:
    """max-age is counted in real seconds."""
    prompt = unique("short")
    upstream.on(prompt, Play(headers=[(CC, "max-age=1")]), Play())
    honouring.chat(prompt)

    assert honouring.chat(prompt).cache.hit
    assert wait_until(lambda: not honouring.chat(prompt).cache.hit, 3, 0.1)


VARY: list[tuple[str, Headers, dict[str, str], dict[str, str], bool]] = [
    ("match", [("Vary", "X-A")], {"X-A": "1"}, {"X-A": "1"}, True),
    ("no match", [("Vary", "X-A")], {"X-A": "1"}, {"X-A": "2"}, False),
    ("absent then there", [("Vary", "X-A")], {}, {"X-A": "2"}, False),
    ("there then absent", [("Vary", "X-A")], {"X-A": "1"}, {}, False),
    ("absent twice", [("Vary", "X-A")], {}, {}, True),
    ("another header differs", [("Vary", "X-A")], {"X-B": "1"}, {"X-B": "2"}, True),
    ("two, both match", [("Vary", "X-A, X-B")], {"X-A": "1"}, {"X-A": "1"}, True),
    ("two, one differs", [("Vary", "X-A, X-B")], {"X-B": "1"}, {"X-B": "2"}, False),
    ("two lines, second differs", [("Vary", "X-A"), ("Vary", "X-B")], {"X-B": "1"}, {}, False),
    ("case of the name", [("Vary", "x-a")], {"X-A": "1"}, {"x-A": "1"}, True),
    ("star", [("Vary", "*")], {}, {}, False),
    ("star in a list", [("Vary", "X-A, *")], {}, {}, False),
    ("star on a second line", [("Vary", "X-A"), ("Vary", "*")], {}, {}, False),
    ("empty members", [("Vary", ", ,X-A")], {"X-A": "1"}, {"X-A": "2"}, False),
]


@pytest.mark.parametrize("given", VARY, ids=lambda given: given[0])
def test_vary_keeps_answers_apart(
    given: tuple[str, Headers, dict[str, str], dict[str, str], bool],
    upstream: FakeUpstream,
    honouring: RecollectServer,
) -> None:
    """RFC 9111 §4.1: an answer serves only requests that agree in what it varies on."""
    name, varies, one, other, is_reused = given
    prompt = unique(name)
    upstream.on(prompt, Play(headers=[(CC, "max-age=3600"), *varies]))

    answers = [honouring.chat(prompt, headers=headers) for headers in (one, other)]

    assert answers[1].cache.hit is is_reused
    assert upstream.calls(prompt) == 2 - is_reused


def test_vary_lets_the_first_variant_be_used_again(
    upstream: FakeUpstream, honouring: RecollectServer
) -> None:
    """Whatever is kept of several variants, none is served for another."""
    prompt = unique("variants")
    upstream.on(prompt, Play(headers=[(CC, "max-age=3600"), ("Vary", "X-A")]))
    texts: dict[str, set[str]] = {"1": set(), "2": set()}

    for value in ("1", "2", "2", "1", "1"):
        texts[value].add(honouring.chat(prompt, headers={"X-A": value}).text)

    assert not texts["1"] & texts["2"]


REQUEST = [
    ("no-cache", False),
    ("no-store", False),
    ("max-age=0", False),
    ("max-age=10", False),
    ("max-age=1000", True),
    ("min-fresh=100", True),
    ("min-fresh=3550", False),
    ("max-age=1000, min-fresh=3550", False),
    ("max-stale=10", True),
    ("only-if-cached", True),
    ("only-if-cached, max-age=1000", True),
    ('max-age="1000"', True),
    ("x-unknown", True),
]


@pytest.mark.parametrize(("directives", "is_reused"), REQUEST)
def test_request_directives_weigh_the_upstreams_age(
    directives: str, is_reused: bool, upstream: FakeUpstream, honouring: RecollectServer
) -> None:
    """RFC 9111 §5.2.1, against an answer that arrived 100 s old with 3500 s left."""
    prompt = unique("request")
    upstream.on(prompt, Play(headers=[(CC, "max-age=3600"), ("Age", "100")]))
    honouring.chat(prompt)

    answer = honouring.chat(prompt, headers={"Cache-Control": directives})

    assert answer.cache.hit is is_reused
    assert upstream.calls(prompt) == 2 - is_reused


@pytest.mark.parametrize("headers", [[(CC, "no-store")], [(CC, "max-age=0")], [("Expires", "0")]])
def test_by_default_the_upstreams_headers_do_not_decide(
    headers: Headers, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """LLM servers send `no-store` out of habit: the operator's lifetime holds unless told else."""
    prompt = unique("ignore")
    upstream.on(prompt, Play(headers=headers))

    recollect.chat(prompt)

    assert recollect.chat(prompt).cache.hit
