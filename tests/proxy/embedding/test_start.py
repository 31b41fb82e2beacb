"""Whether there is to be an embedding process, where it listens, and what it is given."""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.load import load
from config.semantic import SemanticMode
from config.settings import Settings
from proxy.embedding.start import EmbeddingStart, decided, is_installed

OWN = "unix:///run/recollect/embeddings.sock"
THEIRS = "http://gpu-host:8200"


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where one of the libraries is not installed."""
    with monkeypatch.context() as patched:
        # How the import system itself says that there is no such module.
        patched.setitem(sys.modules, "onnxruntime", None)
        yield


def come_to(**semantic: object) -> tuple[SemanticMode | None, str]:
    """Return mode and address that settings come to."""
    given = Settings.model_validate({"semantic": semantic, "cache": {"ttl_s": 7}})
    result = decided(given, OWN)
    assert result.cache == given.cache
    return result.semantic.mode, result.semantic.address


@pytest.mark.parametrize(
    ("mode", "address", "effective"),
    [
        (None, "", ("on", OWN)),
        ("on", "", ("on", OWN)),
        ("shadow", "", ("shadow", OWN)),
        ("off", "", ("off", "")),
        (None, THEIRS, ("on", THEIRS)),
        ("shadow", THEIRS, ("shadow", THEIRS)),
        ("off", THEIRS, ("off", THEIRS)),
    ],
)
def test_where_the_extra_is_installed_the_tier_is_on_unless_told_otherwise(
    mode: str | None, address: str, effective: tuple[str, str]
) -> None:
    """Its process is our own unless an address names another."""
    assert come_to(mode=mode, address=address) == effective


@pytest.mark.usefixtures("without_extra")
@pytest.mark.parametrize(
    ("mode", "address", "effective"),
    [
        (None, "", ("off", "")),
        ("off", "", ("off", "")),
        (None, THEIRS, ("on", THEIRS)),
        ("on", THEIRS, ("on", THEIRS)),
        ("shadow", THEIRS, ("shadow", THEIRS)),
    ],
)
def test_without_the_extra_only_a_process_elsewhere_can_be_asked(
    mode: str | None, address: str, effective: tuple[str, str]
) -> None:
    """A worker needs nothing of the extra; its host need not have it."""
    assert not is_installed()
    assert come_to(mode=mode, address=address) == effective


def test_looking_for_the_extra_imports_nothing_of_it() -> None:
    """The supervisor stays small. In a process of its own, as ours may have them by now."""
    script = (
        "import sys\n"
        "from proxy.embedding.start import is_installed\n"
        "assert is_installed()\n"
        "print(sorted({'faiss', 'numpy', 'onnxruntime', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


def test_a_process_reads_what_was_written() -> None:
    """Secrets in clear, for they are used; and shown nowhere else."""
    settings = load(None, {}, {"RECOLLECT_SEMANTIC__TOKEN": "pa55"}).settings
    start = EmbeddingStart(
        settings=settings,
        redis_url="redis://:pa55@host",
        folder=Path("/data"),
        address=OWN,
        lifeline_fd=3,
        run_dir="/run",
    )

    assert EmbeddingStart.read(io.BytesIO(start.encode())) == start
    assert "pa55" not in repr(start)


def test_a_document_of_another_kind_is_refused() -> None:
    """A process started by hand says so, without showing what it was given."""
    with pytest.raises(ValueError, match="settings") as caught:
        EmbeddingStart.read(io.BytesIO(b'{"redis_url": "pa55"}'))

    assert "pa55" not in str(caught.value)
