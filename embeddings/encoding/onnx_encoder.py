"""An encoder on the CPU: onnxruntime over an exported model. Imports no torch.

An export is a folder: model.onnx (token ids to vectors of length 1, pooling included), perhaps
with files of weights beside it, tokenizer.json, and manifest.json, which says what the model is and
holds the others' checksums. `onnx_export` writes it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail, Fail, RuntimeException

from embeddings.encoding.description import Description, EncoderError
from embeddings.encoding.encoder import Refused, Vector
from embeddings.encoding.tokens import TokenReader, encode_tokens
from embeddings.out_of_memory import is_for_want_of_memory

FORMAT: Final = 1
MODEL_FILE: Final = "model.onnx"
TOKENIZER_FILE: Final = "tokenizer.json"
MANIFEST_FILE: Final = "manifest.json"

# all-MiniLM-L6-v2 on one thread: 0.22 ms a token and 1.6 ms a run; from 500 tokens a run on, more
# in it gain nothing, and from 2,000 on they lose, the attention's memory not fitting the cache.
_RUN_COST_TOKENS: Final = 8
_MOST_TOKENS: Final = 1024


class ExportUnusable(EncoderError):
    """There is no export in the folder, or it is not whole: the model is to be exported anew."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an export says of itself.

    Attributes:
        description: The model.
        files: The SHA-256 of each other file, by name.
    """

    description: Description
    files: dict[str, str]

    def to_json(self) -> str:
        """Return the file's text; it carries a checksum of itself."""
        fields = {"format": FORMAT, **asdict(self)}
        return json.dumps({**fields, "sha256": _checksum(fields)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Read a manifest.

        Raises:
            ExportUnusable: It is not one, it is of another format, or it was changed.
        """
        try:
            fields = json.loads(text)
            checksum = fields.pop("sha256")
            if fields.pop("format") != FORMAT:
                raise ExportUnusable("manifest.json is of another format")
            if checksum != _checksum({"format": FORMAT, **fields}):
                raise ExportUnusable("manifest.json was changed")
            description = Description(**fields["description"])
            return cls(description, fields["files"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ExportUnusable("manifest.json is not a manifest") from error


class OnnxEncoder:
    """An `Encoder` over the export in `folder`.

    Args:
        folder: An export.
        threads: How many threads a run takes.
        scripts: What the model was trained for.

    Raises:
        ExportUnusable: There is no export in `folder`, or it is not whole.
    """

    def __init__(self, folder: Path, threads: int, scripts: frozenset[str]) -> None:
        manifest = _read_manifest(folder)
        self._description = manifest.description
        tokenizer_json = (folder / TOKENIZER_FILE).read_text(encoding="utf-8")
        self._reader = TokenReader(tokenizer_json, manifest.description, scripts)
        self._session = onnxruntime.InferenceSession(
            folder / MODEL_FILE, _session_options(threads), providers=["CPUExecutionProvider"]
        )
        # The exporter leaves out what the model does not look at.
        self._inputs = [each.name for each in self._session.get_inputs()]

    @property
    def fingerprint(self) -> str:
        return self._description.fingerprint

    @property
    def dimension(self) -> int:
        return self._description.dimension

    @property
    def window_tokens(self) -> int:
        return self._description.window_tokens

    def encode(self, texts: Sequence[str]) -> list[Vector | Refused]:
        return encode_tokens(
            [self._reader.read(text) for text in texts],
            self.run,
            self._description.padding_id,
            run_cost_tokens=_RUN_COST_TOKENS,
            most_tokens=_MOST_TOKENS,
        )

    def run(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors of texts that are tokens already, both arguments (texts, tokens).

        Raises:
            MemoryError: It found none.
        """
        features = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        vectors: NDArray[np.float32]
        try:
            [vectors] = self._session.run(None, {name: features[name] for name in self._inputs})
        except (Fail, EPFail, RuntimeException) as error:
            if is_for_want_of_memory(error):
                raise MemoryError(str(error)) from error
            raise
        return vectors


def _session_options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that wait for work by spinning would take the workers' cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Plans of memory are kept per shape, and every batch is of another shape.
    options.enable_mem_pattern = False
    options.log_severity_level = 3  # errors
    return options


def _read_manifest(folder: Path) -> Manifest:
    """Return the manifest of `folder`, its files compared with their checksums."""
    try:
        manifest = Manifest.from_json((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        for name, sha256 in manifest.files.items():
            if file_sha256(folder / name) != sha256:
                raise ExportUnusable(f"{folder / name} was changed")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportUnusable(f"the export cannot be read: {error}") from error
    return manifest


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(fields: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
