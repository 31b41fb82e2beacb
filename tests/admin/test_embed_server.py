"""`recollect embed-server`: the embedding process alone, as an operator runs it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.redis_server import RedisServer, free_port

RECOLLECT = Path(sys.executable).with_name("recollect")
MODELS = Path(__file__).parents[2] / "build" / "models"
TOKEN = "t0ken"


def command(folder: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """Start it, with nothing set but what is given."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RECOLLECT_")}
    own = {
        "RECOLLECT_SERVER__DATA_DIR": str(folder / "data"),
        "RECOLLECT_SEMANTIC__MODELS_DIR": str(MODELS),
    }
    return subprocess.Popen(
        [RECOLLECT, "embed-server", *arguments],
        cwd=folder,
        env={**inherited, **own, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Wait for its end; return exit code and standard error."""
    _, stderr = process.communicate(timeout=30)
    return process.returncode, stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "gpu-host", "[::]"])
def test_address_that_others_can_reach_needs_a_token(tmp_path: Path, host: str) -> None:
    """Whoever reaches it can ask what was asked; exit code 2 before anything is loaded."""
    listen = f"http://{host}:8200"

    code, stderr = ended(command(tmp_path, "--listen", listen, "--redis", "redis://127.0.0.1:1"))

    assert code == 2
    assert "semantic.token: not set" in stderr
    assert listen in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "data").exists()


def test_all_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    """And how to give it."""
    code, stderr = ended(command(tmp_path))

    assert code == 2
    for name in ("semantic.address: not set", "--listen", "redis.url: not set", "--redis"):
        assert name in stderr
    assert "semantic.token" not in stderr


@pytest.mark.parametrize("listen", ["gpu-host:8200", "https://127.0.0.1:8200", "unix://e.sock"])
def test_address_that_is_none_is_a_usage_error(tmp_path: Path, listen: str) -> None:
    """It names the flag and what would be right."""
    code, stderr = ended(command(tmp_path, "--listen", listen, "--redis", "redis://127.0.0.1:1"))

    assert code == 2
    assert "--listen" in stderr
    assert "should be http://host:port or unix:///path" in stderr


@pytest.mark.parametrize(
    "listen", ["http://127.0.0.1:8200", "http://localhost:8200", "unix:///nowhere/e.sock"]
)
def test_data_folder_that_cannot_be_used_is_an_error(tmp_path: Path, listen: str) -> None:
    """Exit code 1, and no traceback: it is an operator's slip. No token is asked for here."""
    (tmp_path / "data").write_text("a file is in the way")

    code, stderr = ended(command(tmp_path, "--listen", listen, "--redis", "redis://127.0.0.1:1"))

    assert code == 1
    assert str(tmp_path / "data") in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("module", ["faiss", "onnxruntime"])
def test_without_the_extra_it_says_what_to_install(tmp_path: Path, module: str) -> None:
    """Not an ImportError."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{module!r}] = None\n")
    paths = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)

    code, stderr = ended(command(tmp_path, PYTHONPATH=paths))

    assert code == 2
    assert "make install EXTRAS=semantic" in stderr


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """One that listens for others, with a token; it ends with 0."""
    folder = tmp_path_factory.mktemp("embed-server")
    (folder / "token").write_text(f"{TOKEN}\n")
    port = free_port()
    process = command(
        folder,
        *("--listen", f"http://0.0.0.0:{port}", "--redis", redis_server.url),
        RECOLLECT_SEMANTIC__TOKEN_FILE=str(folder / "token"),
        RECOLLECT_REDIS__NAMESPACE="embed-server",
    )
    assert process.stderr is not None
    said = ""
    while "embeddings listening on" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    yield f"http://127.0.0.1:{port}", process
    process.send_signal(signal.SIGTERM)
    code, rest = ended(process)
    assert (code, TOKEN in said + rest) == (0, False)


Server = tuple[str, "subprocess.Popen[str]"]


def test_health_is_told_to_everyone(server: Server) -> None:
    """Whatever watches it has no token."""
    answer = httpx.get(f"{server[0]}/healthz", trust_env=False)

    assert answer.status_code == 200
    assert answer.json().keys() == {"is_ready"}


def test_all_else_needs_the_token(server: Server) -> None:
    """Metrics too; without it nothing is said."""
    for path in ("/stats", "/metrics"):
        for headers in ({}, {"authorization": "Bearer wrong"}):
            refused = httpx.get(f"{server[0]}{path}", headers=headers, trust_env=False)
            assert refused.status_code == 401, path
        told = httpx.get(
            f"{server[0]}{path}", headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False
        )
        assert told.status_code == 200, path
        assert "recollect_requests_total" not in told.text


def test_stats_say_what_the_index_holds(server: Server) -> None:
    """Nothing yet."""
    headers = {"authorization": f"Bearer {TOKEN}"}

    stats = httpx.get(f"{server[0]}/stats", headers=headers, trust_env=False).json()

    assert stats["dimension"] == 384
    assert sum(stats["vectors"].values()) == 0
