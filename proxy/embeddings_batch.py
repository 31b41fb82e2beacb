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
from proxy.wire import exact_json
from proxy.wire.endpoint import Endpoint
from proxy.wire.record import NotStorable, Recording, RecordPolicy, record
from proxy.wire.replay import fresh
from proxy.wire.request import CacheableRequest, JsonObject

_WHOLE_BATCH_S: Final = 30.0
"""How long a batch is also kept whole, for requests on other workers that wait for it."""

_ANY_SIZE: Final = RecordPolicy(frozenset(), False, 2**62)
"""Its parts were within the limit when they came."""


def inputs_of(request: CacheableRequest) -> list[Any]:
    """Return the inputs of an embeddings request: a text or a list of tokens is one input.

    So is a list of anything else that upstreams are not known to take one by one.
    """
    given = request.body.get("input")
    if type(given) is list and all(type(item) in (str, list, dict) for item in given):
        return given
    return [given]


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

    def expected_bytes(self) -> int:
        """Return how large the answer to the remainder may become, judging by the known ones."""
        largest = max((len(answer.recording.body) for answer in self.known.values()), default=0)
        return largest * len(self.unknown())

    def remainder(self, ask: Ask) -> Ask:
        """Return the request for what is not known."""
        places = self.unknown()
        content = exact_json.loads(ask.content)
        content["input"] = [content["input"][place] for place in places]
        body = {**ask.request.body, "input": [self.inputs[place] for place in places]}
        return replace(
            ask,
            request=replace(ask.request, body=body),
            content=exact_json.dumps(content),
        )

    def put_together(self, rest: StoredAnswer | None) -> Recording:
        """Return the answer to the whole batch.

        Args:
            rest: The answer to `remainder()`; None where every input is known.

        Raises:
            ValueError: `rest` is not an answer to the remainder, or a known one not to an input.
        """
        known = {key: _document(answer) for key, answer in self.known.items()}
        new = {} if rest is None else _document(rest)
        new_items = iter(_items(new, len(self.unknown())))
        items = [_items(known[key], 1)[0] if key in known else next(new_items) for key in self.keys]
        usages = [known[key].get("usage") for key in self.keys if key in known]
        envelope = new or next(iter(known.values()), {})
        data = [{**item, "index": index} for index, item in enumerate(items)]
        return _recorded({**envelope, "data": data, **_added_up([*usages, new.get("usage")])})


def split(whole: StoredAnswer, inputs: Sequence[Any], keys: Sequence[bytes]) -> list[StoredAnswer]:
    """Return the answer to each input of a batch, as if each had been asked for alone.

    Raises:
        ValueError: There is not one item for each input.
    """
    document = _document(whole)
    items = _items(document, len(inputs))
    answers = []
    for key, item, share in zip(keys, items, _shares(document, inputs), strict=True):
        alone = {**document, "data": [{**item, "index": 0}], **share}
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
    # Any id and time will do, so long as they are marked again by recording.
    document: JsonObject = orjson.loads(fresh(answer.recording.body, b"id", b"1"))
    return document


def _recorded(document: JsonObject) -> Recording:
    content = orjson.dumps(document)
    recording = record(Endpoint.EMBEDDINGS, b"application/json", b"", content, _ANY_SIZE)
    if isinstance(recording, NotStorable):
        raise ValueError(f"no embeddings answer: {recording.reason}")
    return recording


def _items(document: JsonObject, count: int) -> list[JsonObject]:
    """Return the items of an answer in the order of its inputs.

    Raises:
        ValueError: It cannot be told which of `count` inputs each item belongs to.
    """
    items: list[JsonObject] = document.get("data", [])
    places = [item.get("index") for item in items]
    if len(items) == count and all(place is None for place in places):
        return items
    by_place = {
        place: item for place, item in zip(places, items, strict=True) if type(place) is int
    }
    if len(items) != count or by_place.keys() != set(range(count)):
        raise ValueError("not one embedding for each input")
    return [by_place[place] for place in range(count)]


def _shares(document: JsonObject, inputs: Sequence[Any]) -> list[JsonObject]:
    """Divide the usage by the inputs' lengths; the shares of each count add up to it."""
    usage = document.get("usage")
    if not isinstance(usage, dict):
        return [{} for _ in inputs]
    weights = [max(1, len(item)) for item in inputs]
    whole_weight = sum(weights)
    shares: list[JsonObject] = [dict(usage) for _ in inputs]
    for name, count in usage.items():
        if type(count) is not int:
            continue
        passed_weight = passed = 0
        for share, weight in zip(shares, weights, strict=True):
            passed_weight += weight
            share[name] = count * passed_weight // whole_weight - passed
            passed += share[name]
    return [{"usage": share} for share in shares]


def _added_up(usages: Sequence[object]) -> JsonObject:
    total: JsonObject = {}
    for usage in usages:
        if not isinstance(usage, dict):
            continue
        for name, count in usage.items():
            before = total.get(name)
            is_sum = type(before) is int and type(count) is int
            total[name] = before + count if is_sum else count
    return {"usage": total} if total else {}
