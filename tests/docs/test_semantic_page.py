"""docs/semantic.md says what the code and the default encoder do."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from config.load import load
from embeddings.encoding.encoder import Refused
from embeddings.encoding.models import DEFAULT_MODEL, open_encoder
from embeddings.encoding.scripts import _TRAINED_FOR
from embeddings.guards.conflict import conflict
from embeddings.guards.guard import Guard
from embeddings.guards.traits import traits
from proxy.lookup.meaning import COMPARED_CHARS, Question, question_of
from proxy.wire.endpoint import Endpoint
from tests.docs.pages import ROOT, codes, part, prose, read, rows, snippets
from tests.proxy.lookup.keying import SCOPE
from tests.proxy.lookup.keying import read as read_request

PAGE = "docs/semantic.md"
MIN_SCORE = 0.95


def question(text: str) -> Question:
    """Return what of a chat of one turn is compared."""
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    found = question_of(read_request(json.dumps(body), Endpoint.CHAT), SCOPE)
    assert isinstance(found, Question), (text, found)
    return found


def test_the_scores_on_the_page_are_those_of_the_default_encoder() -> None:
    """And nothing but their words keeps the two questions apart. The page warns by examples."""
    encoder = open_encoder(DEFAULT_MODEL, ROOT / "build" / "models", device="cpu", threads=1)
    table = rows(part(PAGE, "scores"))

    assert len(table) > 5
    for pair, score, verdict in table:
        one, other = map(question, pair.split(" / "))
        first, second = encoder.encode([one.text, other.text])
        assert not isinstance(first, Refused)
        assert not isinstance(second, Refused)
        assert one.partition == other.partition
        assert float(first @ second) == pytest.approx(float(score), abs=0.002)
        guard = conflict(traits(one.text), traits(other.text))
        if float(score) >= MIN_SCORE and guard is not None:
            assert verdict == f"vetoed: `{guard}`"
        else:
            assert verdict.startswith("hits") == (float(score) >= MIN_SCORE)


def test_the_guards_on_the_page_are_the_codes() -> None:
    """In the code's order, each with what it is about."""
    assert [codes(cell)[0] for cell, _ in rows(part(PAGE, "guards"))] == list(Guard)


@pytest.mark.parametrize("page", [PAGE, "docs/operations.md"])
def test_the_length_that_is_compared_is_the_codes(page: str) -> None:
    """Wherever a page counts characters."""
    counted = re.findall(r"(\d+) characters", prose(read(page)))

    assert set(counted) == {str(COMPARED_CHARS)}


def test_the_encoders_on_the_page_are_those_whose_scripts_are_known() -> None:
    """In the code's order, with as many scripts, or the one script there is."""
    known = {name: len(scripts) for name, scripts in _TRAINED_FOR.items()}
    table = {codes(name)[0]: scripts for name, scripts, *_ in rows(part(PAGE, "encoders"))}

    assert list(table) == list(known)
    for name, scripts in table.items():
        if (count := re.match(r"\d+", scripts)) is not None:
            assert int(count[0]) == known[name]


@pytest.mark.parametrize("text", snippets(read(PAGE), "toml"))
def test_every_settings_snippet_loads(text: str, tmp_path: Path) -> None:
    """What a reader copies works, once the token's file is there."""
    token_file = tmp_path / "embeddings.token"
    token_file.write_text("the same on both sides\n")
    file = tmp_path / "recollect.toml"
    named = tomllib.loads(text)["semantic"].get("token_file", "no file is named")
    file.write_text(text.replace(named, str(token_file)))

    settings = load(file, {}, {}).settings

    assert settings.semantic.model == DEFAULT_MODEL
    assert (settings.semantic.token is not None) == ("token_file" in text)
