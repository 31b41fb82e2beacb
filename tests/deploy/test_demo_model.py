"""The demo's model: only the right weights are used, and requantising them keeps them sane."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gguf", reason="needs the demo extra")

from gguf import GGMLQuantizationType, GGUFReader

from demo_model import (
    PACKAGED_SHA256,
    ModelError,
    check_digest,
    demo_folder,
    kept,
    packaged_model,
    prepare,
    requantise,
)

pytestmark = pytest.mark.demo

LLM_SERVER = Path(__file__).parents[2] / "deploy" / "demo" / "llm_server.py"


def silent(_line: str) -> None:
    """Take a progress line and show it to nobody."""


@pytest.fixture(scope="module")
def requantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Requantise the real model once for all tests of this file."""
    return requantise(packaged_model(), tmp_path_factory.mktemp("model"), silent)


@pytest.fixture(scope="module")
def llm_address(requantised: Path) -> Iterator[str]:
    """Serve the requantised model in a process of its own."""
    command = [sys.executable, str(LLM_SERVER), "--model", str(requantised)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def ask(address: str, path: str, body: dict[str, object]) -> dict[str, object]:
    """Post `body` as JSON and return the JSON that came back."""
    request = urllib.request.Request(
        address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=50) as response:
        answer: dict[str, object] = json.load(response)
    return answer


def test_packaged_weights_are_the_ones_the_demo_was_made_for() -> None:
    """Weights are checked before they are loaded: they come from somebody else."""
    check_digest(packaged_model(), PACKAGED_SHA256)


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    """One byte more is another file; the text names the file and what was expected."""
    altered = tmp_path / "altered.gguf"
    altered.write_bytes(b"GGUF" + bytes(100))

    with pytest.raises(ModelError, match=PACKAGED_SHA256) as refusal:
        check_digest(altered, PACKAGED_SHA256)

    assert str(altered) in str(refusal.value)


def test_requantised_model_has_its_q4_1_tensors_as_q4_0_and_all_else_unchanged(
    requantised: Path,
) -> None:
    """Q4_0 is what llama.cpp has its fast kernels for; names, shapes and metadata stay."""
    before, after = GGUFReader(packaged_model()), GGUFReader(requantised)
    expected = {
        tensor.name: (
            GGMLQuantizationType.Q4_0
            if tensor.tensor_type == GGMLQuantizationType.Q4_1
            else tensor.tensor_type,
            tensor.shape.tolist(),
        )
        for tensor in before.tensors
    }

    assert {t.name: (t.tensor_type, t.shape.tolist()) for t in after.tensors} == expected
    changed = [
        name
        for name, field in before.fields.items()
        if after.fields[name].contents() != field.contents()
    ]
    assert changed == ["general.file_type"]


def test_prepared_model_is_used_again_without_being_made_again(requantised: Path) -> None:
    """The second `make run` starts at once."""
    made_at_ns = requantised.stat().st_mtime_ns

    assert prepare(requantised.parent, silent) == requantised
    assert requantised.stat().st_mtime_ns == made_at_ns


def test_torn_file_of_an_earlier_run_is_not_used(tmp_path: Path) -> None:
    """The name carries the start of the content's SHA-256; what does not match is removed."""
    torn = tmp_path / "SmolLM2-135M-Instruct.Q4_0-0123456789abcdef.gguf"
    torn.write_bytes(b"GGUF")

    assert kept(tmp_path) is None
    assert not torn.exists()


def test_failed_requantisation_leaves_no_file_behind(tmp_path: Path) -> None:
    """A stop in the middle leaves nothing that a later run could take for the model."""

    def stop(_line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        requantise(packaged_model(), tmp_path, stop)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("set_home", ["", "relative/folder"])
def test_relative_data_home_counts_as_unset(
    set_home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All paths in these variables must be absolute (XDG Base Directory Specification)."""
    monkeypatch.setenv("XDG_DATA_HOME", set_home)
    monkeypatch.setenv("HOME", os.fspath(tmp_path))

    assert demo_folder() == tmp_path / ".local" / "share" / "recollect" / "demo"


def test_requantised_model_knows_the_capital_of_france(llm_address: str) -> None:
    """Wrongly packed blocks load and run just as well, but what they say is noise."""
    answer = ask(
        llm_address,
        "/v1/chat/completions",
        {
            "model": "smollm2-135m-instruct",
            "temperature": 0,
            "max_tokens": 40,
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
        },
    )

    assert "Paris" in json.dumps(answer["choices"])


def test_model_server_gives_embeddings_beside_chats(llm_address: str) -> None:
    """One process is the upstream of every cached endpoint."""
    answer = ask(
        llm_address, "/v1/embeddings", {"model": "smollm2-135m-instruct", "input": ["one", "two"]}
    )

    vectors = answer["data"]
    assert isinstance(vectors, list)
    assert [len(vector["embedding"]) for vector in vectors] == [576, 576]
