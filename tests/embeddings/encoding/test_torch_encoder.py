"""Torch serves the same vectors; models that cannot be served are named as such."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Normalize, Pooling
from transformers import CanineTokenizer

from embeddings.encoding.description import EncoderError
from embeddings.encoding.encoder import Encoder, Refused
from embeddings.encoding.models import DEFAULT_MODEL, open_encoder
from embeddings.encoding.torch_encoder import Pipeline, TorchEncoder, load
from tests.embeddings.encoding import tiny_models

TEXTS = ["How do I reset my password?", "密码", "a", "word " * 100, "word " * 300, ""]


@pytest.fixture(scope="module")
def minilm_on_torch(minilm_folder: Path) -> TorchEncoder:
    """What serves on a GPU, here on the CPU."""
    pipeline = load(str(minilm_folder), "all-MiniLM-L6-v2", "cpu")
    return TorchEncoder(pipeline, frozenset({"Latin"}))


def test_torch_and_onnxruntime_give_the_same_answers(
    minilm_on_torch: TorchEncoder, minilm: Encoder
) -> None:
    """A host with a GPU and one without share their vectors, so their fingerprint is one."""
    assert minilm_on_torch.fingerprint == minilm.fingerprint
    assert minilm_on_torch.dimension == minilm.dimension
    assert minilm_on_torch.window_tokens == minilm.window_tokens
    for ours, theirs in zip(minilm_on_torch.encode(TEXTS), minilm.encode(TEXTS), strict=True):
        if isinstance(ours, Refused) or isinstance(theirs, Refused):
            assert ours is theirs
        else:
            assert ours.dtype == np.float32
            assert ours @ theirs > 0.9999


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_named(tmp_path: Path) -> None:
    """With what would help."""
    with pytest.raises(EncoderError, match=r"no CUDA device .* set the device to cpu"):
        open_encoder(DEFAULT_MODEL, tmp_path, device="cuda", threads=1)


def test_want_of_memory_is_told_as_such(tmp_path: Path) -> None:
    """torch tells it of a CPU as any other failure, of a GPU as a kind of that."""
    tiny_models.save(tmp_path / "tiny", tiny_models.transformer(tmp_path / "bert"), Pooling(16))
    program = f"""
import resource
from pathlib import Path
import numpy as np
import torch
from embeddings.encoding.torch_encoder import load
torch.set_num_threads(1)
pipeline = load({str(tmp_path / "tiny")!r}, "tiny", "cpu")
few, many = np.full((1, 8), 5), np.ones((20_000, 32), np.int64)
pipeline.run(few, np.ones_like(few))
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 16 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    pipeline.run(many, many)
except MemoryError:
    print("no memory")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )

    assert (done.returncode, done.stdout) == (0, "no memory\n"), done.stderr


def max_pooled(bert: torch.nn.Module) -> SentenceTransformer:
    return SentenceTransformer(modules=[bert, Pooling(16, "max")], device="cpu")


def with_two_poolings(bert: torch.nn.Module) -> SentenceTransformer:
    return SentenceTransformer(modules=[bert, Pooling(16, ("cls", "mean"))], device="cpu")


def with_layer_norm(bert: torch.nn.Module) -> SentenceTransformer:
    modules = [bert, Pooling(16), LayerNorm(16), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu")


def with_prompt(bert: torch.nn.Module) -> SentenceTransformer:
    model = SentenceTransformer(modules=[bert, Pooling(16)], device="cpu")
    model.prompts = {"query": "query: "}
    model.default_prompt_name = "query"
    return model


def with_tokenizer_in_python(bert: torch.nn.Module) -> SentenceTransformer:
    bert.processor = CanineTokenizer()  # type: ignore[no-untyped-call,assignment]
    return SentenceTransformer(modules=[bert, Pooling(16)], device="cpu")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (max_pooled, "pools by max"),
        (with_two_poolings, "pools by"),
        (with_layer_norm, r"Transformer \+ Pooling \+ LayerNorm \+ Normalize; what can be served"),
        (with_prompt, "puts a prompt before each text"),
        (with_tokenizer_in_python, "tokenizer"),
    ],
)
def test_model_of_another_kind_is_refused(
    tmp_path: Path, make: Callable[[torch.nn.Module], SentenceTransformer], reason: str
) -> None:
    """Better than vectors that mean something else."""
    model = make(tiny_models.transformer(tmp_path))

    with pytest.raises(EncoderError, match=f"tiny.*{reason}"):
        Pipeline(model, "tiny")


def test_window_is_bounded(tmp_path: Path) -> None:
    """A model may take texts that no look-up could wait for."""
    bert = tiny_models.transformer(tmp_path)
    bert.max_seq_length = 8192
    model = SentenceTransformer(modules=[bert, Pooling(16)], device="cpu")

    assert Pipeline(model, "tiny").description.window_tokens == 512


def test_folder_that_holds_no_model_is_named(tmp_path: Path) -> None:
    """With the first line of what sentence-transformers says."""
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(EncoderError, match=r"empty cannot be loaded by sentence-transformers: .+"):
        load(str(tmp_path), "empty", "cpu")
