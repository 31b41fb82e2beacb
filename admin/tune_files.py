"""What `recollect tune` reads: a stream of questions with their answers, or labelled pairs.

A line becomes what the proxy would have been sent and what the upstream would have said; what is
made of that is `tune_stream`'s affair. A mistake names file, line and what would be right, and
never quotes a text: files like these hold what users wrote.
"""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Never, TypeVar

import orjson

from proxy.wire.endpoint import Endpoint
from proxy.wire.request import BadRequest, CacheableRequest, read_request

_MOST_DEPTH: Final = 64
_MOST_FIELD_CHARS: Final = 16 * 1024 * 1024
_TRUE: Final = ("true", "1")
_FALSE: Final = ("false", "0")
_LOG_LINE: Final = (
    'a line should be {"question": text, "answer": text}'
    ' or {"request": {…}, "response": {…}} of a chat completion'
)
_PAIR_LINE: Final = 'a line should be {"a": text, "b": text, "same": true or false}'

_Columns = tuple[str, ...]
_Item = TypeVar("_Item")


class BadFile(Exception):
    """A file cannot be read as what it should be. The text says where, and what would be right."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question, and what is known of its answer.

    Attributes:
        request: What the proxy was sent.
        response: The chat completion it was answered with, as JSON; b"" where `label` says it.
        label: What stands for the answer, where people said which answers are the same.
        is_asked: False: it is stored, and nothing is looked up.
    """

    request: CacheableRequest
    response: bytes = b""
    label: str = ""
    is_asked: bool = True


@dataclass(frozen=True, slots=True)
class _Line:
    file: Path
    number: int
    values: dict[str, Any]

    def refuse(self, why: str) -> Never:
        raise BadFile(f"{self.file}:{self.number}: {why}")

    def text(self, name: str, wanted: str) -> str:
        value = self.values.get(name)
        if type(value) is not str:
            self.refuse(f"{name} is not a text; {wanted}")
        try:
            value.encode()
        except UnicodeEncodeError:
            self.refuse(f"{name} is not Unicode; it should have no lone surrogate")
        return value


def one_turn(text: str) -> CacheableRequest:
    """Return a question as a chat of one turn.

    Raises:
        BadRequest: It is not Unicode.
    """
    return _read({"model": "", "messages": [{"role": "user", "content": text}]})


def read_log(file: Path) -> list[Exchange]:
    """Return questions and answers in the order in which they came.

    Args:
        file: JSON, one line each; or CSV with the columns question and answer, by its suffix.

    Raises:
        BadFile: See there.
    """
    return _all(_logged, file, ("question", "answer"))


def read_pairs(file: Path) -> list[Exchange]:
    """Return labelled pairs: all that is stored, then all that is asked.

    Args:
        file: JSON, one line each; or CSV with the columns a, b and same, by its suffix.

    Raises:
        BadFile: See there.
    """
    pairs = _all(_paired, file, ("a", "b", "same"))
    return [stored for stored, _ in pairs] + [asked for _, asked in pairs]


def _all(of: Callable[[_Line], _Item], file: Path, columns: _Columns) -> list[_Item]:
    try:
        items = [of(line) for line in _lines(file, columns)]
    except OSError as error:
        raise BadFile(f"{file}: {error.strerror or error}; it should be a file to read") from error
    except UnicodeDecodeError as error:
        raise BadFile(f"{file}: not UTF-8 at byte {error.start}; it should be UTF-8") from error
    if not items:
        raise BadFile(f"{file}:1: nothing in it; it should have a line for each question")
    return items


def _lines(file: Path, columns: _Columns) -> Iterator[_Line]:
    # Spreadsheets begin a file with a byte order mark.
    with file.open(encoding="utf-8-sig", newline="") as stream:
        if file.suffix.lower() == ".csv":
            csv.field_size_limit(_MOST_FIELD_CHARS)
            reader = csv.DictReader(stream, strict=True)
            try:
                if not set(columns) <= set(reader.fieldnames or ()):
                    raise BadFile(f"{file}:1: the first line should name: {','.join(columns)}")
                for row in reader:
                    yield _Line(file, reader.line_num, row)
            except csv.Error as error:
                raise BadFile(f"{file}:{reader.line_num + 1}: {error}; it should be CSV") from error
            return
        for number, text in enumerate(stream, 1):
            if text.strip():
                yield _Line(file, number, _object(file, number, text))


def _object(file: Path, number: int, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if type(value) is not dict:
        raise BadFile(f"{file}:{number}: not a JSON object; each line should be one")
    return value


def _logged(line: _Line) -> Exchange:
    if "question" in line.values:
        answer = line.text("answer", _LOG_LINE)
        said = {"role": "assistant", "content": answer}
        choice = {"index": 0, "message": said, "finish_reason": "stop"}
        completion = {"object": "chat.completion", "choices": [choice]}
        return Exchange(_asked(line, line.text("question", _LOG_LINE)), orjson.dumps(completion))
    request, response = line.values.get("request"), line.values.get("response")
    if type(request) is not dict or type(response) is not dict:
        line.refuse(_LOG_LINE)
    if not request.get("messages"):
        line.refuse("the request has no messages; it should be the body of a chat completion")
    try:
        return Exchange(_read(request), json.dumps(response).encode())
    except BadRequest as error:
        line.refuse(f"the request would be refused: {error.message}")


def _paired(line: _Line) -> tuple[Exchange, Exchange]:
    a, b = line.text("a", _PAIR_LINE), line.text("b", _PAIR_LINE)
    same = line.values.get("same")
    if type(same) is str and same.strip().lower() in (*_TRUE, *_FALSE):
        same = same.strip().lower() in _TRUE
    if type(same) is not bool:
        line.refuse(f"same is neither true nor false; {_PAIR_LINE}")
    own = f"the answer of line {line.number}"
    other = own if same else f"another answer, of line {line.number}"
    return (
        Exchange(_asked(line, a), label=own, is_asked=False),
        Exchange(_asked(line, b), label=other),
    )


def _asked(line: _Line, text: str) -> CacheableRequest:
    try:
        return one_turn(text)
    except BadRequest as error:
        line.refuse(f"it would be refused: {error.message}")


def _read(body: dict[str, Any]) -> CacheableRequest:
    request = read_request(Endpoint.CHAT, json.dumps(body).encode(), _MOST_DEPTH)
    if not isinstance(request, CacheableRequest):
        # Numbers that only lenient readers understand.
        raise BadRequest("it is not JSON (RFC 8259).")
    return request
