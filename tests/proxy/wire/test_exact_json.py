"""Numbers pass through Python as they were written."""

import pytest

from proxy.wire import exact_json


@pytest.mark.parametrize(
    "number",
    [
        *("0", "-1", "1.0", "1.50", "1e5", "1E-05", "-0.0", "0.1000000000000000055", "1e999"),
        *("9" * 18, "12345678901234567890123", "9" * 5000),
    ],
)
def test_a_number_keeps_its_digits(number: str) -> None:
    """orjson alone gives 1e+23 for 100000000000000000000000 and null for 1e999."""
    assert (
        exact_json.dumps(exact_json.loads(f'{{"a":[{number}]}}')) == f'{{"a":[{number}]}}'.encode()
    )


def test_short_integers_are_numbers() -> None:
    """Indices are compared and sorted."""
    assert exact_json.loads("[3,-2]") == [3, -2]


@pytest.mark.parametrize("depth", [300, 100_000])
def test_too_deep_nesting_has_an_error_of_its_own(depth: int) -> None:
    """A text may be valid and yet deeper than the readers and writers of Python go."""
    with pytest.raises(exact_json.TooDeep):
        exact_json.dumps(exact_json.loads("[" * depth + "]" * depth))
