"""Texts longer than the encoder's window: what different rules take for the same question.

    python -m benchmarks.long_texts          # a table in Markdown, in less than a minute

A long text is a document and a question about it, or the question and then the document. Right is
a pair with the same document and two questions of one intent, the second the nearest to the first.
Wrong is the same document with the nearest question of another intent, or the same question with
one sentence of the document changed: its answer may be another one. A rule is good if it gives a
high score to right pairs and to no wrong ones.

A second table tells how long a text may be before one changed fact in it is not seen any more.

Documents are made of NQ-open's questions with their answers, a changed sentence has the answer of
another; questions are Banking77's.
"""

import csv
import gzip
import io
import itertools
import json
import os
import random
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from tokenizers import Tokenizer

from embeddings.encoding.encoder import Encoder, Refused, Vector
from embeddings.encoding.models import DEFAULT_MODEL, open_encoder

_ROOT: Final = Path(__file__).parents[1]
_DATA: Final = Path(os.environ.get("RECOLLECT_DATA", _ROOT.parent / "shared" / "data"))
_MODELS: Final = _ROOT / "build" / "models"

_PAIRS: Final = 25
_PARAGRAPHS: Final = 12
_SENTENCES: Final = 4  # in a paragraph; 12 of these are about 800 tokens
_CHANGES: Final = 40
_HIGH: Final = 0.95
_COMPARED_CHARS: Final = 600  # as much as the second table looks at; the proxy compares less

Score = Callable[[str, str], float | None]
"""The cosine of two texts by one rule; None where the rule does not compare them."""


@dataclass(frozen=True, slots=True)
class _Case:
    """Pairs of one kind."""

    order: str
    kind: str
    is_right: bool
    pairs: Sequence[tuple[str, str]]


class _Rules:
    """The rules; vectors are kept, as many texts have parts in common."""

    def __init__(self, encoder: Encoder, tokenizer: Tokenizer) -> None:
        self._room = encoder.window_tokens - tokenizer.num_special_tokens_to_add(is_pair=False)
        self._tokenizer = tokenizer
        self._vector: Callable[[str], Vector] = cache(lambda text: _vectors(encoder, [text])[0])

    def head_and_tail(self, text: str, other: str) -> float:
        """Compare by the first and the last half window, encoded as one text."""
        return float(self._ends(text) @ self._ends(other))

    def mean_of_chunks(self, text: str, other: str) -> float:
        """Compare by the mean of the vectors of all windows."""
        return float(self._mean(text) @ self._mean(other))

    def end_alone(self, text: str, other: str) -> float | None:
        """Compare the last part by its vector, and everything before to the letter."""
        before, end = _part(text)
        other_before, other_end = _part(other)
        if before != other_before:
            return None
        return float(self._vector(end) @ self._vector(other_end))

    def _ends(self, text: str) -> Vector:
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        half = self._room // 2 - 2  # where two words are cut, more tokens come of them
        return self._vector(f"{text[: offsets[half - 1][1]]} {text[offsets[-half][0] :]}")

    def _mean(self, text: str) -> Vector:
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        room = self._room - 4
        chunks = [offsets[at : at + room] for at in range(0, len(offsets), room)]
        vectors = [self._vector(text[chunk[0][0] : chunk[-1][1]]) for chunk in chunks]
        mean: Vector = np.average(vectors, axis=0, weights=[len(chunk) for chunk in chunks])
        normalised: Vector = mean / np.linalg.norm(mean)
        return normalised


def _vectors(encoder: Encoder, texts: Sequence[str]) -> list[Vector]:
    vectors = [each for each in encoder.encode(texts) if not isinstance(each, Refused)]
    if len(vectors) < len(texts):
        raise ValueError("the encoder refuses a text of the benchmark")
    return vectors


def _part(text: str) -> tuple[str, str]:
    """Part a text before its last paragraph or, where that is too long, its last sentence."""
    start = text.rfind("\n\n") + 2
    if len(text) - start > _COMPARED_CHARS:
        start += [0, *(found.end() for found in re.finditer(r"[.!?]\s+", text[start:]))][-1]
    return text[:start], text[start:]


def _questions(encoder: Encoder, chance: random.Random) -> Iterator[tuple[str, str, str]]:
    """Yield a question, the nearest one of its intent, and the nearest one of another."""
    with gzip.open(_DATA / "banking77" / "train.csv.gz") as file:
        rows = list(csv.DictReader(io.TextIOWrapper(file, encoding="utf-8")))
    rows = chance.sample([row for row in rows if row["text"].isascii()], 1000)
    texts = [row["text"].strip() for row in rows]
    intents = np.array([row["category"] for row in rows])
    vectors = np.stack(_vectors(encoder, texts))
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -1)
    for at, text in enumerate(texts):
        is_same = intents == intents[at]
        right = int(np.where(is_same, scores[at], -1).argmax())
        wrong = int(np.where(is_same, -1, scores[at]).argmax())
        yield text, texts[right], texts[wrong]


def _documents(chance: random.Random) -> Iterator[list[list[str]]]:
    """Yield paragraphs of sentences without end."""
    with gzip.open(_DATA / "nq_open" / "NQ-open.dev.jsonl.gz", "rt", encoding="utf-8") as file:
        facts = [json.loads(line) for line in file]
    # In ASCII, so that the encoder refuses none.
    sentences = [
        sentence
        for fact in facts
        if (sentence := f"{fact['question'].capitalize()}: it is {fact['answer'][0]}.").isascii()
    ]
    while True:
        chosen = chance.sample(sentences, _PARAGRAPHS * _SENTENCES)
        yield [chosen[at : at + _SENTENCES] for at in range(0, len(chosen), _SENTENCES)]


def _with_answer_of(sentence: str, other: str) -> str:
    """Return `sentence` with the answer that `other` has."""
    return sentence.rpartition(": it is ")[0] + ": it is " + other.rpartition(": it is ")[2]


def _changed(document: list[list[str]], paragraph: int, chance: random.Random) -> list[list[str]]:
    """Return `document` with another answer in one sentence of a paragraph."""
    sentence = chance.randrange(_SENTENCES)
    others = [each for at, each in enumerate(document) if at != paragraph]
    new = list(document[paragraph])
    new[sentence] = _with_answer_of(new[sentence], chance.choice(chance.choice(others)))
    return [new if at == paragraph else each for at, each in enumerate(document)]


def _cases(encoder: Encoder) -> list[_Case]:
    chance = random.Random(0)
    documents = _documents(chance)
    pairs = defaultdict[tuple[str, str, bool], list[tuple[str, str]]](list)
    questions = list(_questions(encoder, chance))
    for question, right, wrong in chance.sample(questions, _PAIRS):
        document = next(documents)
        elsewhere = _changed(document, chance.randrange(_PARAGRAPHS - 1), chance)
        at_its_end = _changed(document, _PARAGRAPHS - 1, chance)
        for order, write in _ORDERS.items():
            text = write(document, question)
            pairs[order, "same intent", True].append((text, write(document, right)))
            pairs[order, "another intent", False].append((text, write(document, wrong)))
            pairs[order, "a sentence changed", False].append((text, write(elsewhere, question)))
            pairs[order, "one in its last paragraph", False].append(
                (text, write(at_its_end, question))
            )
    return [_Case(*key, found) for key, found in pairs.items()]


def _question_last(document: list[list[str]], question: str) -> str:
    return "\n\n".join([*map(" ".join, document), question])


def _question_first(document: list[list[str]], question: str) -> str:
    return "\n\n".join([question, *map(" ".join, document)])


_ORDERS: Final = {"question last": _question_last, "question first": _question_first}


def _one_fact_changed(encoder: Encoder, sentences: int) -> tuple[float, list[float]]:
    """Return the mean length of texts of so many sentences, and their scores after one change."""
    chance = random.Random(0)
    texts: list[str] = []
    for document in itertools.islice(_documents(chance), _CHANGES):
        *kept, other = chance.sample(list(itertools.chain.from_iterable(document)), sentences + 1)
        changed = list(kept)
        at = chance.randrange(sentences)
        changed[at] = _with_answer_of(changed[at], other)
        texts += [" ".join(kept), " ".join(changed)]
    vectors = _vectors(encoder, texts)
    pairs = zip(vectors[::2], vectors[1::2], strict=True)
    scores = [float(kept @ changed) for kept, changed in pairs]
    return statistics.mean(map(len, texts)), scores


def _share_high(score: Score, pairs: Sequence[tuple[str, str]]) -> float:
    scores = [score(text, other) for text, other in pairs]
    return sum(each is not None and each >= _HIGH for each in scores) / len(scores)


def main() -> None:
    """Print the table."""
    began = time.perf_counter()
    threads = os.cpu_count() or 1
    encoder = open_encoder(DEFAULT_MODEL, _MODELS, device="cpu", threads=threads)
    [tokenizer_file] = _MODELS.glob(f"{DEFAULT_MODEL}-*/tokenizer.json")
    rules = _Rules(encoder, Tokenizer.from_file(str(tokenizer_file)))
    scores: dict[str, Score] = {
        "head and tail": rules.head_and_tail,
        "mean of chunks": rules.mean_of_chunks,
        "end alone": rules.end_alone,
    }
    print(f"Share of {_PAIRS} pairs that score ≥ {_HIGH}\n")
    print(f"| text | pair | | {' | '.join(scores)} |")
    print("| --- | --- | --- |" + " ---: |" * len(scores))
    for case in _cases(encoder):
        shares = [f"{_share_high(score, case.pairs):.0%}" for score in scores.values()]
        verdict = "right" if case.is_right else "wrong"
        print(f"| {case.order} | {case.kind} | {verdict} | {' | '.join(shares)} |")
    print(f"\nOne answer changed in each of {_CHANGES} texts\n")
    print(f"| sentences | characters | median score | share ≥ {_HIGH} |")
    print("| ---: | ---: | ---: | ---: |")
    for sentences in (1, 2, 3, 4, 6, 8):
        characters, found = _one_fact_changed(encoder, sentences)
        share = sum(score >= _HIGH for score in found) / len(found)
        print(f"| {sentences} | {characters:.0f} | {statistics.median(found):.3f} | {share:.0%} |")
    print(f"\n{DEFAULT_MODEL}, {threads} threads, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
