"""Texts into tokens, and tokens into the rectangles that a model takes.

Where a text cannot be encoded so that every word of it counts, it is refused here.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from embeddings.encoding.description import Description
from embeddings.encoding.encoder import Refused, Vector
from embeddings.encoding.scripts import scripts_of

Run = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
"""A model: token ids and attention mask, both (texts, tokens), to vectors (texts, dimension)."""


class TokenReader:
    """Turns texts into token ids, or says why not."""

    def __init__(
        self, tokenizer_json: str, description: Description, scripts: frozenset[str]
    ) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        # A text is read whole or not at all; and rectangles are made below.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._special_tokens = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        self._window_tokens = description.window_tokens
        self._unknown_id = description.unknown_id
        self._scripts = scripts

    def read(self, text: str) -> list[int] | Refused:
        """Return the ids of the tokens of `text`, special ones included."""
        if not scripts_of(text) <= self._scripts:
            return Refused.SCRIPT
        ids: list[int] = self._tokenizer.encode(text).ids
        if len(ids) > self._window_tokens:
            return Refused.LONG
        if self._unknown_id in ids or len(ids) <= self._special_tokens:
            return Refused.UNKNOWN
        return ids


def encode_tokens(
    read: Sequence[list[int] | Refused],
    run: Run,
    padding_id: int,
    *,
    run_cost_tokens: int,
    most_tokens: int,
) -> list[Vector | Refused]:
    """Return for each text, as `TokenReader.read` left it, its vector or why it has none.

    Args:
        read: Ids or refusals.
        run: The model.
        padding_id: The token that fills up shorter texts.
        run_cost_tokens, most_tokens: See `groups_by_length`.
    """
    result: list[Vector | Refused] = [each for each in read if isinstance(each, Refused)]
    if len(result) == len(read):
        return result
    tokens = {at: ids for at, ids in enumerate(read) if not isinstance(ids, Refused)}
    vectors: dict[int, Vector] = {}
    lengths = {at: len(ids) for at, ids in tokens.items()}
    for group in groups_by_length(lengths, run_cost_tokens, most_tokens):
        ids, mask = _rectangle([tokens[at] for at in group], padding_id)
        vectors.update(zip(group, run(ids, mask), strict=True))
    return [each if isinstance(each, Refused) else vectors[at] for at, each in enumerate(read)]


def groups_by_length(
    lengths: dict[int, int], run_cost_tokens: int, most_tokens: int
) -> list[list[int]]:
    """Divide texts into groups of similar length, each to be run at once.

    A text joins the next shorter ones unless to fill those up costs more than a run of its own.

    Args:
        lengths: Tokens of each text.
        run_cost_tokens: What a run costs besides its tokens, in tokens.
        most_tokens: The most tokens in a group, filling included. One text may have more.
    """
    groups: list[list[int]] = []
    for at in sorted(lengths, key=lengths.__getitem__):
        if groups:
            group = groups[-1]
            padding = len(group) * (lengths[at] - lengths[group[-1]])
            if padding <= run_cost_tokens and (len(group) + 1) * lengths[at] <= most_tokens:
                group.append(at)
                continue
        groups.append([at])
    return groups


def _rectangle(
    tokens: Sequence[list[int]], padding_id: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    shape = (len(tokens), max(map(len, tokens)))
    ids = np.full(shape, padding_id, np.int64)
    mask = np.zeros(shape, np.int64)
    for row, text in enumerate(tokens):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return ids, mask
