"""Questions for the semantic tier: pairs that ask the same in other words, and others.

They come from public data that is not part of Recollect: the folder that RECOLLECT_DATA names.
"""

import csv
import gzip
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PAIRS: Final = "gptcache/mock_data.json.gz"
_QUESTIONS: Final = "banking77/train.csv.gz"

# Figures and quotations would have to be equal, and short turns may lean on an earlier one.
_PLAIN: Final = re.compile(r"[A-Za-z ,.'?!-]+")
_FEWEST_WORDS: Final = 7
_MOST_CHARS: Final = 120
_MOST_BLANKS: Final = 3


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts that mean the same; short, without figures and quotations."""

    stored: str
    asked: str


def are_there() -> bool:
    """Say whether the data are."""
    return all((_folder() / name).exists() for name in (_PAIRS, _QUESTIONS))


def pairs() -> list[Pair]:
    """Return pairs, each text once."""
    found: dict[str, Pair] = {}
    for row in json.loads(_read(_PAIRS)):
        pair = Pair(row["origin"], row["similar"])
        are_equal = pair.stored.casefold() == pair.asked.casefold()
        if not are_equal and _is_short_prompt(pair.stored) and _is_short_prompt(pair.asked):
            found.setdefault(pair.asked.casefold(), pair)
    return list({pair.stored.casefold(): pair for pair in found.values()}.values())


def questions() -> list[str]:
    """Return short questions of which no two have the same words."""
    rows = csv.DictReader(io.StringIO(_read(_QUESTIONS)))
    texts = (row["text"].strip() for row in rows)
    words = re.compile(r"\w+")
    distinct = {tuple(words.findall(text.casefold())): text for text in texts}
    return [text for text in distinct.values() if _is_short_prompt(text)]


def respelled(text: str, number: int) -> str:
    """Return `text` with one to three blanks between its words, by `number`; 0: as it is.

    To the encoder and to the guards it is the same text, to the exact tier another one: so there
    are as many new paraphrases as are wanted, each as much work as the first.
    """
    words = text.split(" ")
    spread = [words[0]]
    for word in words[1:]:
        number, more = divmod(number, _MOST_BLANKS)
        spread.append(" " * (1 + more) + word)
    if number:
        raise ValueError("the text has too few words")
    return "".join(spread)


def _is_short_prompt(text: str) -> bool:
    is_short = len(text) <= _MOST_CHARS and len(text.split()) >= _FEWEST_WORDS
    return is_short and _PLAIN.fullmatch(text) is not None


def _read(name: str) -> str:
    return gzip.decompress((_folder() / name).read_bytes()).decode()


def _folder() -> Path:
    default = Path(__file__).parents[2] / "shared" / "data"
    return Path(os.environ.get("RECOLLECT_DATA", default))
