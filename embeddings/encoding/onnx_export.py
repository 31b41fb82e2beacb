"""Exports a model to ONNX: `python -P -m embeddings.encoding.onnx_export NAME LOCATION FOLDER`.

A process of its own, so that torch never enters the one that serves. It leaves a whole export in
FOLDER, or fails with the reason in the last line of its stderr. Of several at once one exports and
the others find its work: a lock beside the folder is held meanwhile, and dies with its process.
"""

import fcntl
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Final

import numpy as np
import torch

from embeddings.encoding.description import EncoderError
from embeddings.encoding.onnx_encoder import (
    MANIFEST_FILE,
    MODEL_FILE,
    TOKENIZER_FILE,
    ExportUnusable,
    Manifest,
    OnnxEncoder,
    file_sha256,
)
from embeddings.encoding.torch_encoder import Pipeline, load

_OPSET: Final = 17
_LEAST_COSINE: Final = 0.9999


def export(name: str, location: str, folder: Path) -> None:
    """Leave an export of the model at `location` in `folder`, unless there is one already.

    Raises:
        EncoderError: The model cannot be loaded or is not of a kind that can be served, or its
            export computes something else.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            OnnxEncoder(folder, threads=1, scripts=frozenset())
            return
        except ExportUnusable:
            shutil.rmtree(folder, ignore_errors=True)
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # of one that was killed
        partial.mkdir()
        _write(load(location, name, "cpu"), partial, name)
        partial.rename(folder)
        _sync(folder.parent)


def _write(pipeline: Pipeline, folder: Path, name: str) -> None:
    (folder / TOKENIZER_FILE).write_text(pipeline.tokenizer_json, encoding="utf-8")
    _write_graph(pipeline, folder / MODEL_FILE)
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    manifest = Manifest(pipeline.description, files)
    (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    compare(pipeline, OnnxEncoder(folder, threads=1, scripts=frozenset()), name)
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _write_graph(pipeline: Pipeline, path: Path) -> None:
    # Two texts of different length: the mask must be in use, or the tracer would not see it.
    ids, mask = _random_tokens(pipeline, lengths=(5, 8))
    features = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    axes = {input_name: {0: "texts", 1: "tokens"} for input_name in pipeline.inputs}
    with torch.inference_mode(), warnings.catch_warnings():
        # The exporter that torch calls the legacy one: 1 s against 7 s, it needs onnx at its end
        # but no onnxscript, and its graph encodes a batch in a tenth less time. What tracing can
        # get wrong (its warnings) is looked for in `compare`.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            pipeline,
            tuple(features[input_name] for input_name in pipeline.inputs),
            path,
            input_names=pipeline.inputs,
            output_names=["vectors"],
            dynamic_axes={**axes, "vectors": {0: "texts"}},
            opset_version=_OPSET,
            dynamo=False,
        )


def compare(pipeline: Pipeline, exported: OnnxEncoder, name: str) -> None:
    """Compare the export with the model where a traced graph goes wrong: other shapes, filling."""
    window = pipeline.description.window_tokens
    for lengths in ((3,), (3, window), (window, 7, 11)):
        ids, mask = _random_tokens(pipeline, lengths)
        cosines = (
            exported.run(ids.numpy(), mask.numpy()) * pipeline.run(ids.numpy(), mask.numpy())
        ).sum(axis=1)
        if not np.all(cosines >= _LEAST_COSINE):
            raise EncoderError(
                f"{name}: its export computes something else (cosine {cosines.min():.4f})"
            )


def _random_tokens(
    pipeline: Pipeline, lengths: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask of texts with so many tokens, chosen by chance, the same every time."""
    chance = torch.Generator().manual_seed(0)
    shape = (len(lengths), max(lengths))
    mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).to(torch.int64)
    ids = torch.randint(len(pipeline.model.tokenizer), shape, generator=chance)
    return torch.where(mask == 1, ids, pipeline.description.padding_id), mask


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    # Some seconds on all cores, while workers serve: they come first.
    os.nice(10)
    try:
        export(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    except EncoderError as error:
        sys.exit(str(error))
