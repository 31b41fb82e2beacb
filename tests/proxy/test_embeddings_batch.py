"""A batch of embeddings is as many stored responses as it has inputs."""

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.settings import Settings
from proxy.embeddings_batch import Batch, briefly, inputs_of, split
from proxy.lookup.answers import StoredAnswer
from proxy.lookup.ask import Ask, Reader
from proxy.lookup.keys import input_keys
from proxy.lookup.routes import Routes
from proxy.lookup.tenants import Tenants
from proxy.wire.endpoint import Endpoint, Form
from proxy.wire.record import Recording, RecordPolicy, record
from proxy.wire.replay import fresh
from proxy.wire.request import CacheableRequest, read_request

Json = dict[str, Any]

POLICY = RecordPolicy(frozenset(), store_refusals=False, max_bytes=1 << 24)
READER = Reader(Routes(Settings()), Tenants(b"s" * 32, {}), ())


def ask(raw: str) -> Ask:
    request = read_request(Endpoint.EMBEDDINGS, raw.encode(), max_depth=64)
    assert isinstance(request, CacheableRequest)
    return READER.read(request, raw.encode(), [], {}, "")


def ask_for(inputs: Any, **fields: Any) -> Ask:
    return ask(json.dumps({"model": "m", "input": inputs, **fields}))


def vector(text: object) -> list[float]:
    """What our upstream embeds: tell-tale numbers."""
    return [float(len(str(text))), *(ord(c) / 7 for c in str(text)[:3])]


def document(inputs: list[Any], **changes: Any) -> Json:
    items = [
        {"object": "embedding", "index": index, "embedding": vector(text)}
        for index, text in enumerate(inputs)
    ]
    tokens = sum(len(str(text)) + 1 for text in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": items, "model": "m", "usage": usage, **changes}


def stored(answer: Json, key: bytes = b"w" * 32) -> StoredAnswer:
    recording = record(
        Endpoint.EMBEDDINGS, b"application/json", b"", json.dumps(answer).encode(), POLICY
    )
    assert isinstance(recording, Recording)
    return StoredAnswer(
        key=key,
        stored_at=1000.0,
        lifetime_s=3600.0,
        keep_s=60.0,
        initial_age_s=0.0,
        endpoint=Endpoint.EMBEDDINGS,
        recording=recording,
        headers=((b"content-type", b"application/json"),),
        vary=(),
        upstream_s=3.0,
    )


def said(recording: Recording) -> Json:
    answer: Json = orjson.loads(fresh(recording.body, b"fresh", b"2000000000"))
    return answer


def keys_of(inputs: list[Any]) -> list[bytes]:
    found = ask_for(inputs)
    return input_keys(found.request, found.scope, inputs)


def split_up(inputs: list[Any], answer: Json) -> dict[bytes, StoredAnswer]:
    return {part.key: part for part in split(stored(answer), inputs, keys_of(inputs))}


INPUTS: list[tuple[Any, list[Any]]] = [
    ("a", ["a"]),
    ("", [""]),
    (["a"], ["a"]),
    (["a", "b"], ["a", "b"]),
    ([], []),
    ([1, 2, 3], [[1, 2, 3]]),
    ([[1, 2], [3]], [[1, 2], [3]]),
    (["a", [1]], ["a", [1]]),
    ([{"text": "a"}, {"image": "b"}], [{"text": "a"}, {"image": "b"}]),
    ([1.0, 2.0], [[1.0, 2.0]]),
    ([True, None], [[True, None]]),
    (["a", 1], [["a", 1]]),
]


@pytest.mark.parametrize(("given_input", "inputs"), INPUTS)
def test_inputs_are_what_has_an_embedding_of_its_own(given_input: Any, inputs: list[Any]) -> None:
    """OpenAI's API reference: a text, tokens, or an array of either; objects: Jina, vLLM."""
    assert inputs_of(ask_for(given_input).request) == inputs


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
SOME_INPUTS = st.lists(
    TEXTS | st.lists(st.integers(0, 99), min_size=1, max_size=4), min_size=2, max_size=6
)


@given(inputs=SOME_INPUTS, tokens=st.integers(0, 10**6), data=st.data())
@settings(deadline=None)
def test_what_was_split_is_put_together_again(
    inputs: list[Any], tokens: int, data: st.DataObject
) -> None:
    """Whatever is known, whatever comes anew, in whichever order the upstream lists it."""
    usage = {"prompt_tokens": tokens, "total_tokens": tokens + 1}
    whole = document(inputs, usage=usage)
    answer = {**whole, "data": data.draw(st.permutations(whole["data"]))}
    known = split_up(inputs, answer)
    keys = keys_of(inputs)
    complete = said(Batch(inputs, keys, known).put_together(None))
    # Equal inputs are one entry: the shares of the last of them count.
    distinct = len(set(keys)) == len(keys)
    assert complete["data"] == whole["data"]
    if distinct:
        assert complete == whole

    kept = data.draw(st.sets(st.sampled_from(keys), max_size=len(keys) - 1))
    batch = Batch(inputs, keys, {key: known[key] for key in kept})
    places = batch.unknown()
    rest = stored(document([inputs[place] for place in places])) if places else None
    joined = said(batch.put_together(rest))

    assert joined["data"] == whole["data"]
    added = sum(said(known[key].recording)["usage"]["prompt_tokens"] for key in keys if key in kept)
    added += said(rest.recording)["usage"]["prompt_tokens"] if rest is not None else 0
    assert joined["usage"]["prompt_tokens"] == added


@given(inputs=SOME_INPUTS, usage=st.dictionaries(st.text(max_size=3), st.integers(-9, 10**12)))
@settings(deadline=None)
def test_shares_of_the_usage_add_up_exactly(inputs: list[Any], usage: dict[str, int]) -> None:
    """No token is lost or charged twice; each share follows the input's length."""
    parts = split(stored(document(inputs, usage=usage)), inputs, keys_of(inputs))

    shares = [said(part.recording)["usage"] for part in parts]
    for name, count in usage.items():
        assert sum(share[name] for share in shares) == count
        total = sum(map(len, inputs))
        for share, given_input in zip(shares, inputs, strict=True):
            assert abs(share[name] - count * len(given_input) / total) <= 1


def test_each_part_is_as_if_asked_for_alone() -> None:
    """Index 0, its own key, its share of the time, and all else as the upstream said it."""
    inputs, keys = ["a", "bb"], keys_of(["a", "bb"])
    answer = document(inputs, id="embd-1", created=7, x_vendor={"a": 1e-05})
    whole = stored(answer)
    whole.template(Form.JSON, False)

    parts = split(whole, inputs, keys)

    assert [part.key for part in parts] == keys
    for index, part in enumerate(parts):
        item = {**answer["data"][index], "index": 0}
        wanted = {**answer, "data": [item], "id": "fresh", "created": 2000000000}
        assert {**said(part.recording), "usage": answer["usage"]} == wanted
        assert (part.recording.form, part.templates) == (Form.JSON, {})
        assert part == replace(
            whole, key=part.key, recording=part.recording, upstream_s=1.5, templates={}
        )
    assert [said(part.recording)["usage"]["prompt_tokens"] for part in parts] == [1, 4]
    assert [part.recording.prompt_tokens for part in parts] == [1, 4]


def test_whole_batch_has_a_fresh_id_and_time() -> None:
    """Those of vLLM's answers; where there are none, none are made up."""
    for fields in ({"id": "embd-1", "created": 7}, {}):
        known = split_up(["a", "b"], document(["a", "b"], **fields))

        whole = said(Batch(["a", "b"], keys_of(["a", "b"]), known).put_together(None))

        wanted = {"id": "fresh", "created": 2000000000} if fields else {}
        assert {name: whole[name] for name in ("id", "created") if name in whole} == wanted


def test_answer_without_usage_gets_none() -> None:
    """Some upstreams do not count; null stays null."""
    inputs, keys = ["a", "b"], keys_of(["a", "b"])
    without = document(inputs)
    del without["usage"]

    for answer in (without, document(inputs, usage=None)):
        known = split_up(inputs, answer)

        assert said(Batch(inputs, keys, known).put_together(None)) == answer
        for part in known.values():
            assert ("usage" in said(part.recording)) == ("usage" in answer)


def test_counts_that_are_no_numbers_are_passed_on() -> None:
    """As one of the answers says them; numbers are added up beside them."""
    inputs, keys = ["a", "b"], keys_of(["a", "b"])
    details = {"cached_tokens": 1}
    usage = {"prompt_tokens": None, "total_tokens": 4, "details": details}
    known = split_up(inputs, document(inputs, usage=usage))
    rest = stored(document(["b"], usage={"prompt_tokens": 3, "total_tokens": 3}))

    both = said(Batch(inputs, keys, known).put_together(None))
    half = said(Batch(inputs, keys, {keys[0]: known[keys[0]]}).put_together(rest))

    assert both["usage"] == usage
    assert half["usage"] == {"prompt_tokens": 3, "total_tokens": 5, "details": details}


def test_base64_embeddings_are_split_too() -> None:
    """`encoding_format: base64` is what openai-python asks for."""
    items = [
        {"object": "embedding", "index": i, "embedding": text}
        for i, text in [(0, "AAA="), (1, "BBB=")]
    ]
    known = split_up(["a", "b"], document(["a", "b"], data=items))

    swapped = Batch(["b", "a"], keys_of(["b", "a"]), known).put_together(None)

    assert [item["embedding"] for item in said(swapped)["data"]] == ["BBB=", "AAA="]
    assert [item["index"] for item in said(swapped)["data"]] == [0, 1]


def test_items_without_an_index_come_in_the_order_of_the_inputs() -> None:
    """Some upstreams leave it out."""
    answer = document(["a", "bb"])
    for item in answer["data"]:
        del item["index"]

    known = split_up(["a", "bb"], answer)

    embeddings = [
        said(known[key].recording)["data"][0]["embedding"] for key in keys_of(["a", "bb"])
    ]
    assert embeddings == [vector("a"), vector("bb")]


def indexed(*places: object) -> Json:
    items = [{"index": place, "embedding": [1.0]} for place in places]
    return document([], data=items)


AMBIGUOUS = [
    indexed(0),
    indexed(0, 1, 2),
    indexed(0, 0),
    indexed(1, 2),
    indexed(-1, 0),
    indexed(0, None),
    indexed(None),
    indexed("0", "1"),
    indexed(0.0, 1.0),
    indexed(False, True),
    indexed([], {}),
]


@pytest.mark.parametrize("answer", AMBIGUOUS)
def test_answer_that_does_not_tell_whose_embedding_is_whose_is_not_split(answer: Json) -> None:
    """Or else one text would be given another's meaning."""
    with pytest.raises(ValueError, match="not one embedding for each input"):
        split(stored(answer), ["a", "b"], [b"1" * 32, b"2" * 32])


@pytest.mark.parametrize("rest", [None, *AMBIGUOUS])
def test_batch_is_not_put_together_from_an_answer_that_does_not_fit(rest: Json | None) -> None:
    """Two inputs are missing: neither fewer nor more, and each known by its index."""
    inputs, keys = ["a", "b", "c"], keys_of(["a", "b", "c"])
    known = split_up(["a", "x"], document(["a", "x"]))
    batch = Batch(inputs, keys, {keys[0]: known[keys[0]]})

    with pytest.raises(ValueError, match="not one embedding for each input"):
        batch.put_together(None if rest is None else stored(rest))


def test_missing_answer_is_not_made_up_from_a_known_one() -> None:
    """One known, one missing: the counts alone would fit."""
    keys = keys_of(["a", "b"])
    known = split_up(["a", "x"], document(["a", "x"]))

    with pytest.raises(ValueError, match="not one embedding for each input"):
        Batch(["a", "b"], keys, {keys[0]: known[keys[0]]}).put_together(None)


def test_known_answer_of_two_embeddings_is_none_for_one_input() -> None:
    """Stored for one input, and yet two: nobody knows which."""
    keys = keys_of(["a", "b"])
    known = {key: stored(document(["x", "y"]), key) for key in keys}

    with pytest.raises(ValueError, match="not one embedding for each input"):
        Batch(["a", "b"], keys, known).put_together(None)


def test_nothing_to_put_together_is_no_answer() -> None:
    """An empty batch is for the upstream to refuse."""
    with pytest.raises(ValueError, match="no embeddings answer"):
        Batch([], [], {}).put_together(None)


def test_remainder_asks_for_what_is_not_known_and_changes_nothing_else() -> None:
    """In order, equal inputs as often as they were given; other fields digit by digit."""
    raw = '{"x":1e-05,"input":["a","b","c","b"],"model":"m","y":123456789012345678901}'
    found = ask(raw)
    keys = keys_of(["a", "b", "c", "b"])
    batch = Batch(["a", "b", "c", "b"], keys, {keys[2]: stored(document(["c"]))})

    remainder = batch.remainder(found)

    assert remainder.content == (
        b'{"x":1e-05,"input":["a","b","b"],"model":"m","y":123456789012345678901}'
    )
    assert remainder.request.body["input"] == ["a", "b", "b"]
    assert (remainder.scope, remainder.directives) == (found.scope, found.directives)
    assert inputs_of(found.request) == ["a", "b", "c", "b"]


def test_remainder_has_no_cache_field() -> None:
    """What was taken off the request stays off."""
    found = ask_for(["a", "b"], cache={"ttl": 5})
    batch = Batch(["a", "b"], keys_of(["a", "b"]), {})

    assert json.loads(batch.remainder(found).content) == {"model": "m", "input": ["a", "b"]}


def test_whole_batch_is_kept_briefly() -> None:
    """For those on other workers who wait for it; its inputs are kept for others."""
    whole = stored(document(["a", "b"]))

    assert (briefly(whole).lifetime_s, briefly(whole).keep_s) == (30, 0)
    assert briefly(replace(whole, lifetime_s=5.0)).lifetime_s == 5
    assert briefly(whole).recording == whole.recording
