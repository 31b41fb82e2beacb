"""The questions of `benchmarks.quality`: public data, with the answers that people gave them.

The data are not part of Recollect; RECOLLECT_DATA names their folder.
"""

import csv
import gzip
import io
import json
import os
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_DATA: Final = Path(os.environ.get("RECOLLECT_DATA", Path(__file__).parents[2] / "shared" / "data"))
_MOST_DRAWS: Final = 100
_WORD: Final = re.compile(r"\w+")
_NUMBER_WORDS: Final = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen twenty"
)
_NUMBERS: Final = {word: str(number) for number, word in enumerate(_NUMBER_WORDS.split(), 1)}


@dataclass(frozen=True, slots=True)
class Asked:
    """One question of a stream.

    Attributes:
        text: The question.
        answer: What stands for its right answer.
        is_asked: False: it is stored, whatever is near.
        is_beyond: No other question of the stream has its answer: whatever is served is wrong.
    """

    text: str
    answer: str
    is_asked: bool = True
    is_beyond: bool = False


def are_there() -> bool:
    """Say whether the data are."""
    return (_DATA / "banking77").exists()


def banking77() -> list[Asked]:
    """Return customers' questions to a bank, of 77 intents."""
    rows = csv.DictReader(io.StringIO(_text("banking77/train.csv.gz")))
    return [Asked(row["text"], row["category"]) for row in rows]


def clinc150() -> list[Asked]:
    """Return questions to an assistant, of 150 intents and of none."""
    parts: dict[str, list[tuple[str, str]]] = json.loads(_text("clinc150/train_val.json.gz"))
    known = [Asked(text, intent) for name in ("train", "val") for text, intent in parts[name]]
    beyond = [text for name in ("oos_train", "oos_val") for text, _ in parts[name]]
    return known + [
        Asked(text, f"beyond {number}", is_beyond=True) for number, text in enumerate(beyond)
    ]


def gptcache(first: int | None = None) -> list[Asked]:
    """Return GPTCache's own pairs, or the first of them: all stored, then all asked."""
    pairs: list[dict[str, Any]] = json.loads(_text("gptcache/mock_data.json.gz"))[:first]
    stored = [Asked(pair["origin"], str(n), is_asked=False) for n, pair in enumerate(pairs)]
    return stored + [Asked(pair["similar"], str(n)) for n, pair in enumerate(pairs)]


def restaurant8k(chance: random.Random, first: int | None = None) -> list[Asked]:
    """Return what guests said, all stored; then the same sentences with another value in them.

    Of each sentence the first slot gets another value of the same slot: another number of guests,
    another time, another name. Values that may say the same are not put for one another.

    Args:
        chance: Which value.
        first: The most sentences.
    """
    turns: list[dict[str, Any]] = json.loads(_text("restaurant8k/train_1.json.gz"))
    spans = []
    values: dict[str, list[str]] = {}
    for text, turn in {turn["userInput"]["text"]: turn for turn in turns}.items():
        for label in turn.get("labels", ())[:1]:
            start, end = label["valueSpan"].get("startIndex", 0), label["valueSpan"]["endIndex"]
            spans.append((text, label["slot"], start, end))
            values.setdefault(label["slot"], []).append(text[start:end])
    said = {text for text, *_ in spans}
    stored, swapped = [], []
    for number, (text, slot, start, end) in enumerate(spans):
        drawn = (chance.choice(values[slot]) for _ in range(_MOST_DRAWS))
        value = next((value for value in drawn if differ(text[start:end], value)), None)
        other = "" if value is None else text[:start] + value + text[end:]
        # By chance it may be what another guest said.
        if other and other not in said:
            stored.append(Asked(text, f"said {number}", is_asked=False))
            swapped.append(Asked(other, f"swapped {number}", is_beyond=True))
    return stored[:first] + swapped[:first]


def differ(one: str, other: str) -> bool:
    """Say whether two values of a slot surely say something else: "7" and "seven pm" do not."""
    ones, others = _signs(one), _signs(other)
    return bool(ones) and bool(others) and not ones <= others and not others <= ones


def _signs(value: str) -> frozenset[str]:
    signs = [_NUMBERS.get(word, word) for word in _WORD.findall(value.casefold())]
    # On either clock.
    return frozenset(
        str(int(sign) - 12) if sign.isdecimal() and 12 < int(sign) < 24 else sign for sign in signs
    ) - {"00"}


@dataclass(frozen=True, slots=True)
class Data:
    """A stream of questions, in as many orders as are wanted.

    Attributes:
        title: What the tables call it.
        read: Returns it in the order of that number, or as many of its questions.
        has_orders: Whether orders differ.
        beyond: What its questions are called that no stored answer is right for; "" for none.
    """

    title: str
    read: Callable[[int, int | None], list[Asked]]
    has_orders: bool = True
    beyond: str = ""


def _shuffled(read: Callable[[], list[Asked]]) -> Callable[[int, int | None], list[Asked]]:
    def in_order(order: int, first: int | None) -> list[Asked]:
        questions = read()
        random.Random(order).shuffle(questions)
        return questions[:first]

    return in_order


def _swaps(order: int, first: int | None) -> list[Asked]:
    """Return a bank's questions, by which the route comes to serve, and the swapped ones."""
    bank = _shuffled(banking77)(order, first)
    return bank + restaurant8k(random.Random(order), first)


STREAMS: Final = {
    "banking77": Data("Banking77", _shuffled(banking77)),
    "clinc150": Data(
        "Clinc150 with questions out of scope", _shuffled(clinc150), beyond="out of scope"
    ),
    "gptcache": Data("GPTCache's pairs", lambda _, first: gptcache(first), has_orders=False),
    "restaurant8k": Data(
        "Restaurant8k: the same sentence with another value, after Banking77",
        _swaps,
        beyond="swapped",
    ),
}


def _text(name: str) -> str:
    return gzip.decompress((_DATA / name).read_bytes()).decode()
