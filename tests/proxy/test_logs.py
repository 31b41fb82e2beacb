"""Logs: one JSON object per line."""

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from proxy import logs


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn.error")
    before = root.level, root.handlers[:], uvicorn.level
    yield root
    root.level, root.handlers[:] = before[0], before[1]
    uvicorn.setLevel(before[2])


def line_of(record: logging.LogRecord) -> dict[str, object]:
    """Return a record's line, parsed."""
    text = logs.JsonLines().format(record)
    assert "\n" not in text
    parsed: dict[str, object] = json.loads(text)
    return parsed


def record_of(message: str, *args: object, **extra: object) -> logging.LogRecord:
    """Return a record as a logger would make it."""
    return logging.getLogger("recollect.x").makeRecord(
        "recollect.x", logging.WARNING, "file", 1, message, args, None, extra=extra
    )


def test_line_has_time_level_logger_and_message() -> None:
    """What every reader of logs looks for first."""
    line = line_of(record_of("Redis is down: %s", "refused"))

    assert line.keys() == {"time", "level", "logger", "message"}
    assert line["level"] == "warning"
    assert line["logger"] == "recollect.x"
    assert line["message"] == "Redis is down: refused"


def test_extra_fields_are_fields_of_the_line() -> None:
    """Also such as JSON has no form for."""
    line = line_of(record_of("m", status=200, what={1, 2}.__class__))

    assert line["status"] == 200
    assert line["what"] == "<class 'set'>"


def test_line_breaks_stay_within_the_line() -> None:
    """Else a log line could be forged."""
    assert line_of(record_of('a\n{"level": "forged"}'))["message"] == 'a\n{"level": "forged"}'


def test_exception_is_part_of_the_line() -> None:
    """With its traceback: defects are to be found."""
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError:
        record = record_of("failed")
        record.exc_info = sys.exc_info()

    exception = str(line_of(record)["exception"])
    assert "Traceback" in exception
    assert "by nothing" in exception


def test_level_decides_what_is_written(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """To standard error; uvicorn's own errors are about what we do on purpose."""
    logs.configure("warning")
    logging.getLogger("recollect.y").info("unheard")
    logging.getLogger("recollect.y").warning("heard")
    logging.getLogger("uvicorn.error").error("unheard too")

    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert json.loads(line)["message"] == "heard"
    assert root_logger.level == logging.WARNING


def test_text_with_a_lone_surrogate_is_written_all_the_same(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file name or a header may hold one; the line must not be lost to an error of logging."""
    logs.configure("info")

    logging.getLogger("recollect.y").info("a name: %s", "caf\udce9")

    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"].startswith("a name: caf")
