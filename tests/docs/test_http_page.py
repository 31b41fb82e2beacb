"""docs/http.md says what the code does."""

import ast
import json
import re
from dataclasses import fields

import pytest

from proxy.handler import _FORWARDED
from proxy.lookup.answers import StoredAnswer
from proxy.lookup.heads import REPLAYED
from proxy.lookup.keys import _DEFAULTS, _LEFT_OUT, _NOT_IN_KEY, _NULLABLE
from proxy.lookup.policy import Reason
from proxy.lookup.single_flight import Flight, Head
from proxy.replies import Replies, hit_status
from proxy.router import _CACHEABLE
from proxy.wire.cache_control import RequestDirectives
from proxy.wire.endpoint import Endpoint, Form
from proxy.wire.record import Recording
from tests.docs.pages import codes, part, read, rows, snippets, syntax_of

PAGE = "docs/http.md"
PATHS = {endpoint: path.decode() for path, endpoint in _CACHEABLE.items()}


def documented_forms() -> dict[str, re.Pattern[str]]:
    """Return each form of Cache-Status on the page, and what it matches."""
    reasons = "|".join(re.escape(reason) for reason in Reason)
    forwards = "|".join(re.escape(codes(word)[0]) for word, *_ in rows(part(PAGE, "fwd")))
    forms = {}
    for cell, *_ in rows(part(PAGE, "forms")):
        [form] = codes(cell)
        pattern = re.escape(form).replace("REASON", f"(?:{reasons})").replace("FWD", "(?:%s)")
        pattern = re.sub(r"=N\b", r"=-?[0-9]+", pattern)
        pattern = re.sub(r"=S\b", r"=-?[01]\\.[0-9]{3}", pattern)
        pattern = pattern.replace('"K"', '"[0-9a-f]{64}"')
        forms[form] = re.compile(pattern.replace("%s", forwards))
    return forms


def sent_statuses() -> set[str]:
    """Return values of Cache-Status as the code makes them, each form at least once."""
    literals = {
        node.value.decode()
        for node in syntax_of("proxy")
        if isinstance(node, ast.Constant)
        and isinstance(node.value, bytes)
        and node.value.startswith(b"recollect; fwd=")
    }
    # What a literal leaves open is added behind it, by the code as here.
    values = {text + Reason.NO_STORE for text in literals if text.endswith("detail=")}
    values |= {text for text in literals if not text.endswith("=")}
    values |= {hit_status(ttl_s).decode() for ttl_s in (588.9, -3.0)}
    values |= {hit_status(588.9, score, b"k" * 32).decode() for score in (0.96349, 1.0)}
    answer = StoredAnswer(
        key=bytes(32),
        stored_at=0,
        lifetime_s=60,
        keep_s=0,
        initial_age_s=0,
        endpoint=Endpoint.CHAT,
        recording=Recording(Form.JSON, b"{}", b"", 0, 0),
        headers=(),
        vary=(),
        upstream_s=1,
    )
    for forwarded in {b"miss", b"request", *_FORWARDED.values()}:
        for status, landed, reason, is_collapsed in (
            (200, None, None, False),
            (200, answer, None, False),
            (200, None, Reason.FINISH_REASON, False),
            (200, None, None, True),
            (503, None, None, False),
        ):
            flight = Flight(bytes(32), None, 1)
            flight.begin(Head(status, [], None, False))
            flight.landed, flight.reason, flight.is_collapsed = landed, reason, is_collapsed
            values.add(Replies.forwarded_status(flight, forwarded).decode())
    return values


def own_errors() -> set[tuple[str, str]]:
    """Return status and code of each error that the code makes; `any` where it has no one."""
    found = set()
    for node in syntax_of("proxy"):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        first = {"ErrorAnswer": 0, "_refuse": 1}.get(name)
        if first is None or len(node.args) < first + 3:
            continue
        status, _, code = node.args[first : first + 3]
        if isinstance(code, ast.Constant):
            is_fixed = isinstance(status, ast.Constant)
            found.add((ast.unparse(status) if is_fixed else "any", str(code.value)))
    return found


def test_the_cached_endpoints_are_those_that_are_cached() -> None:
    """The router decides by these paths."""
    surface = rows(read(PAGE).partition("## Surface")[2].partition("## ")[0])
    cached = {codes(cell)[0] for cell, what, *_ in surface if what.startswith("cached")}

    assert cached == {f"POST {path}" for path in PATHS.values()}


def test_the_fields_that_do_not_count_are_those_left_out_of_the_key_with_their_reasons() -> None:
    """The deny-list's own words: whoever adds a field explains it once."""
    table = {codes(field)[0]: (why, at) for field, why, at in rows(part(PAGE, "left-out"))}

    assert table == {
        field: (why, "does not count" if field in _LEFT_OUT[Endpoint.RESPONSES] else "counts")
        for field, why in _NOT_IN_KEY.items()
    }


def test_the_defaults_on_the_page_are_those_folded() -> None:
    """Each as the member of a JSON object that it would be in a request."""
    table = {
        codes(path)[0]: json.loads("{" + ", ".join(codes(defaults)) + "}")
        for path, defaults in rows(part(PAGE, "defaults"))
    }

    assert table == {PATHS[endpoint]: dict(folded) for endpoint, folded in _DEFAULTS.items()}


def test_the_fields_whose_null_is_nothing_are_those_on_the_page() -> None:
    """Sorted, so that a difference is found at a glance."""
    assert codes(part(PAGE, "nullable")) == sorted(_NULLABLE)


def test_every_directive_is_documented_and_no_other() -> None:
    """What is read of the request's Cache-Control."""
    section = read(PAGE).partition("## Request directives")[2].partition("**LiteLLM")[0]
    documented = {code.partition("=")[0] for cell, _ in rows(section) for code in codes(cell)}

    assert documented == {
        field.name.removesuffix("_s").replace("_", "-") for field in fields(RequestDirectives)
    }


def test_every_member_of_litellms_field_is_documented_and_no_other() -> None:
    """Members are read by three functions that name them."""
    section = read(PAGE).partition("**LiteLLM")[2].partition("## ")[0]
    documented = {code for cell, _ in rows(section) for code in codes(cell)}
    understood = {
        node.args[1].value
        for node in syntax_of("proxy/lookup")
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") in ("_flag", "_seconds", "_text")
        and isinstance(node.args[1], ast.Constant)
    }

    assert documented == understood
    [example] = [json.loads(text) for text in snippets(section, "json")]
    assert set(example["cache"]) == understood


@pytest.mark.parametrize("value", sorted(sent_statuses()))
def test_every_cache_status_is_of_a_documented_form(value: str) -> None:
    """What a client may meet is on the page."""
    assert [form for form, pattern in documented_forms().items() if pattern.fullmatch(value)]


@pytest.mark.parametrize("form", documented_forms())
def test_every_documented_form_is_sent(form: str) -> None:
    """What is on the page, a client may meet."""
    pattern = documented_forms()[form]

    assert [value for value in sent_statuses() if pattern.fullmatch(value)]


def test_every_reason_to_forward_is_documented_and_no_other() -> None:
    """RFC 9211 §2.2."""
    documented = {codes(cell)[0] for cell, _ in rows(part(PAGE, "fwd"))}

    assert documented == {"miss", "request", *(word.decode() for word in _FORWARDED.values())}


def test_every_reason_is_documented_and_no_other() -> None:
    """One word for the header, the metric and the page; in the code's order."""
    assert [codes(cell)[0] for cell, *_ in rows(part(PAGE, "reasons"))] == list(Reason)


def test_every_error_of_our_own_is_documented_and_no_other() -> None:
    """By status and code."""
    documented = {(status, codes(code)[0]) for status, code, _ in rows(part(PAGE, "errors"))}

    assert documented == own_errors()


def test_every_header_that_a_hit_replays_is_documented() -> None:
    """The fields of the upstream that survive in the default mode."""
    named = {code.lower() for code in codes(read(PAGE))}

    assert {name.decode() for name in REPLAYED} <= named
