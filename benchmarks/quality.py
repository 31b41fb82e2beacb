"""How often an answer by meaning is right: real questions in a row, a cache that starts empty.

    python -m benchmarks.quality             # tables in Markdown; some minutes
    python -m benchmarks.quality --orders 3  # the streams in three orders, added up

Each question of a stream is a chat of one turn. It is keyed, parted and compared as the proxy does
it, by the same code; what is no hit is stored with the answer that its intent has. A hit is wrong
if the stored answer is another intent's; a question that Clinc150 has out of its scope is an intent
of its own. Of GPTCache's own pairs one text is stored and the other asked, and the only right
answer is that of its pair. Left out of the shares: words that were asked before, as those are exact
hits.

The data are public and not part of Recollect; RECOLLECT_DATA names their folder.
"""

import argparse
import csv
import gzip
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from embeddings.encoding.encoder import Refused, Vector
from embeddings.encoding.models import DEFAULT_MODEL, open_encoder
from embeddings.guards.conflict import conflict
from embeddings.guards.traits import traits
from embeddings.index.partition import Partition
from embeddings.index.vector_index import IndexedVector
from proxy.lookup.keys import KeyScope, exact_key
from proxy.lookup.meaning import Question, question_of
from proxy.wire.endpoint import Endpoint
from proxy.wire.request import CacheableRequest, read_request

SCORES: Final = (0.98, 0.95, 0.9, 0.85, 0.8)
_ROOT: Final = Path(__file__).parents[1]
_DATA: Final = Path(os.environ.get("RECOLLECT_DATA", _ROOT.parent / "shared" / "data"))
_SCOPE: Final = KeyScope(tenant="one", revision=("", ""), headers=(), query="")
_HEADS: Final = (
    *("min_score", "guards", "asked", "hits"),
    *("wrong of the hits", "95 %", "vetoed right / wrong"),
)
_NEIGHBOURS: Final = 4
_FOREVER: Final = 4e9
_Z95: Final = 1.96


@dataclass(frozen=True, slots=True)
class Asked:
    """One question of a stream.

    Attributes:
        text: The question.
        answer: What stands for its right answer.
        is_asked: False: it is stored, whatever is near.
    """

    text: str
    answer: str
    is_asked: bool = True


@dataclass(slots=True)
class Tally:
    """What became of a stream's questions at one score."""

    asked: int = 0
    hits: int = 0
    wrong: int = 0
    vetoed_right: int = 0
    vetoed_wrong: int = 0

    def row(self) -> list[str]:
        """Return the cells of its line."""
        low, high = interval(self.wrong, self.hits)
        return [
            f"{self.asked:,}",
            f"{share(self.hits, self.asked)} ({self.hits:,})",
            f"{share(self.wrong, self.hits)} ({self.wrong:,})",
            f"{100 * low:.2f}–{100 * high:.2f} %",
            f"{self.vetoed_right:,} / {self.vetoed_wrong:,}",
        ]


def share(part: int, whole: int) -> str:
    """Return a share in per cent."""
    return f"{100 * part / whole:.2f} %" if whole else "–"


def interval(found: int, of: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share (Wilson 1927)."""
    if not of:
        return 0.0, 1.0
    rate, spread = found / of, _Z95**2 / of
    middle = (rate + spread / 2) / (1 + spread)
    width = math.sqrt(rate * (1 - rate) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, middle - width), min(1.0, middle + width)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the proxy makes of a text: its exact key, what is compared, its vector."""

    key: bytes
    question: Question | None
    vector: Vector | None


@dataclass(slots=True)
class Cache:
    """A cache of one tenant and one model, deciding as the proxy does.

    Attributes:
        min_score: `semantic.min_score`.
        has_guards: Whether the guards are asked.
    """

    min_score: float
    has_guards: bool
    _partitions: dict[bytes, Partition] = field(default_factory=dict)
    _stored: dict[bytes, Asked] = field(default_factory=dict)

    def ask(self, asked: Asked, known: _Known, tally: Tally) -> None:
        """Look for an answer, and store one where there is none."""
        if known.key in self._stored:
            return
        tally.asked += asked.is_asked
        question, vector = known.question, known.vector
        found = None
        if question is not None and vector is not None and asked.is_asked:
            found = self._near(asked, question, vector, tally)
        if found is not None:
            tally.hits += 1
            tally.wrong += found.answer != asked.answer
            return
        self._stored[known.key] = asked
        if question is not None and vector is not None:
            partition = self._partitions.setdefault(
                question.partition, Partition(question.partition, len(vector))
            )
            partition.add(IndexedVector(known.key, question.partition, vector, _FOREVER), 0)

    def _near(self, asked: Asked, question: Question, vector: Vector, tally: Tally) -> Asked | None:
        partition = self._partitions.get(question.partition)
        for match in partition.search(vector, _NEIGHBOURS, 0.0) if partition is not None else ():
            if match.score < self.min_score:
                break
            stored = self._stored[match.key]
            if self.has_guards and conflict(traits(question.text), traits(stored.text)) is not None:
                if stored.answer == asked.answer:
                    tally.vetoed_right += 1
                else:
                    tally.vetoed_wrong += 1
                continue
            return stored
        return None


class Reader:
    """Makes of texts what the proxy makes of them, each once."""

    def __init__(self) -> None:
        self._encoder = open_encoder(
            DEFAULT_MODEL, _ROOT / "build" / "models", device="cpu", threads=1
        )
        self._known: dict[str, _Known] = {}

    def read(self, texts: Iterable[str]) -> dict[str, _Known]:
        """Return what each of `texts` comes to."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        parted = {text: self._parted(text) for text in new}
        compared = [text for text in new if parted[text][1] is not None]
        compared.sort(key=len)
        vectors: dict[str, Vector | None] = {}
        for first in range(0, len(compared), 32):
            some = compared[first : first + 32]
            questions = [parted[text][1] for text in some]
            encoded = self._encoder.encode([q.text for q in questions if q is not None])
            for text, vector in zip(some, encoded, strict=True):
                vectors[text] = None if isinstance(vector, Refused) else vector
        for text in new:
            key, question = parted[text]
            self._known[text] = _Known(key, question, vectors.get(text))
        return self._known

    @staticmethod
    def _parted(text: str) -> tuple[bytes, Question | None]:
        body = {"model": "m", "messages": [{"role": "user", "content": text}]}
        request = read_request(Endpoint.CHAT, json.dumps(body).encode(), max_depth=64)
        assert isinstance(request, CacheableRequest)
        question = question_of(request, _SCOPE)
        found = question if isinstance(question, Question) else None
        return exact_key(request, _SCOPE), found


def banking77() -> list[Asked]:
    """Return customers' questions to a bank, of 77 intents."""
    rows = csv.DictReader(io.StringIO(_text("banking77/train.csv.gz")))
    return [Asked(row["text"], row["category"]) for row in rows]


def clinc150() -> list[Asked]:
    """Return questions to an assistant, of 150 intents and of none."""
    parts: dict[str, list[tuple[str, str]]] = json.loads(_text("clinc150/train_val.json.gz"))
    known = [Asked(text, intent) for name in ("train", "val") for text, intent in parts[name]]
    beyond = [text for name in ("oos_train", "oos_val") for text, _ in parts[name]]
    return known + [Asked(text, f"beyond {number}") for number, text in enumerate(beyond)]


def gptcache() -> list[Asked]:
    """Return GPTCache's own pairs: all that is stored, then all that is asked."""
    pairs: list[dict[str, Any]] = json.loads(_text("gptcache/mock_data.json.gz"))
    stored = [Asked(pair["origin"], str(n), is_asked=False) for n, pair in enumerate(pairs)]
    return stored + [Asked(pair["similar"], str(n)) for n, pair in enumerate(pairs)]


STREAMS: Final[dict[str, tuple[Callable[[], list[Asked]], bool]]] = {
    "Banking77": (banking77, True),
    "Clinc150 with questions out of scope": (clinc150, True),
    "GPTCache's pairs": (gptcache, False),
}
"""Each with whether its order is drawn by chance."""


def are_there() -> bool:
    """Say whether the data are."""
    return (_DATA / "banking77").exists()


def measure(
    stream: Sequence[Asked], known: dict[str, _Known], min_score: float, *, has_guards: bool
) -> Tally:
    """Ask all of a stream, in its order, and count."""
    tally, cache = Tally(), Cache(min_score, has_guards)
    for asked in stream:
        cache.ask(asked, known[asked.text], tally)
    return tally


def main() -> None:
    """Print a table for each stream."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--orders", type=int, default=1, help="orders of the streams, added up")
    orders = parser.parse_args().orders
    reader = Reader()
    for name, (read, is_shuffled) in STREAMS.items():
        questions = read()
        known = reader.read(asked.text for asked in questions)
        print(f"\n**{name}**\n")
        print(f"| {' | '.join(_HEADS)} |\n|{'---|' * 2}{'---:|' * (len(_HEADS) - 2)}")
        for min_score in SCORES:
            for has_guards in (False, True):
                total = Tally()
                for order in range(orders if is_shuffled else 1):
                    stream = list(questions)
                    if is_shuffled:
                        np.random.default_rng(order).shuffle(stream)
                    _add(total, measure(stream, known, min_score, has_guards=has_guards))
                cells = [f"{min_score:g}", "yes" if has_guards else "no", *total.row()]
                print(f"| {' | '.join(cells)} |", flush=True)


def _add(total: Tally, more: Tally) -> None:
    for name in ("asked", "hits", "wrong", "vetoed_right", "vetoed_wrong"):
        setattr(total, name, getattr(total, name) + getattr(more, name))


def _text(name: str) -> str:
    return gzip.decompress((_DATA / name).read_bytes()).decode()


if __name__ == "__main__":
    main()
