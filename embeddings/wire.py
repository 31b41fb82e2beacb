"""What a worker and an embedding process say to each other, as bytes.

A look-up is JSON; its answer is one line of JSON and behind it the text's own vector, raw, so that
a worker can store it without ever touching its numbers. Bounded and strict on both sides: what is
not exactly this is a WireError, never a guess.

Imports nothing heavy: workers use it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from embeddings.guards.guard import Guard
from embeddings.verdict import Verdict

KEY_BYTES: Final = 32
PARTITION_BYTES: Final = 32
MOST_BODY_BYTES: Final = 1024 * 1024
MOST_TEXT_BYTES: Final = 64 * 1024
MOST_MATCHES: Final = 64
MOST_KEYS: Final = 4096
MOST_ROUTE_CHARS: Final = 256

_MOST_VECTOR_BYTES: Final = 64 * 1024
_FLOAT_BYTES: Final = 4
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{32}")
_REFUSED: Final = re.compile(r"[a-z-]{1,32}")
# A cosine in float32 may exceed 1 by rounding, and by no more than this.
_MOST_SCORE: Final = 1.001


class WireError(ValueError):
    """A message is not what it should be. The message says what, and never quotes a text."""


@dataclass(frozen=True, slots=True)
class Budgeted:
    """What is to be decided, beside found: may one of the matches be served within a budget?

    Attributes:
        key: The request's exact key, 32 bytes.
        route: Whose budget; at most 256 characters.
        max_error: The largest share of hits that may be wrong, above 0 and below 1.
        check_share: The share of hits that is to be checked, 0 … 1; 0 where nothing is served.
    """

    key: bytes
    route: str
    max_error: float
    check_share: float


@dataclass(frozen=True, slots=True)
class LookUp:
    """A question: what is stored near this text?

    Attributes:
        partition: 32 bytes; only what is stored under it is compared.
        text: At most 64 KiB as UTF-8.
        k: The most matches wanted, 1 … 64.
        budgeted: Where an error budget decides what of it may be served.
    """

    partition: bytes
    text: str
    k: int
    budgeted: Budgeted | None = None

    def to_bytes(self) -> bytes:
        """Return the request's body.

        Raises:
            WireError: A field is out of its range, or the text is not Unicode.
        """
        if len(self.partition) != PARTITION_BYTES or not 1 <= self.k <= MOST_MATCHES:
            raise WireError("a field of the look-up is out of its range")
        _check_text(self.text)
        try:
            asked = {"partition": self.partition.hex(), "text": self.text, "k": self.k}
            if (budgeted := self.budgeted) is not None:
                asked |= {
                    "key": budgeted.key.hex(),
                    "route": budgeted.route,
                    "max_error": budgeted.max_error,
                    "check_share": budgeted.check_share,
                }
            return orjson.dumps(asked)
        except orjson.JSONEncodeError as error:
            raise WireError("the text is not Unicode") from error

    @classmethod
    def from_bytes(cls, body: bytes) -> "LookUp":
        """Read a request's body.

        Raises:
            WireError: It is not a look-up.
        """
        fields = _json(body)
        try:
            partition, text, k = fields["partition"], fields["text"], fields["k"]
        except (KeyError, TypeError):
            raise WireError("not a look-up") from None
        budgeted = _budgeted(fields) if "key" in fields else None
        is_valid = (
            len(fields) == (3 if budgeted is None else 7)
            and isinstance(text, str)
            and isinstance(k, int)
            and not isinstance(k, bool)
            and 1 <= k <= MOST_MATCHES
        )
        if not is_valid:
            raise WireError("a field of the look-up is unknown or out of its range")
        _check_text(text)
        return cls(_from_hex(partition, PARTITION_BYTES), text, k, budgeted)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A stored response whose text is near.

    Attributes:
        key: The stored response's key, 32 bytes.
        score: Cosine, -1 … 1 but for rounding.
    """

    key: bytes
    score: float


@dataclass(frozen=True, slots=True)
class Decided:
    """What an error budget says of a look-up.

    Attributes:
        verdict: The decision.
        probability: How likely the answer is right, 0 … 1.
        is_check: Whether it is to be served and the upstream asked all the same.
        guard: Which guard spoke against the nearest of the stored questions, if one did.
    """

    verdict: Verdict
    probability: float
    is_check: bool = False
    guard: Guard | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a look-up.

    Attributes:
        matches: The nearest, best first; at most as many as were wanted. Where a budget decided,
            those of them that would be served.
        fingerprint: The encoder's, 32 hexadecimal digits.
        refused: Why the encoder has no vector for the text (`Refused`), None if it has.
        vector: The text's vector, float32 little-endian; b"" if refused.
        decided: What was decided, where that was asked and the text has a vector.
    """

    matches: tuple[Neighbour, ...]
    fingerprint: str
    refused: str | None
    vector: bytes
    decided: Decided | None = None

    def to_bytes(self) -> bytes:
        """Return the answer's body."""
        said: dict[str, Any] = {
            "matches": [{"key": near.key.hex(), "score": near.score} for near in self.matches],
            "fingerprint": self.fingerprint,
            "refused": self.refused,
        }
        if (decided := self.decided) is not None:
            said["decided"] = [
                decided.verdict,
                decided.probability,
                decided.is_check,
                decided.guard,
            ]
        return b"%b\n%b" % (orjson.dumps(said), self.vector)

    @classmethod
    def from_bytes(cls, body: bytes) -> "Found":
        """Read an answer's body.

        Raises:
            WireError: It is not the answer to a look-up.
        """
        line, newline, vector = body.partition(b"\n")
        if not newline:
            raise WireError("not an answer: no end of line")
        fields = _json(line)
        try:
            items, fingerprint, why = fields["matches"], fields["fingerprint"], fields["refused"]
        except (KeyError, TypeError):
            raise WireError("not an answer") from None
        decided = _decided(fields["decided"]) if "decided" in fields else None
        is_valid = (
            len(fields) == (3 if decided is None else 4)
            and isinstance(items, list)
            and len(items) <= MOST_MATCHES
            and isinstance(fingerprint, str)
            and _FINGERPRINT.fullmatch(fingerprint) is not None
            and _is_answer(why, len(items), len(vector))
        )
        if not is_valid:
            raise WireError("a field of the answer is unknown or out of its range")
        near = tuple([_neighbour(item) for item in items])
        return cls(near, fingerprint, why, vector, decided)


@dataclass(frozen=True, slots=True)
class Feedback:
    """What somebody says of an answer that a question was given.

    Attributes:
        key: The question's exact key, 32 bytes.
        served: The key of the stored response that answered it, 32 bytes; None if not known.
        is_good: What is said.
    """

    key: bytes
    served: bytes | None
    is_good: bool

    def to_bytes(self) -> bytes:
        """Return the body of `/feedback`."""
        served = None if self.served is None else self.served.hex()
        return orjson.dumps({"key": self.key.hex(), "served": served, "is_good": self.is_good})

    @classmethod
    def from_bytes(cls, body: bytes) -> "Feedback":
        """Read the body of `/feedback`.

        Raises:
            WireError: It is none.
        """
        match _json(body):
            case {"key": key, "served": served, "is_good": bool(is_good), **rest} if not rest:
                target = None if served is None else _from_hex(served, KEY_BYTES)
                return cls(_from_hex(key, KEY_BYTES), target, is_good)
        raise WireError("not a feedback")


def keys_to_bytes(keys: Sequence[bytes]) -> bytes:
    """Return the body of `/add` or `/remove`: at most MOST_KEYS keys of 32 bytes."""
    return orjson.dumps({"keys": [key.hex() for key in keys]})


def keys_from_bytes(body: bytes) -> list[bytes]:
    """Read the body of `/add` or `/remove`.

    Raises:
        WireError: It is not a list of keys.
    """
    match _json(body):
        case {"keys": list(keys), **rest} if not rest and len(keys) <= MOST_KEYS:
            return [_from_hex(key, KEY_BYTES) for key in keys]
    raise WireError("not a list of keys")


def _json(body: bytes) -> Any:
    if len(body) > MOST_BODY_BYTES:
        raise WireError("too long")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # Its text quotes nothing, but its `doc` is the whole body.
        raise WireError("not JSON") from error


def _from_hex(digits: object, length: int) -> bytes:
    # The length first: bytes.fromhex() skips blanks.
    if isinstance(digits, str) and len(digits) == 2 * length:
        try:
            value = bytes.fromhex(digits)
        except ValueError as error:
            raise WireError("not hexadecimal") from error
        if len(value) == length:
            return value
    raise WireError(f"not {length} bytes in hexadecimal")


def _check_text(text: str) -> None:
    # A character has at most four bytes: most texts need not be encoded to be known as short.
    if 4 * len(text) > MOST_TEXT_BYTES and len(text.encode("utf-8", "replace")) > MOST_TEXT_BYTES:
        raise WireError("the text is too long")


def _neighbour(item: Any) -> Neighbour:
    # No `match` statement: its `**rest` copies each, and a worker reads eight for each look-up.
    try:
        key, score = item["key"], item["score"]
    except (KeyError, TypeError):
        raise WireError("not a match") from None
    if len(item) != 2 or not isinstance(score, float) or not -_MOST_SCORE <= score <= _MOST_SCORE:
        raise WireError("a field of a match is unknown or out of its range")
    return Neighbour(_from_hex(key, KEY_BYTES), score)


def _budgeted(fields: Any) -> Budgeted:
    try:
        key, route = fields["key"], fields["route"]
        max_error, check_share = fields["max_error"], fields["check_share"]
    except (KeyError, TypeError):
        raise WireError("not a look-up within a budget") from None
    is_valid = (
        isinstance(route, str)
        and len(route) <= MOST_ROUTE_CHARS
        and isinstance(max_error, float)
        and 0 < max_error < 1
        and isinstance(check_share, float)
        and 0 <= check_share <= 1
    )
    if not is_valid:
        raise WireError("a field of the budget is out of its range")
    return Budgeted(_from_hex(key, KEY_BYTES), route, max_error, check_share)


def _decided(said: Any) -> Decided:
    match said:
        case [str(verdict), float(probability), bool(is_check), str() | None as guard]:
            pass
        case _:
            raise WireError("not a decision")
    if not 0 <= probability <= 1:
        raise WireError("a probability is out of its range")
    try:
        return Decided(
            Verdict(verdict), probability, is_check, None if guard is None else Guard(guard)
        )
    except ValueError:
        raise WireError("an unknown word in a decision") from None


def _is_answer(why: object, matches: int, vector_bytes: int) -> bool:
    """Say whether there is either a vector or a reason, and not both."""
    if why is None:
        return 0 < vector_bytes <= _MOST_VECTOR_BYTES and vector_bytes % _FLOAT_BYTES == 0
    is_word = isinstance(why, str) and _REFUSED.fullmatch(why) is not None
    return is_word and matches == 0 and vector_bytes == 0
