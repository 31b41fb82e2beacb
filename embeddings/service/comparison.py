"""Compares an answer that has come with those of its neighbours: to which answer group it belongs.

Answers are encoded for this when nobody waits for the encoder, each once.
"""

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final

from cachetools import LRUCache

from embeddings.decision.answer_groups import (
    JOINS_FROM,
    MERGES_FROM,
    MOST_PRIOR,
    Vocabulary,
    Worded,
    log_odds,
    worded,
)
from embeddings.encoding.encoder import Refused, Vector
from embeddings.service.source import Source, Witness

Encode = Callable[[Sequence[str]], Awaitable[Sequence[Vector | Refused]]]

_MOST_WORDED: Final = 4096
_COMPARED_GROUPS: Final = 8
_COMPARED_ANSWERS: Final = 5
_COMPARED_CHARS: Final = 600
"""Of an answer, what its vector is made of: an encoder sees no more of it."""


class Comparison:
    """Finds the groups of answers.

    Args:
        source: Where groups are written down.
        encode: Makes vectors of answers when nobody waits for the encoder.
    """

    def __init__(self, source: Source, encode: Encode) -> None:
        self._source = source
        self._encode = encode
        self._worded: LRUCache[str, Worded | None] = LRUCache(_MOST_WORDED)
        self._vocabulary = Vocabulary()

    async def groups(
        self,
        witness: Witness,
        near: Sequence[Witness],
        expected: Collection[bytes],
        probability: float,
    ) -> set[bytes]:
        """Return the groups to which an answer belongs, by the names they had before.

        It joins the one that it fits best; others that it fits as surely are merged with that.

        Args:
            witness: The answer that has come, with its question.
            near: The stored questions near to that, best first.
            expected: The group that these spoke for, by its names of now.
            probability: How likely that was thought to be right, 0 … 1; 0 where nothing was known.

        Raises:
            SourceUnavailable, Busy: It may not have been written down.
        """
        same = next((one.group for one in near if one.words == witness.words), None)
        answers: dict[bytes, list[str]] = {}
        for one in near:
            if one.group in answers or len(answers) < _COMPARED_GROUPS:
                texts = answers.setdefault(one.group, [])
                is_new = one.answer not in (*texts, witness.answer, "")
                if is_new and len(texts) < _COMPARED_ANSWERS:
                    texts.append(one.answer)
        odds = await self._odds(witness.answer, answers) if witness.answer else {}
        # Where an answer belongs may be up to its question; that two groups are one may not.
        fits = dict(odds)
        if probability > 0:
            for group in fits.keys() & set(expected):
                fits[group] += _prior(probability)
        best = max(fits, key=fits.__getitem__, default=None)
        joined = same
        if joined is None and best is not None and fits[best] >= JOINS_FROM:
            joined = best
        if joined is None:
            return {witness.group}
        merged = {group for group, odd in odds.items() if odd >= MERGES_FROM} | {joined}
        voices = Counter(one.group for one in near if one.group in merged)
        kept = max(voices, key=voices.__getitem__)
        if witness.group != kept:
            await self._source.keep_group(witness, kept)
        for one in near:
            if one.group in merged and one.group != kept:
                await self._source.keep_group(one, kept)
        return merged

    async def _odds(self, answer: str, groups: Mapping[bytes, Sequence[str]]) -> dict[bytes, float]:
        """Return the log odds that an answer says what those of each group say."""
        await self._word([answer, *(text for texts in groups.values() for text in texts)])
        own = self._worded.get(answer)
        if own is None:
            return {}
        odds = {}
        for group, texts in groups.items():
            known = [one for text in texts if (one := self._worded.get(text)) is not None]
            if known:
                odds[group] = log_odds(own, known, self._vocabulary)
        return odds

    async def _word(self, answers: Sequence[str]) -> None:
        missing = [answer for answer in dict.fromkeys(answers) if answer not in self._worded]
        vectors = await self._encode([answer[:_COMPARED_CHARS] for answer in missing])
        for answer, vector in zip(missing, vectors, strict=True):
            if isinstance(vector, Refused):
                self._worded[answer] = None
            else:
                one = worded(answer, vector)
                self._worded[answer] = one
                self._vocabulary.add(one)


def _prior(probability: float) -> float:
    """Return what the questions say beforehand, as bounded log odds."""
    odds = math.log((probability + 1e-6) / (1.0 - probability + 1e-6))
    return max(-MOST_PRIOR, min(MOST_PRIOR, odds))
