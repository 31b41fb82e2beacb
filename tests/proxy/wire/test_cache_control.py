"""Cache-Control as tables: what is sent, what is decided, where it is written."""

from math import inf

import pytest

from proxy.wire.cache_control import (
    RequestDirectives,
    parse_cache_control,
    request_directives,
    upstream_freshness,
)

_DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
_NOW = 784111777.0
"""The same moment in Unix seconds (RFC 9110 §5.6.7 uses it as its example)."""

_LATER = b"Sun, 06 Nov 1994 09:49:37 GMT"


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ([], {}),
        ([b""], {}),
        ([b" , ,"], {}),
        ([b"no-store"], {"no-store": (None,)}),
        ([b"No-Store,MAX-AGE=5"], {"no-store": (None,), "max-age": ("5",)}),
        ([b"a=1", b"a=2, b"], {"a": ("1", "2"), "b": (None,)}),
        ([b'private="x, y", b'], {"private": ("x, y",), "b": (None,)}),
        ([b'a="q\\"no-store\\\\"'], {"a": ('q"no-store\\',)}),
        ([b'a="open, no-store', b"b"], {"a": ('"open, no-store',), "b": (None,)}),
        ([b"a = 1", b"b= 1", b"c =1"], {"a": ("",), "b": ("",), "c": ("",)}),
        ([b"a="], {"a": ("",)}),
        ([b"=1"], {}),
        ([b'a=1"2"'], {"a": ('1"2"',)}),
        ([b"a=\xe9"], {"a": ("é",)}),
    ],
)
def test_directives_are_split_at_commas_outside_of_quotes(
    lines: list[bytes], wanted: dict[str, tuple[str | None, ...]]
) -> None:
    """RFC 9111 §5.2, RFC 9110 §5.6.1 and §5.6.4: lists, quoted strings, names in any case."""
    assert parse_cache_control(lines) == wanted


@pytest.mark.parametrize(
    ("value", "wanted", "source"),
    [
        (b"", RequestDirectives(), "§5.2"),
        (b"no-store", RequestDirectives(no_store=True), "§5.2.1.5"),
        (b"no-cache", RequestDirectives(no_cache=True), "§5.2.1.4"),
        (b'no-cache="x"', RequestDirectives(no_cache=True), "§5.2.1.4"),
        (b"only-if-cached", RequestDirectives(only_if_cached=True), "§5.2.1.7"),
        (b"max-age=60", RequestDirectives(max_age_s=60), "§5.2.1.1"),
        (b"MAX-AGE=060", RequestDirectives(max_age_s=60), "§5.2, names in any case"),
        (b'max-age="60"', RequestDirectives(max_age_s=60), "§5.2, both forms are read"),
        (b"max-age=0", RequestDirectives(max_age_s=0), "§5.2.1.1"),
        (b"max-age", RequestDirectives(max_age_s=0), "malformed: the tightest limit"),
        (b"max-age=", RequestDirectives(max_age_s=0), "malformed"),
        (b"max-age=-1", RequestDirectives(max_age_s=0), "malformed"),
        (b"max-age=1.5", RequestDirectives(max_age_s=0), "malformed"),
        (b"max-age='60'", RequestDirectives(max_age_s=0), "malformed"),
        (b"max-age =60", RequestDirectives(max_age_s=0), "malformed"),
        (b"max-age=60, max-age=5", RequestDirectives(max_age_s=5), "§4.2.1, the strictest"),
        (b"max-age=2147483648", RequestDirectives(max_age_s=2**31), "§1.2.2"),
        (b"max-age=99999999999", RequestDirectives(max_age_s=2**31), "§1.2.2"),
        (b"max-age=" + b"9" * 5000, RequestDirectives(max_age_s=2**31), "§1.2.2"),
        (b"max-age=" + b"0" * 20 + b"7", RequestDirectives(max_age_s=7), "§1.2.2"),
        ("max-age=٣".encode(), RequestDirectives(max_age_s=0), "digits are ASCII"),
        (b"min-fresh=9", RequestDirectives(min_fresh_s=9), "§5.2.1.3"),
        (b"min-fresh=9, min-fresh=10", RequestDirectives(min_fresh_s=10), "the strictest"),
        (b"min-fresh", RequestDirectives(min_fresh_s=inf), "malformed: never fresh enough"),
        (b"min-fresh=x", RequestDirectives(min_fresh_s=inf), "malformed"),
        (b"max-stale", RequestDirectives(max_stale_s=inf), "§5.2.1.2, any age"),
        (b"max-stale=9", RequestDirectives(max_stale_s=9), "§5.2.1.2"),
        (b"max-stale, max-stale=9", RequestDirectives(max_stale_s=9), "the strictest"),
        (b"max-stale=x", RequestDirectives(max_stale_s=0), "malformed"),
        (b"stale-if-error=9", RequestDirectives(stale_if_error_s=9), "RFC 5861 §4"),
        (b"stale-if-error", RequestDirectives(stale_if_error_s=0), "malformed"),
        (
            b"stale-while-revalidate=9",
            RequestDirectives(stale_while_revalidate_s=9),
            "RFC 5861 §3",
        ),
        (b"stale-while-revalidate=x", RequestDirectives(stale_while_revalidate_s=0), "malformed"),
        (b'x="no-store, max-age=1"', RequestDirectives(), "RFC 9110 §5.6.4, quoted"),
        (b"no-storex, xno-cache", RequestDirectives(), "§5.2.3, unknown ones are ignored"),
    ],
)
def test_request_directives(value: bytes, wanted: RequestDirectives, source: str) -> None:
    """RFC 9111 §5.2.1 unless the row says otherwise."""
    assert request_directives([(b"Cache-Control", value)]) == wanted, source


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ([(b"pragma", b"no-cache")], True),
        ([(b"Pragma", b"x, No-Cache")], True),
        ([(b"pragma", b"x")], False),
        ([(b"pragma", b"no-cache"), (b"cache-control", b"max-age=60")], False),
        ([(b"pragma", b"no-cache"), (b"cache-control", b"no-cache")], True),
        ([], False),
    ],
)
def test_pragma_counts_only_without_cache_control(
    headers: list[tuple[bytes, bytes]], wanted: bool
) -> None:
    """RFC 9111 §5.4."""
    assert request_directives(headers).no_cache is wanted


@pytest.mark.parametrize(
    ("value", "reason", "source"),
    [
        (b"max-age=60", "", "§3"),
        (b"public", "", "§5.2.2.9"),
        (b"no-store", "no-store", "§5.2.2.5"),
        (b"No-Store, max-age=60", "no-store", "§5.2.2.5"),
        (b"no-store, must-understand", "", "§5.2.2.3: status 200 is understood"),
        (b"no-cache", "no-cache", "§5.2.2.4: would have to be validated each time"),
        (b'no-cache="set-cookie"', "no-cache", "§5.2.2.4: may be treated as without names"),
        (b"private", "private", "§5.2.2.7"),
        (b'private="x"', "private", "§5.2.2.7"),
        (b'x="no-store"', "", "RFC 9110 §5.6.4"),
        (b"immutable, proxy-revalidate", "", "§5.2.3"),
    ],
)
def test_an_upstream_says_whether_its_answer_may_be_stored(
    value: bytes, reason: str, source: str
) -> None:
    """RFC 9111 §3 and §5.2.2."""
    freshness = upstream_freshness([(b"Cache-Control", value)], _NOW)

    assert (freshness.may_store, freshness.reason) == (not reason, reason), source


@pytest.mark.parametrize(
    ("headers", "lifetime_s", "source"),
    [
        ([], None, "§4.2.1: nothing said"),
        ([(b"cache-control", b"public")], None, "§4.2.1"),
        ([(b"cache-control", b"max-age=60")], 60, "§5.2.2.1"),
        ([(b"cache-control", b"max-age=0")], 0, "§5.2.2.1"),
        ([(b"cache-control", b"max-age=1, s-maxage=60")], 60, "§5.2.2.10, whatever the order"),
        ([(b"cache-control", b"s-maxage=1, max-age=60")], 1, "§5.2.2.10"),
        ([(b"cache-control", b"max-age=60, max-age=5")], 5, "§4.2.1: several"),
        ([(b"cache-control", b"max-age=5"), (b"cache-control", b"max-age=60")], 5, "§4.2.1"),
        ([(b"cache-control", b"max-age=x")], 0, "§4.2.1: invalid is stale"),
        ([(b"cache-control", b"max-age=-60")], 0, "§4.2.1"),
        ([(b"cache-control", b"max-age=60a")], 0, "§4.2.1"),
        ([(b"cache-control", b"max-age= 60")], 0, "§4.2.1"),
        ([(b"cache-control", b'max-age="60"')], 60, "§5.2"),
        ([(b"cache-control", b"max-age")], 0, "§4.2.1"),
        ([(b"cache-control", b"max-age=9999999999")], 2**31, "§1.2.2"),
        ([(b"cache-control", b"s-maxage=x, max-age=60")], 0, "§4.2.1"),
        ([(b"date", _DATE), (b"expires", _LATER)], 3600, "§5.3"),
        ([(b"expires", _LATER)], 3600, "§4.2.1, Date missing: as received (RFC 9110 §6.6.1)"),
        ([(b"date", b"x"), (b"expires", _LATER)], 3600, "the same, invalid"),
        ([(b"date", _LATER), (b"expires", _DATE)], 0, "§5.3: in the past"),
        ([(b"date", _DATE), (b"expires", _DATE)], 0, "§5.3"),
        ([(b"expires", b"0")], 0, "§5.3: invalid, 0 above all"),
        ([(b"expires", b"")], 0, "§5.3"),
        ([(b"expires", _LATER), (b"expires", b"0")], 0, "§4.2.1: several"),
        ([(b"expires", _LATER), (b"cache-control", b"max-age=5")], 5, "§5.3: max-age goes first"),
        ([(b"expires", _LATER), (b"cache-control", b"max-age=x")], 0, "§4.2.1"),
        ([(b"expires", _LATER), (b"cache-control", b"public")], 3600, "§5.3"),
    ],
)
def test_an_upstream_says_how_long_its_answer_is_fresh(
    headers: list[tuple[bytes, bytes]], lifetime_s: float | None, source: str
) -> None:
    """RFC 9111 §4.2.1 and §5.3."""
    assert upstream_freshness(headers, _NOW).lifetime_s == lifetime_s, source


@pytest.mark.parametrize(
    ("date", "is_valid"),
    [
        (b"Sun, 06 Nov 1994 09:49:37 GMT", True),
        (b"Sunday, 06-Nov-94 09:49:37 GMT", False),
        (b"Sun Nov  6 09:49:37 1994", True),
        (b"Sun Nov 06 09:49:37 1994", True),
        (b" Sun, 06 Nov 1994 09:49:37 GMT ", True),
        (b"Sun, 6 Nov 1994 09:49:37 GMT", False),
        (b"Sun, 06 Nov 1994 9:49:37 GMT", False),
        (b"Sun, 06 Nov 1994 09:49 GMT", False),
        (b"Sun, 06 Nov 1994 24:00:00 GMT", False),
        (b"Sun, 06 Nov 1994 09:49:37 UTC", False),
        (b"Sun, 06 Nov 1994 09:49:37 +0000", False),
        (b"Sun, 06 Nov 1994 09:49:37", False),
        (b"Sun 06 Nov 1994 09:49:37 GMT", False),
        (b"Sun,  06 Nov 1994 09:49:37 GMT", False),
        (b"SUN, 06 NOV 1994 09:49:37 GMT", False),
        (b"06 Nov 1994 09:49:37 GMT", False),
        (b"Sun, 06 Nov 94 09:49:37 GMT", False),
        (b"784115377", False),
    ],
)
def test_dates_are_read_in_the_three_forms_of_the_standard_and_no_other(
    date: bytes, is_valid: bool
) -> None:
    """RFC 9110 §5.6.7. The second form has two digits for the year: 94 is 2094 for us."""
    lifetime_s = upstream_freshness([(b"expires", date)], _NOW).lifetime_s

    if date.startswith(b"Sunday"):
        assert lifetime_s is not None
        assert lifetime_s > 3e9
    else:
        assert lifetime_s == (3600 if is_valid else 0)


@pytest.mark.parametrize(
    ("headers", "age_s", "source"),
    [
        ([], 0, "§4.2.3"),
        ([(b"age", b"60")], 60, "§5.1"),
        ([(b"Age", b" 60 ")], 60, "§5.1"),
        ([(b"age", b"60, 0")], 60, "§5.1: the first of a list"),
        ([(b"age", b"60"), (b"age", b"0")], 60, "§5.1"),
        ([(b"age", b",60")], 60, "RFC 9110 §5.6.1: empty members do not count"),
        ([(b"age", b"x, 60")], 0, "§5.1: invalid is ignored"),
        ([(b"age", b"-60")], 0, "§5.1"),
        ([(b"age", b"60.5")], 0, "§5.1"),
        ([(b"age", b"60;x")], 0, "§5.1"),
        ([(b"age", b"")], 0, "§5.1"),
        ([(b"age", b"99999999999")], 2**31, "§1.2.2"),
        ([(b"date", b"Sun, 06 Nov 1994 08:48:37 GMT")], 60, "§4.2.3: apparent age"),
        ([(b"date", b"Sun, 06 Nov 1994 08:48:37 GMT"), (b"age", b"90")], 90, "§4.2.3: the larger"),
        ([(b"date", b"Sun, 06 Nov 1994 08:48:37 GMT"), (b"age", b"9")], 60, "§4.2.3"),
        ([(b"date", _LATER)], 0, "§4.2.3: never negative"),
        ([(b"date", b"yesterday")], 0, "no valid date"),
    ],
)
def test_an_answer_may_be_old_when_it_comes(
    headers: list[tuple[bytes, bytes]], age_s: float, source: str
) -> None:
    """RFC 9111 §4.2.3 and §5.1."""
    assert upstream_freshness(headers, _NOW).initial_age_s == age_s, source


@pytest.mark.parametrize(
    ("value", "may_serve_stale", "source"),
    [
        (b"max-age=1", True, "§4.2.4"),
        (b"must-revalidate", False, "§5.2.2.2"),
        (b"proxy-revalidate", False, "§5.2.2.8"),
        (b"s-maxage=1", False, "§5.2.2.10"),
        (b"no-cache", False, "§4.2.4"),
    ],
)
def test_an_upstream_may_forbid_stale_answers(
    value: bytes, may_serve_stale: bool, source: str
) -> None:
    """RFC 9111 §4.2.4."""
    freshness = upstream_freshness([(b"cache-control", value)], _NOW)

    assert freshness.may_serve_stale is may_serve_stale, source


@pytest.mark.parametrize(
    ("headers", "vary", "may_store"),
    [
        ([], (), True),
        ([(b"vary", b"Foo")], ("foo",), True),
        ([(b"vary", b"foo, , Bar"), (b"Vary", b"FOO")], ("bar", "foo"), True),
        ([(b"vary", b"*")], ("*",), False),
        ([(b"vary", b"foo, *")], ("*", "foo"), False),
        ([(b"vary", b"foo"), (b"vary", b"*")], ("*", "foo"), False),
        ([(b"vary", b"*foo")], ("*foo",), True),
    ],
)
def test_vary_names_the_fields_and_a_star_forbids_reuse(
    headers: list[tuple[bytes, bytes]], vary: tuple[str, ...], may_store: bool
) -> None:
    """RFC 9111 §4.1, RFC 9110 §12.5.5."""
    freshness = upstream_freshness(headers, _NOW)

    assert (freshness.vary, freshness.may_store) == (vary, may_store)
    assert freshness.reason == ("" if may_store else "vary")
