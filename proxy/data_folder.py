"""The data folder: the private Redis' files, and the secret that tells tenants apart."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

_SECRET_NAME = "tenancy.secret"
_SECRET_BYTES = 32


class DataFolderError(Exception):
    """The data folder cannot be used."""


def make_data_folder(folder: Path) -> None:
    """Make `folder`, readable by its owner only, unless it is there.

    Raises:
        DataFolderError: It cannot be made, or not be written to.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DataFolderError(f"cannot make the data folder {folder}: {error.strerror}") from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise DataFolderError(f"cannot write to the data folder {folder}")


def tenancy_secret(folder: Path) -> bytes:
    """Return the secret kept in `folder`, made now if there is none yet.

    Raises:
        DataFolderError: The file cannot be made, read, or holds something else.
    """
    path = folder / _SECRET_NAME
    try:
        if not path.exists():
            _make_secret(path)
        secret = bytes.fromhex(path.read_text(encoding="ascii"))
    except OSError as error:
        raise DataFolderError(f"{path}: {error.strerror}") from error
    except ValueError:
        secret = b""
    if len(secret) != _SECRET_BYTES:
        # A new one would make every stored response unreachable: whoever broke it should decide.
        raise DataFolderError(f"{path} should hold {2 * _SECRET_BYTES} hexadecimal digits")
    return secret


def _make_secret(path: Path) -> None:
    # Written under another name and linked into place: two that start together agree on the one
    # that came first, and neither ever reads a file that is half written.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(_SECRET_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
