"""Our own errors wear OpenAI's envelope."""

import json

import pytest

from proxy.errors import ErrorAnswer


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (404, "invalid_request_error"),
        (413, "invalid_request_error"),
        (499, "invalid_request_error"),
        (500, "api_error"),
        (504, "api_error"),
    ],
)
def test_envelope_says_who_is_to_change_something(status: int, kind: str) -> None:
    """The client below 500, the server above (OpenAI's API reference)."""
    content = ErrorAnswer(status, "A text.", "a_code", "a.param").content()

    assert json.loads(content) == {
        "error": {"message": "A text.", "type": kind, "param": "a.param", "code": "a_code"}
    }


def test_envelope_without_a_field_says_null() -> None:
    """Clients read the member without asking for it."""
    error = json.loads(ErrorAnswer(502, "A text.", "a_code").content())["error"]

    assert error["param"] is None


def test_any_text_fits_into_the_envelope() -> None:
    """It is JSON in UTF-8."""
    text = 'quote " backslash \\ line\nend é 🦊 \x00'

    error = json.loads(ErrorAnswer(400, text, "a_code", text).content())["error"]

    assert (error["message"], error["param"]) == (text, text)
