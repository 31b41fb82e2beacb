"""Addresses of Redis."""

import pytest

from cachestore.redis_url import RedisAddress


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://cache", RedisAddress("cache", 6379, "", False, 0, "", "")),
        ("redis://cache:7000/3", RedisAddress("cache", 7000, "", False, 3, "", "")),
        ("redis://cache/", RedisAddress("cache", 6379, "", False, 0, "", "")),
        ("redis://[::1]:7000/0", RedisAddress("::1", 7000, "", False, 0, "", "")),
        ("redis://:pw@cache", RedisAddress("cache", 6379, "", False, 0, "", "pw")),
        ("redis://me:p%40%2Fw@cache", RedisAddress("cache", 6379, "", False, 0, "me", "p@/w")),
        ("rediss://cache", RedisAddress("cache", 6379, "", True, 0, "", "")),
        ("unix:///run/r.sock", RedisAddress("", 0, "/run/r.sock", False, 0, "", "")),
        ("unix:///a%20b?db=15", RedisAddress("", 0, "/a b", False, 15, "", "")),
        ("unix://me:pw@/r.sock", RedisAddress("", 0, "/r.sock", False, 0, "me", "pw")),
    ],
)
def test_an_address_is_read_from_its_url(url: str, expected: RedisAddress) -> None:
    """The forms redis-py and redis-cli know, as far as we support them."""
    assert RedisAddress.parse(url) == expected


@pytest.mark.parametrize(
    ("url", "what_is_wrong"),
    [
        ("", "begins with"),
        ("http://sesame@cache", "user has a password"),
        ("http://cache", "begins with"),
        ("cache:6379", "begins with"),
        ("redis://", "host"),
        ("redis:///0", "host"),
        ("redis://cache:0", "port"),
        ("redis://cache:70000", "port"),
        ("redis://cache:sesame", "port"),
        ("redis://:sesame/word@cache", "port"),
        ("redis://[::1", "host"),
        ("redis://:sesame#word@cache", "port"),
        ("redis://:sesame@cache#x", "fragment"),
        ("redis://cache/x", "database"),
        ("redis://cache/-1", "database"),
        ("redis://cache/1/2", "database"),
        ("redis://cache/99999", "database"),
        ("redis://cache/123456", "database"),
        ("redis://cache/²", "database"),
        ("redis://cache?db=1", "query"),
        ("redis://sesame@cache", "user has a password"),
        ("unix://relative/path", "absolute"),
        ("unix:", "absolute"),
        ("unix:///r.sock?db=x", "database"),
        ("unix:///r.sock?database=1", "query"),
        ("unix:///r.sock?db=1&db=2", "query"),
        ("unix:///" + 107 * "x", "107"),
        ("unix:///a%00b", "107"),
    ],
)
def test_a_bad_url_is_refused_with_a_reason_that_does_not_repeat_it(
    url: str, what_is_wrong: str
) -> None:
    """A mistyped address may hold a password, and errors end up in logs."""
    with pytest.raises(ValueError, match=what_is_wrong) as caught:
        RedisAddress.parse(url)

    assert "sesame" not in str(caught.value)


def test_an_address_does_not_show_its_password() -> None:
    """Not even in a debugger's or a log's repr."""
    assert "sesame" not in repr(RedisAddress.parse("redis://:sesame@cache"))
