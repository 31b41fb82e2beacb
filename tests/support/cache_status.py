"""`Cache-Status` (RFC 9211), read by the tests on their own."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """The member `recollect` of a `Cache-Status` header."""

    hit: bool = False
    fwd: str = ""
    stored: bool = False
    collapsed: bool = False
    detail: str = ""
    ttl_s: int | None = None
    fwd_status: int | None = None
    score: float | None = None
    """Ours, beside `detail=semantic`: RFC 9211 §2 leaves room for parameters of one's own."""
    key: str | None = None


def parse_cache_status(value: str) -> CacheStatus:
    """Read a header value; an absent or foreign one gives the default.

    Raises:
        ValueError: A parameter occurs that neither RFC 9211 §2 nor we know.
    """
    member, *parameters = (part.strip() for part in value.split(";"))
    if member != "recollect":
        return CacheStatus()
    given = {part.partition("=")[0]: part.partition("=")[2] for part in parameters}
    known = {"hit", "fwd", "stored", "collapsed", "detail", "ttl", "fwd-status"}
    known |= {"score", "key"}
    unknown = set(given) - known
    if unknown:
        raise ValueError(f"unknown Cache-Status parameters {sorted(unknown)} in {value!r}")
    return CacheStatus(
        hit="hit" in given,
        fwd=given.get("fwd", ""),
        stored="stored" in given,
        collapsed="collapsed" in given,
        detail=given.get("detail", "").strip('"'),
        ttl_s=int(given["ttl"]) if "ttl" in given else None,
        fwd_status=int(given["fwd-status"]) if "fwd-status" in given else None,
        score=float(given["score"]) if "score" in given else None,
        key=given["key"].strip('"') if "key" in given else None,
    )
