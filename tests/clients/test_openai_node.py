"""openai-node through Recollect: the first and the repeated call are equal.

The library lies in node/node_modules (`npm install --no-package-lock` in that folder); without
it, or without node, the test is skipped and says so.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.cache_status import parse_cache_status
from tests.support.fake_upstream import FakeUpstream
from tests.support.http_client import strip_volatile
from tests.support.recollect_server import RecollectServer, unique

FOLDER = Path(__file__).parent / "node"
NAMES = [
    "chat",
    "chat stream",
    "tools",
    "completions",
    "embeddings",
    "embeddings float",
    "responses",
    "responses stream",
]


@pytest.fixture(scope="module")
def given(upstream: FakeUpstream, recollect: RecollectServer) -> dict[str, list[dict[str, Any]]]:
    """What the script saw: for each request the first and the second answer."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if not (FOLDER / "node_modules" / "openai").is_dir():
        pytest.skip(f"openai-node is not installed: npm install --no-package-lock in {FOLDER}")
    mark = unique("script").replace(" ", "-")
    script = [node, str(FOLDER / "ask.mjs"), recollect.url, mark]
    done = subprocess.run(script, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    answers: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize("name", NAMES)
def test_repeated_call_of_openai_node_is_an_equal_hit(
    name: str, given: dict[str, list[dict[str, Any]]]
) -> None:
    """Promise 1, as seen by the library most browsers and servers use."""
    first, second = given[name]

    assert not parse_cache_status(first["cache"]).hit
    assert parse_cache_status(second["cache"]).hit
    assert comparable(first["answer"]) == comparable(second["answer"])


def comparable(answer: Any) -> Any:
    """Return the answer without what is fresh, and without the library's own fields."""
    if isinstance(answer, list):
        return [comparable(chunk) for chunk in answer]
    kept = strip_volatile(answer)
    kept.pop("_request_id", None)
    return kept
