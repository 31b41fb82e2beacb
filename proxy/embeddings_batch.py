"""A batch of embeddings: every input is a stored response of its own.

A batch of which some inputs are known forwards only the others; the answer is put together in the
order of the request, with the usage added up. Usage is counted by upstreams per batch, so each
input is charged its share by length; the shares of a batch add up to what the upstream said.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from proxy.lookup.answers import StoredAnswer
from proxy.lookup.ask import Ask
from proxy.wire.endpoint import Endpoint
from proxy.wire.record import NotStorable, Recording, RecordPolicy, record
from proxy.wire.request import CacheableRequest, JsonObject
from proxy.wire.template import unmark

_WHOLE_BATCH_S: Final = 30.0
"""How long a batch is also kept whole, for requests on other workers that wait for it."""

_ANY_SIZE: Final = RecordPolicy(frozenset(), False, 2**62)
"""Its parts were within the limit when they came."""


def inputs_of(request: CacheableRequest) -> list[Any]:
    """Return the inputs of an embeddings request: a text or a list of tokens is one input."""
    given = request.body.get("input")
    if type(given) is not list or (given and all(type(item) is int for item in given)):
        return [given]
    return given


@dataclass(frozen=True, slots=True)
class Batch:
    """One request with several inputs.

    Attributes:
        inputs: What is to be embedded, in order.
        keys: The key of each input.
        known: Stored answers that may be used, by key.
    """

    inputs: Sequence[Any]
    keys: Sequence[bytes]
    known: dict[bytes, StoredAnswer]

    def unknown(self) -> list[int]:
        """Return the places of the inputs that are not known."""
        return [place for place, key in enumerate(self.keys) if key not in self.known]

    def remainder(self, ask: Ask) -> Ask:
        """Return the request for what is not known."""
        inputs = [self.inputs[place] for place in self.unknown()]
        body = {**orjson.loads(ask.content), "input": inputs}
        request = replace(ask.request, body={**ask.request.body, "input": inputs})
        return replace(ask, request=request, content=orjson.dumps(body))

    def put_together(self, rest: StoredAnswer | None) -> Recording:
        """Return the answer to the whole batch.

        Args:
            rest: The answer to `remainder()`; None where every input is known.

        Raises:
            ValueError: `rest` is not an answer to the remainder.
        """
        documents = {key: _document(answer) for key, answer in self.known.items()}
        items: list[JsonObject | None] = [
            documents[key]["data"][0] if key in documents else None for key in self.keys
        ]
        used = [documents[key]["usage"] for key in self.keys if key in documents]
        envelope = next(iter(documents.values()), {})
        if rest is not None:
            envelope = _document(rest)
            for place, item in zip(self.unknown(), _in_order(envelope), strict=True):
                items[place] = item
            used.append(envelope.get("usage"))
        if not all(items):
            raise ValueError("an input without its embedding")
        return _recorded(
            {
                **envelope,
                "data": [{**item, "index": index} for index, item in enumerate(items) if item],
                "usage": _added_up(used),
            }
        )


def split(whole: StoredAnswer, inputs: Sequence[Any], keys: Sequence[bytes]) -> list[StoredAnswer]:
    """Return the answer to each input of a batch, as if each had been asked for alone.

    Raises:
        ValueError: There is not one item for each input.
    """
    document = _document(whole)
    shares = _shares(document.get("usage"), inputs)
    answers = []
    for key, item, usage in zip(keys, _in_order(document), shares, strict=True):
        alone = {**document, "data": [{**item, "index": 0}], "usage": usage}
        answers.append(
            replace(
                whole,
                key=key,
                recording=_recorded(alone),
                upstream_s=whole.upstream_s / len(keys),
                templates={},
            )
        )
    return answers


def briefly(whole: StoredAnswer) -> StoredAnswer:
    """Return the whole batch's answer with a lifetime just long enough for those who wait."""
    return replace(whole, lifetime_s=min(whole.lifetime_s, _WHOLE_BATCH_S), keep_s=0.0)


def _document(answer: StoredAnswer) -> JsonObject:
    document: JsonObject = orjson.loads(unmark(answer.recording.body))
    return document


def _recorded(document: JsonObject) -> Recording:
    content = orjson.dumps(document)
    recording = record(Endpoint.EMBEDDINGS, b"application/json", b"", content, _ANY_SIZE)
    if isinstance(recording, NotStorable):
        raise ValueError(f"no embeddings answer: {recording.reason}")
    return recording


def _in_order(document: JsonObject) -> list[JsonObject]:
    return sorted(document["data"], key=lambda item: int(item.get("index", 0)))


def _shares(usage: object, inputs: Sequence[Any]) -> list[JsonObject | None]:
    """Divide `usage` by the inputs' lengths; the shares of each count add up to it."""
    if not isinstance(usage, dict):
        return [None for _ in inputs]
    weights = [max(1, len(item)) if isinstance(item, (str, list)) else 1 for item in inputs]
    shares: list[JsonObject] = [dict(usage) for _ in inputs]
    for name, count in usage.items():
        if type(count) is not int:
            continue
        passed_weight = passed = 0
        for share, weight in zip(shares, weights, strict=True):
            passed_weight += weight
            share[name] = count * passed_weight // sum(weights) - passed
            passed += share[name]
    return list(shares)


def _added_up(usages: Sequence[object]) -> JsonObject | None:
    known = [usage for usage in usages if isinstance(usage, dict)]
    if not known:
        return None
    total: JsonObject = {}
    for usage in known:
        for name, count in usage.items():
            total[name] = total.get(name, 0) + count if type(count) is int else count
    return total
