"""How often an answer by meaning is right: real questions in a row, a cache that starts empty.

    python -m benchmarks.quality                      # tables in Markdown; many minutes
    python -m benchmarks.quality --only banking77     # one stream
    python -m benchmarks.quality --orders 3           # the streams in three orders, added up

Each question of a stream is a chat of one turn. It is keyed, parted, compared and decided by the
code that does it online; what is no hit is stored with the answer that its intent has. A hit is
wrong if the stored answer is another intent's; a question that Clinc150 has out of its scope is an
intent of its own. Of GPTCache's own pairs one text is stored and the other asked, and the only
right answer is that of its pair. Of Restaurant8k's sentences each is stored, and asked with another
value in it. Left out of the shares: words that were asked before, as those are exact hits.

Three rules: an error budget (`semantic.max_error`), one least score for all questions
(`semantic.min_score`), and vCache as it was published (`benchmarks.vcache`).
"""

import argparse
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final, Protocol

from admin.tune_files import Exchange, one_turn
from admin.tune_replay import BUDGETS, SCORES, Scored, by_budget, by_score, calibration
from admin.tune_stream import REPEAT, Stream, StreamReader, labelled_group
from benchmarks.quality_streams import (
    STREAMS,
    Asked,
    Data,
    are_there,
    banking77,
    clinc150,
    gptcache,
)
from benchmarks.vcache import by_entry
from config.semantic import SemanticSettings
from config.settings import Settings
from embeddings.decision.budget import interval
from embeddings.encoding.models import DEFAULT_MODEL, open_encoder
from embeddings.replay import Answered

__all__ = [
    "Asked",
    "Reader",
    "are_there",
    "banking77",
    "clinc150",
    "gptcache",
    "interval",
    "share",
]

CALIBRATED_AT: Final = 0.01
_MODELS: Final = Path(__file__).parents[1] / "build" / "models"
_CHECK_SHARE: Final = SemanticSettings().check_share
_HEADS: Final = ("asked", "hits", "wrong of the hits", "95 %", "wrong of all", "95 %")
_PUBLISHED: Final = ((0.95, 425, 25, 549), (0.9, 804, 77, 118), (0.8, 904, 92, 3))
"""GPTCache's own figures for its pairs: threshold, right, wrong, missed (examples/benchmark)."""


class Outcome(Protocol):
    """What became of one question, by whatever rule."""

    @property
    def is_hit(self) -> bool: ...

    @property
    def is_right(self) -> bool: ...


@dataclass(slots=True)
class Tally:
    """What became of a stream's questions by one rule."""

    asked: int = 0
    hits: int = 0
    wrong: int = 0
    beyond: int = 0
    beyond_hits: int = 0
    vetoed_right: int = 0
    vetoed_wrong: int = 0

    def add(self, more: "Tally") -> None:
        """Add what came of another order."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(more, each.name))

    def row(self, *, has_beyond: bool) -> list[str]:
        """Return the cells of its line."""
        cells = [
            f"{self.asked:,}",
            f"{share(self.hits, self.asked)} ({self.hits:,})",
            f"{share(self.wrong, self.hits)} ({self.wrong:,})",
            _between(self.wrong, self.hits),
            share(self.wrong, self.asked),
            _between(self.wrong, self.asked),
        ]
        return [*cells, f"{self.beyond_hits:,} of {self.beyond:,}"] if has_beyond else cells


@dataclass(frozen=True, slots=True)
class Labelled:
    """A stream as the cache sees it, and which of its questions nothing stored is right for.

    Attributes:
        stream: What is compared.
        beyond: The answer groups of those questions.
        uncompared: How many were asked that are for the exact tier only: they are no hits.
    """

    stream: Stream
    beyond: frozenset[bytes] = field(default_factory=frozenset)
    uncompared: int = 0


class Reader:
    """Makes of texts what the proxy makes of them. Each is encoded once."""

    def __init__(self) -> None:
        encoder = open_encoder(DEFAULT_MODEL, _MODELS, device="cpu", threads=1)
        self._reader = StreamReader(encoder, Settings())

    def read(self, questions: Iterable[Asked]) -> Labelled:
        """Return the stream that `questions` are."""
        questions = list(questions)
        stream = self._reader.read(
            Exchange(one_turn(asked.text), label=asked.answer, is_asked=asked.is_asked)
            for asked in questions
        )
        beyond = frozenset(labelled_group(asked.answer) for asked in questions if asked.is_beyond)
        return Labelled(stream, beyond, stream.left_out.total() - stream.left_out[REPEAT])


def share(part: int, whole: int) -> str:
    """Return a share in per cent."""
    return f"{100 * part / whole:.2f} %" if whole else "–"


def tally(labelled: Labelled, outcomes: Sequence[Outcome]) -> Tally:
    """Count what became of a stream's questions."""
    counted = Tally(asked=len(outcomes) + labelled.uncompared)
    for question, outcome in zip(labelled.stream.asked, outcomes, strict=True):
        is_beyond = question.group in labelled.beyond
        counted.hits += outcome.is_hit
        counted.wrong += outcome.is_hit and not outcome.is_right
        counted.beyond += is_beyond
        counted.beyond_hits += is_beyond and outcome.is_hit
        if isinstance(outcome, Scored):
            counted.vetoed_right += outcome.vetoed_right
            counted.vetoed_wrong += outcome.vetoed_wrong
    return counted


def main() -> None:
    """Print the tables of each stream."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--orders", type=int, default=1, help="orders of the streams, added up")
    parser.add_argument("--only", choices=STREAMS, help="one stream")
    parser.add_argument("--first", type=int, help="so many questions of each stream, for a trial")
    given = parser.parse_args()
    reader = Reader()
    for name, data in STREAMS.items():
        if given.only in (None, name):
            report(data, reader, given.orders if data.has_orders else 1, given.first)
            if name == "gptcache":
                _print_published()


def report(data: Data, reader: Reader, orders: int, first: int | None = None) -> None:
    """Print what each rule makes of one stream."""
    streams = [reader.read(data.read(order, first)) for order in range(orders)]
    print(f"\n**{data.title}**")
    answered: dict[float, list[Answered]] = {}

    def budget(max_error: float) -> Callable[[int, Stream], Sequence[Outcome]]:
        def rule(order: int, stream: Stream) -> Sequence[Answered]:
            came = by_budget(stream, max_error, _CHECK_SHARE, order)
            answered.setdefault(max_error, []).extend(came)
            return came

        return rule

    _print_rule(data, streams, "max_error", {f"{each:g}": budget(each) for each in BUDGETS})
    _print_calibration(answered[CALIBRATED_AT])
    _print_rule(
        data,
        streams,
        "min_score",
        {
            f"{each:g}, {'guards' if has_guards else 'no guards'}": _score(each, has_guards)
            for each in SCORES
            for has_guards in (False, True)
        },
        has_vetoes=True,
    )
    _print_rule(data, streams, "vCache's bound", {f"{each:g}": _vcache(each) for each in BUDGETS})


def _score(min_score: float, has_guards: bool) -> Callable[[int, Stream], Sequence[Outcome]]:
    return lambda _, stream: by_score(stream, min_score, has_guards=has_guards)


def _vcache(max_error: float) -> Callable[[int, Stream], Sequence[Outcome]]:
    return lambda order, stream: by_entry(stream, max_error, random.Random(order).random)


def _print_rule(
    data: Data,
    streams: Sequence[Labelled],
    setting: str,
    rules: dict[str, Callable[[int, Stream], Sequence[Outcome]]],
    *,
    has_vetoes: bool = False,
) -> None:
    heads = [*_HEADS, *([f"{data.beyond}, served"] if data.beyond else [])]
    heads += ["vetoed right / wrong"] if has_vetoes else []
    _print_heads([setting, *heads])
    for name, rule in rules.items():
        total = Tally()
        for order, labelled in enumerate(streams):
            total.add(tally(labelled, rule(order, labelled.stream)))
        vetoes = [f"{total.vetoed_right:,} / {total.vetoed_wrong:,}"] if has_vetoes else []
        cells = [name, *total.row(has_beyond=bool(data.beyond)), *vetoes]
        print(f"| {' | '.join(cells)} |", flush=True)


def _print_calibration(answered: Sequence[Answered]) -> None:
    _print_heads(
        [
            f"said to be right, guards aside (max_error {CALIBRATED_AT:g})",
            "look-ups",
            "mean",
            "right",
        ]
    )
    for one in calibration(answered):
        said, right = f"{100 * one.said:.2f} %", f"{100 * one.right:.2f} %"
        print(f"| {one.low:g}–{one.high:g} | {one.count:,} | {said} | {right} |")


def _print_published() -> None:
    _print_heads(["GPTCache's threshold, as published", "right", "wrong", "missed"])
    for threshold, *counts in _PUBLISHED:
        print(f"| {threshold:g} | {' | '.join(map(str, counts))} |")


def _print_heads(heads: Sequence[str]) -> None:
    print(f"\n| {' | '.join(heads)} |\n|---|{'---:|' * (len(heads) - 1)}", flush=True)


def _between(found: int, of: int) -> str:
    low, high = interval(found, of)
    return f"{100 * low:.2f}–{100 * high:.2f} %"


if __name__ == "__main__":
    main()
