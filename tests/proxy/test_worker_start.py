"""What supervisor and worker agree on: the document, the sockets, the data folder."""

import io
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from config.load import load
from proxy.data_folder import DataFolderError, make_data_folder, tenancy_secret
from proxy.listening import ListenError, listen, url_of
from proxy.worker_start import WorkerStart


def test_a_worker_reads_what_was_written() -> None:
    """Secrets in clear, for they are used; and every setting as it was."""
    environ = {
        "RECOLLECT_UPSTREAM__API_KEY": "sk-1",
        "RECOLLECT_TENANCY__SECRET": "0123456789abcdef",
        "RECOLLECT_CACHE__TTL_S": "0.1",
        "RECOLLECT_SERVER__DATA_DIR": "/data",
        "RECOLLECT_ROUTES": '[{"models": ["a*"], "ignore_fields": ["seed"]}]',
    }
    start = WorkerStart(
        settings=load(None, {}, environ).settings,
        redis_url="redis://:pa55@host",
        tenancy_secret="00ff",
        worker=3,
        data_fd=4,
        admin_fd=None,
        lifeline_fd=5,
        ready_fd=6,
        run_dir="/run",
    )

    assert WorkerStart.read(io.BytesIO(start.encode())) == start
    assert "pa55" not in repr(start)
    assert "00ff" not in repr(start)


def test_a_document_of_another_kind_is_refused() -> None:
    """A worker started by hand says so, without showing what it was given."""
    with pytest.raises(ValueError, match="settings") as caught:
        WorkerStart.read(io.BytesIO(b'{"tenancy_secret": "pa55"}'))

    assert "pa55" not in str(caught.value)


def test_sockets_name_the_port_they_have() -> None:
    """IPv6 addresses stand in brackets (RFC 3986 §3.2.2)."""
    with listen("127.0.0.1", 0) as four:
        port = four.getsockname()[1]
        assert url_of(four) == f"http://127.0.0.1:{port}"
        with pytest.raises(ListenError, match=rf"127\.0\.0\.1:{port}: Address already in use"):
            listen("127.0.0.1", port)


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_an_ipv6_address_is_bracketed() -> None:
    """RFC 3986 §3.2.2."""
    try:
        six = listen("::1", 0)
    except ListenError:
        pytest.skip("this machine has no IPv6 loopback")
    with six:
        assert url_of(six).startswith("http://[::1]:")


def test_an_unknown_host_cannot_be_listened_on() -> None:
    """`.invalid` never resolves (RFC 2606)."""
    with pytest.raises(ListenError, match=r"host\.invalid:80"):
        listen("host.invalid", 80)


def test_all_who_start_together_agree_on_one_secret(tmp_path: Path) -> None:
    """Else two tenants' keys would depend on which process answers."""
    with ThreadPoolExecutor(16) as threads:
        secrets = set(threads.map(tenancy_secret, [tmp_path] * 64))

    assert len(secrets) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["tenancy.secret"]


@pytest.mark.parametrize("content", ["", "00", "no digits at all", "é" * 32])
def test_a_broken_secret_is_not_replaced(tmp_path: Path, content: str) -> None:
    """A new one would make every stored response unreachable without anyone knowing why."""
    (tmp_path / "tenancy.secret").write_text(content)

    with pytest.raises(DataFolderError, match="64 hexadecimal digits"):
        tenancy_secret(tmp_path)
    assert (tmp_path / "tenancy.secret").read_text() == content


def test_a_secret_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A folder in its place, for a test that root may run as well."""
    (tmp_path / "tenancy.secret").mkdir()

    with pytest.raises(DataFolderError, match="Is a directory"):
        tenancy_secret(tmp_path)


def test_a_folder_that_is_there_keeps_its_rights(tmp_path: Path) -> None:
    """It may be shared on purpose, or be anybody's: only what we make is ours to close."""
    tmp_path.chmod(0o755)
    make_data_folder(tmp_path)
    make_data_folder(tmp_path / "new")

    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
