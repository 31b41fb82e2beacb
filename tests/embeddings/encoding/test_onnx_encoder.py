"""An exported model computes what the model does, and refuses what it cannot encode whole."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling

from embeddings.encoding.description import EncoderError
from embeddings.encoding.encoder import Encoder, Refused, Vector
from embeddings.encoding.models import DEFAULT_MODEL
from embeddings.encoding.onnx_encoder import ExportUnusable, OnnxEncoder
from embeddings.encoding.onnx_export import compare, export
from embeddings.encoding.tokens import groups_by_length
from embeddings.encoding.torch_encoder import TorchEncoder, load
from tests.embeddings.encoding import tiny_models

LATIN = frozenset({"Latin"})
TEXTS = [
    "How do I reset my password?",
    "a",
    "Grüße aus Köln",
    "WHAT IS THE CAPITAL OF FRANCE? " * 12,
    "x = [i ** 2 for i in range(10)]; print(sum(x) / 3.5)",
    "The quick brown fox jumps over the lazy dog, and then it rests.",
]


@pytest.fixture(scope="session")
def minilm_in_torch(minilm_folder: Path) -> SentenceTransformer:
    """The default model as sentence-transformers has it."""
    return SentenceTransformer(str(minilm_folder), device="cpu")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that pools by the mean and does not normalise."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_models.save(folder / "tiny", tiny_models.transformer(folder / "bert"), Pooling(16))
    return folder / "tiny"


@pytest.fixture(scope="session")
def exported(tiny: Path) -> Path:
    """Its export. Not to be changed."""
    export("tiny", str(tiny), tiny.with_name("exported"))
    return tiny.with_name("exported")


def vectors(encoder: Encoder, texts: list[str]) -> list[Vector]:
    """Return the vectors of texts that have one."""
    encoded = encoder.encode(texts)
    assert not any(isinstance(each, Refused) for each in encoded)
    return [each for each in encoded if not isinstance(each, Refused)]


def cosines(
    some: list[Vector], others: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"
) -> Vector:
    """Return the cosine of each of `some`, of length 1, with its like in `others`."""
    lengths = np.linalg.norm(others, axis=1)
    result: Vector = (np.stack(some) * others).sum(axis=1) / lengths
    return result


def test_vectors_equal_those_of_sentence_transformers(
    minilm: Encoder, minilm_in_torch: SentenceTransformer
) -> None:
    """The export changes what computes, not what is computed."""
    assert np.all(cosines(vectors(minilm, TEXTS), minilm_in_torch.encode(TEXTS)) > 0.9999)


def test_vectors_have_length_one(minilm: Encoder) -> None:
    """Scores are cosines."""
    for vector in vectors(minilm, TEXTS):
        assert vector.dtype == np.float32
        assert vector.shape == (minilm.dimension,)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_vector_does_not_depend_on_its_company(minilm: Encoder) -> None:
    """In order, and equal to those encoded alone up to rounding."""
    alone = [vectors(minilm, [text])[0] for text in TEXTS]

    assert np.allclose(np.stack(vectors(minilm, TEXTS)), np.stack(alone), atol=1e-5)


def test_paraphrases_are_nearer_than_other_questions(minilm: Encoder) -> None:
    """What the encoder is for."""
    asked, same, other = vectors(
        minilm,
        [
            "How can I change my PIN?",
            "What do I do to change my PIN?",
            "Why was my card declined?",
        ],
    )

    assert asked @ same > 0.9
    assert asked @ other < 0.5


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("如何重置密码?", Refused.SCRIPT),
        ("Reset the пароль, please", Refused.SCRIPT),
        ("word " * 255, Refused.LONG),
        ("I am 😀 today", Refused.UNKNOWN),
        ("a" * 101, Refused.UNKNOWN),
        ("", Refused.UNKNOWN),
        (" \n", Refused.UNKNOWN),
        ("\ufffd\x00", Refused.UNKNOWN),
    ],
)
def test_text_that_cannot_be_encoded_whole_is_refused(
    minilm: Encoder, text: str, refused: Refused
) -> None:
    """No word may be left out: another in its place would look the same."""
    assert minilm.encode([text]) == [refused]


def test_text_may_fill_the_window(minilm: Encoder) -> None:
    """256 tokens, two of them special."""
    assert minilm.window_tokens == 256
    assert vectors(minilm, ["word " * 254])


def test_refusals_stand_between_vectors(minilm: Encoder) -> None:
    """Each answer is at its text's place."""
    first, chinese, second, empty = minilm.encode(["first one", "密码", "a second", ""])

    assert (chinese, empty) == (Refused.SCRIPT, Refused.UNKNOWN)
    assert np.allclose(first, vectors(minilm, ["first one"])[0], atol=1e-5)
    assert np.allclose(second, vectors(minilm, ["a second"])[0], atol=1e-5)


def test_no_texts_have_no_vectors(minilm: Encoder) -> None:
    """An empty batch is no error."""
    assert minilm.encode([]) == []


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        ([], []),
        ([5], [[0]]),
        ([5, 5, 5], [[0, 1, 2]]),
        ([9, 5, 5], [[1, 2, 0]]),  # 8 tokens of filling cost a run
        ([10, 5, 5], [[1, 2], [0]]),  # 10 cost more
        ([50, 50, 50], [[0, 1], [2]]),  # 150 tokens are too many
        ([300, 2, 300], [[1], [0], [2]]),
    ],
)
def test_texts_of_similar_length_are_run_together(
    lengths: list[int], groups: list[list[int]]
) -> None:
    """Filling up is work for nothing; so is a run for a few tokens."""
    assert groups_by_length(dict(enumerate(lengths)), 8, 100) == groups


@pytest.mark.parametrize(
    "modules",
    [
        pytest.param(lambda: [Pooling(16, "mean")], id="mean"),
        pytest.param(lambda: [Pooling(16, "mean"), Normalize()], id="mean, normalised"),
        pytest.param(lambda: [Pooling(16, "cls"), Normalize()], id="cls"),
        pytest.param(lambda: [Pooling(16, "cls"), Dense(16, 8)], id="cls, dense"),
    ],
)
def test_every_kind_of_model_is_exported_as_it_is(
    tmp_path: Path, modules: Callable[[], list[Pooling | Dense | Normalize]]
) -> None:
    """Pooling and what is behind it are in the graph; its fingerprint is the model's in torch."""
    model = tiny_models.save(
        tmp_path / "model", tiny_models.transformer(tmp_path / "bert"), *modules()
    )
    export("tiny", str(tmp_path / "model"), tmp_path / "models" / "tiny")
    encoder = OnnxEncoder(tmp_path / "models" / "tiny", 1, LATIN)
    in_torch = TorchEncoder(load(str(tmp_path / "model"), "tiny", "cpu"), LATIN)

    texts = ["abc de?", "a", "the quick brown fox?"]
    assert np.all(cosines(vectors(encoder, texts), model.encode(texts)) > 0.9999)
    assert encoder.fingerprint == in_torch.fingerprint
    assert encoder.dimension == in_torch.dimension == model.encode("a").shape[0]


def test_export_needs_no_onnxscript(tiny: Path, tmp_path: Path) -> None:
    """torch's other exporter does, so that it is not among our dependencies."""
    program = f"""
import sys
from pathlib import Path
sys.modules["onnxscript"] = None
from embeddings.encoding.onnx_export import export
export("tiny", {str(tiny)!r}, Path({str(tmp_path / "tiny")!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert OnnxEncoder(tmp_path / "tiny", 1, LATIN).encode(["abc"])


def test_fingerprints_tell_encoders_apart(tmp_path: Path, tiny: Path, exported: Path) -> None:
    """Same weights, other pooling: other vectors."""
    tiny_models.save(
        tmp_path / "cls", tiny_models.transformer(tmp_path / "bert"), Pooling(16, "cls")
    )
    mean = OnnxEncoder(exported, 1, LATIN).fingerprint
    cls = TorchEncoder(load(str(tmp_path / "cls"), "cls", "cpu"), LATIN).fingerprint

    assert len(mean) == len(cls) == 32
    assert mean != cls


def test_export_that_computes_something_else_is_refused(tiny: Path, exported: Path) -> None:
    """A traced graph can be wrong; nobody would see it in the vectors."""
    pipeline = load(str(tiny), "tiny", "cpu")
    encoder = OnnxEncoder(exported, 1, LATIN)
    compare(pipeline, encoder, "tiny")

    for parameter in pipeline.parameters():
        torch.nn.init.normal_(parameter)
    with pytest.raises(EncoderError, match="computes something else"):
        compare(pipeline, encoder, "tiny")


def test_whole_export_is_left_as_it_is(tiny: Path, exported: Path) -> None:
    """Whoever waited for the lock finds another's work."""
    before = (exported / "model.onnx").stat().st_ino
    export("tiny", str(tiny), exported)

    assert (exported / "model.onnx").stat().st_ino == before


def test_rest_of_an_export_that_was_killed_is_removed(tiny: Path, tmp_path: Path) -> None:
    """It is neither taken for an export nor left for ever."""
    partial = tmp_path / ".tiny.partial"
    partial.mkdir()
    (partial / "model.onnx").write_bytes(b"cut")
    export("tiny", str(tiny), tmp_path / "tiny")

    assert not partial.exists()
    assert OnnxEncoder(tmp_path / "tiny", 1, LATIN).encode(["abc"])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_window(path: Path) -> None:
    path.write_text(path.read_text().replace('"window_tokens": 32', '"window_tokens": 64'))


def change_format(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 0}))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("model.onnx", flip),
        ("model.onnx", Path.unlink),
        ("tokenizer.json", flip),
        ("manifest.json", Path.unlink),
        ("manifest.json", change_window),
        ("manifest.json", change_format),
        ("manifest.json", lambda path: path.write_bytes(b"\xff")),
        ("manifest.json", lambda path: path.write_text("{}")),
        ("manifest.json", lambda path: path.write_text("[]")),
    ],
)
def test_spoilt_export_is_exported_anew(
    tiny: Path, exported: Path, tmp_path: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    """Checksums are compared whenever it is opened; the new one has the same fingerprint."""
    folder = tmp_path / "tiny"
    shutil.copytree(exported, folder)
    spoil(folder / name)
    with pytest.raises(ExportUnusable):
        OnnxEncoder(folder, 1, LATIN)

    export("tiny", str(tiny), folder)

    fingerprint = OnnxEncoder(folder, 1, LATIN).fingerprint
    assert fingerprint == OnnxEncoder(exported, 1, LATIN).fingerprint


def test_want_of_memory_is_told_as_such(models_folder: Path, minilm: Encoder) -> None:
    """onnxruntime has no class of its own for it; another failure is told as it is."""
    program = f"""
import resource
from pathlib import Path
import numpy as np
from embeddings.encoding.models import open_encoder
encoder = open_encoder({DEFAULT_MODEL!r}, Path({str(models_folder)!r}), device="cpu", threads=1)
encoder.encode(["How do I reset my password?"])
few, many = np.full((1, 8), 10**6), np.ones((64, 256), np.int64)
try:
    encoder.run(few, np.ones_like(few))
except MemoryError:
    raise SystemExit("a token that the model does not know is no want of memory")
except Exception:
    pass
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 8 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    encoder.run(many, many)
except MemoryError:
    print("no memory")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )

    assert (done.returncode, done.stdout) == (0, "no memory\n"), done.stderr


def test_serving_process_imports_no_torch(models_folder: Path, minilm: Encoder) -> None:
    """It would take seconds and hundreds of megabytes."""
    program = f"""
import sys
from pathlib import Path
from embeddings.encoding.models import open_encoder
encoder = open_encoder({DEFAULT_MODEL!r}, Path({str(models_folder)!r}), device="cpu", threads=1)
encoder.encode(["How do I reset my password?"])
heavy = {{"torch", "transformers", "sentence_transformers", "onnx"}} & sys.modules.keys()
sys.exit(f"imported: {{heavy}}" if heavy else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )

    assert (done.returncode, done.stderr) == (0, "")
