"""What requests and upstreams ask of caches (RFC 9111 §4.2 and §5, RFC 5861).

Whatever is malformed is read the strict way: freshness information that is not understood
counts as stale (RFC 9111 §4.2.1), a limit that is not understood as the tightest one.

Nothing here reads a clock: the caller passes `now`.
"""

import re
from calendar import timegm
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from types import MappingProxyType
from typing import Final

Headers = Iterable[tuple[bytes, bytes]]
"""Header fields in the order received; names in any case."""

Directives = Mapping[str, tuple[str | None, ...]]
"""By lower-case name, the values with which a directive was given; None where it had none."""

_MOST_S: Final = 2**31
"""What larger delta-seconds count as (RFC 9111 §1.2.2)."""

_DIRECTIVE: Final = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*+"?)++', re.DOTALL)
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_DIGITS: Final = re.compile(r"[0-9]+")

_MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
_TIME: Final = r"(?P<hour>[01][0-9]|2[0-3]):(?P<minute>[0-5][0-9]):(?P<second>[0-5][0-9]|60)"
_MONTH: Final = rf"(?P<month>{'|'.join(_MONTHS)})"
_DATE_FORMS: Final = (
    # IMF-fixdate, then the two obsolete forms that must be accepted (RFC 9110 §5.6.7).
    re.compile(
        rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}})"
        rf" {_TIME} GMT"
    ),
    re.compile(
        rf"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (?P<day>[0-9]{{2}})-{_MONTH}"
        rf"-(?P<year>[0-9]{{2}}) {_TIME} GMT"
    ),
    re.compile(
        rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) {_MONTH} (?P<day>[ 0-9][0-9]) {_TIME}"
        rf" (?P<year>[0-9]{{4}})"
    ),
)


@dataclass(frozen=True, slots=True)
class RequestDirectives:
    """What a request asks of caches (RFC 9111 §5.2.1, RFC 5861).

    Attributes:
        no_store: Do not look up, do not store.
        no_cache: Do not answer from the cache; the new answer may be stored.
        only_if_cached: Do not ask the upstream.
        max_age_s: The oldest answer that will do. None: any.
        min_fresh_s: For how long the answer must still be fresh. None: not at all.
        max_stale_s: For how long it may have been stale; `inf` for any time. None: not at all.
        stale_if_error_s: The same, if the upstream fails. None: as the operator decides.
        stale_while_revalidate_s: The same, while a new answer is fetched. None: likewise.
    """

    no_store: bool = False
    no_cache: bool = False
    only_if_cached: bool = False
    max_age_s: float | None = None
    min_fresh_s: float | None = None
    max_stale_s: float | None = None
    stale_if_error_s: float | None = None
    stale_while_revalidate_s: float | None = None


@dataclass(frozen=True, slots=True)
class UpstreamFreshness:
    """What an upstream's header fields allow a shared cache to do with an answer.

    Attributes:
        may_store: Whether it may be stored for reuse without asking the upstream again.
        reason: The directive that forbids it, "" where it may be stored.
        lifetime_s: Its freshness lifetime (RFC 9111 §4.2.1). None: the upstream did not say.
        initial_age_s: Its age when it was received (RFC 9111 §4.2.3).
        may_serve_stale: Whether it may be used past its lifetime (RFC 9111 §4.2.4).
        vary: The request's header fields that the answer depends on, in lower case, sorted.
    """

    may_store: bool
    reason: str
    lifetime_s: float | None
    initial_age_s: float
    may_serve_stale: bool
    vary: tuple[str, ...]


def parse_cache_control(values: Sequence[bytes]) -> Directives:
    """Return the directives of all field lines (RFC 9111 §5.2).

    White space around `=` is not allowed there; a value so given is read as "", which no
    directive understands.
    """
    directives: dict[str, tuple[str | None, ...]] = {}
    for line in values:
        for piece in _DIRECTIVE.findall(line.decode("latin-1")):
            name, has_value, value = piece.strip().partition("=")
            given: str | None = None
            if has_value:
                is_spaced = name != name.rstrip() or value != value.lstrip()
                given = "" if is_spaced else _unquoted(value)
            name = name.strip().lower()
            if name:
                directives[name] = (*directives.get(name, ()), given)
    return MappingProxyType(directives)


def request_directives(headers: Headers) -> RequestDirectives:
    """Return what a request asks. `Pragma` counts only without `Cache-Control` (§5.4)."""
    fields = _fields(headers)
    if "cache-control" not in fields:
        return RequestDirectives(no_cache="no-cache" in _list(fields.get("pragma", ())))
    given = parse_cache_control(fields["cache-control"])
    return RequestDirectives(
        no_store="no-store" in given,
        no_cache="no-cache" in given,
        only_if_cached="only-if-cached" in given,
        max_age_s=_limit(given, "max-age", min, bare=0, malformed=0),
        min_fresh_s=_limit(given, "min-fresh", max, bare=inf, malformed=inf),
        max_stale_s=_limit(given, "max-stale", min, bare=inf, malformed=0),
        stale_if_error_s=_limit(given, "stale-if-error", min, bare=0, malformed=0),
        stale_while_revalidate_s=_limit(given, "stale-while-revalidate", min, bare=0, malformed=0),
    )


def upstream_freshness(headers: Headers, now: float) -> UpstreamFreshness:
    """Return what an answer's header fields say to a shared cache.

    For answers with status 200 alone: it is understood, which is what `must-understand` asks
    about (RFC 9111 §5.2.2.3).

    Args:
        headers: The answer's header fields.
        now: When the answer was received, in Unix seconds.
    """
    fields = _fields(headers)
    given = parse_cache_control(fields.get("cache-control", ()))
    vary = tuple(sorted(set(_list(fields.get("vary", ())))))
    reason = ""
    if "no-store" in given and "must-understand" not in given:
        reason = "no-store"
    elif "private" in given:
        reason = "private"
    elif "no-cache" in given:
        # We never validate, so what needs it each time is of no use. With field names it would
        # be enough to leave those out, but a cache may be stricter (§5.2.2.4).
        reason = "no-cache"
    elif "*" in vary:
        reason = "vary"
    date = _date(fields.get("date", ()))
    apparent_age_s = 0.0 if date is None else max(0.0, now - date)
    return UpstreamFreshness(
        may_store=not reason,
        reason=reason,
        lifetime_s=_lifetime_s(given, fields, now if date is None else date),
        initial_age_s=max(apparent_age_s, _age_s(fields.get("age", ()))),
        # s-maxage means proxy-revalidate too (§5.2.2.10).
        may_serve_stale=given.keys().isdisjoint(
            ("must-revalidate", "proxy-revalidate", "s-maxage", "no-cache")
        ),
        vary=vary,
    )


def _lifetime_s(given: Directives, fields: Mapping[str, list[bytes]], date: float) -> float | None:
    """Return the freshness lifetime, by the order of RFC 9111 §4.2.1."""
    for name in ("s-maxage", "max-age"):
        lifetime_s = _limit(given, name, min, bare=0, malformed=0)
        if lifetime_s is not None:
            return lifetime_s
    expires = fields.get("expires")
    if expires is None:
        return None
    # Invalid dates, "0" above all, mean the past (§5.3); of several the earliest counts.
    dates = [_date([value]) for value in expires]
    return min(0.0 if day is None else max(0.0, day - date) for day in dates)


def _limit(
    given: Directives,
    name: str,
    strictest: Callable[[Iterable[float]], float],
    bare: float,
    malformed: float,
) -> float | None:
    """Return a directive's seconds: of several values the strictest, None if it is not given."""
    values = given.get(name)
    if values is None:
        return None
    seconds = (bare if value is None else _delta_s(value, malformed) for value in values)
    return strictest(seconds)


def _delta_s(value: str, malformed: float) -> float:
    if _DIGITS.fullmatch(value) is None:
        return malformed
    # Ten digits are more than 2^31; longer ones need no reading.
    return float(_MOST_S if len(value.lstrip("0")) > 10 else min(int(value), _MOST_S))


def _age_s(values: Sequence[bytes]) -> float:
    """Return the Age field: the first of several, nothing if malformed (RFC 9111 §5.1)."""
    members = _list(values)
    return _delta_s(members[0], 0.0) if members else 0.0


def _date(values: Sequence[bytes]) -> float | None:
    """Return the date in Unix seconds, or None if there is none that is valid (RFC 9110 §5.6.7)."""
    if not values:
        return None
    text = values[0].decode("latin-1").strip()
    found = next((found for form in _DATE_FORMS if (found := form.fullmatch(text))), None)
    if found is None:
        return None
    year = int(found["year"])
    if year < 100:
        # RFC 850 dates have two digits. Recollect did not exist before 2000, nor will its
        # answers be fresh for half a century.
        year += 2000
    month = _MONTHS.index(found["month"]) + 1
    clock = (int(found["hour"]), int(found["minute"]), int(found["second"]))
    return float(timegm((year, month, int(found["day"]), *clock)))


def _unquoted(value: str) -> str:
    quoted = _QUOTED.fullmatch(value)
    return value if quoted is None else re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL)


def _fields(headers: Headers) -> dict[str, list[bytes]]:
    fields: dict[str, list[bytes]] = {}
    for name, value in headers:
        fields.setdefault(name.decode("latin-1").lower(), []).append(value)
    return fields


def _list(values: Sequence[bytes]) -> list[str]:
    """Return the members of a comma-separated field in lower case, empty ones left out."""
    members = b",".join(values).decode("latin-1").lower().split(",")
    return [word for member in members if (word := member.strip())]
