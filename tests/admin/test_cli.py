"""The `recollect` command, run as a user runs it."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

RECOLLECT = Path(sys.executable).with_name("recollect")


def run(folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RECOLLECT_")}
    return subprocess.run(
        [RECOLLECT, *arguments],
        cwd=folder,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_version_is_that_of_the_package(tmp_path: Path) -> None:
    """One source of truth: what was installed."""
    done = run(tmp_path, "--version")

    assert done.returncode == 0
    assert done.stdout.strip() == f"recollect {version('recollect')}"


def test_check_of_valid_settings_succeeds(tmp_path: Path) -> None:
    """And says which file it read, and what serving will still need."""
    file = tmp_path / "recollect.toml"
    file.write_text("[cache]\nttl_s = 60\n")

    done = run(tmp_path, "config", "check")

    assert done.returncode == 0
    assert str(file) in done.stdout
    assert "--upstream" in done.stdout


def test_check_names_every_mistake_and_exits_with_2(tmp_path: Path) -> None:
    """The exit code is that of a wrong command line, for scripts."""
    file = tmp_path / "other.toml"
    file.write_text("[cache]\nttl_s = -1\ntll_s = 1\n")

    done = run(tmp_path, "config", "check", "--config", str(file))

    assert done.returncode == 2
    assert "cache.ttl_s = -1" in done.stderr
    assert "did you mean cache.ttl_s?" in done.stderr
    assert "Traceback" not in done.stderr


def test_show_gives_each_value_with_its_source(tmp_path: Path) -> None:
    """A line of its own per setting, not folded where no terminal is: it is searched by grep."""
    patterns = '["delete_[a-z]*", "' + "x" * 200 + '"]'
    done = run(
        tmp_path,
        "config",
        "show",
        RECOLLECT_CACHE__TTL_S="60",
        RECOLLECT_CACHE__SIDE_EFFECT_TOOLS=patterns,
    )

    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    assert done.returncode == 0
    assert rows["cache.ttl_s"][1:] == ["60.0", "variable", "RECOLLECT_CACHE__TTL_S"]
    assert rows["server.port"][1:] == ["8080", "default"]
    assert patterns in done.stdout


def test_show_as_json_is_for_programs(tmp_path: Path) -> None:
    """The data folder is shown as it will be, not as it was (not) set."""
    done = run(tmp_path, "config", "show", "--json", XDG_DATA_HOME=str(tmp_path))

    shown = json.loads(done.stdout)
    assert shown["server.port"] == {"value": 8080, "source": "default"}
    assert shown["server.data_dir"]["value"] == str(tmp_path / "recollect")
    assert shown["routes"] == {"value": [], "source": "default"}


def test_show_masks_secrets(tmp_path: Path) -> None:
    """Passwords in URLs and digests of API keys as well, in both forms."""
    secrets = {
        "RECOLLECT_UPSTREAM__API_KEY": "pa55-upstream",
        "RECOLLECT_ADMIN__TOKEN": "pa55-admin",
        "RECOLLECT_TENANCY__SECRET": "pa55-tenancy-secret",
        "RECOLLECT_TENANCY__NAMES": json.dumps({"acme": ["5a" * 32]}),
        "RECOLLECT_REDIS__URL": "redis://user:pa55@host:6379/0",
    }
    for form in ((), ("--json",)):
        done = run(tmp_path, "config", "show", *form, **secrets)

        assert done.returncode == 0
        assert "pa55" not in done.stdout
        assert "5a5a" not in done.stdout
        assert "redis://user:********@host:6379/0" in done.stdout
        assert "acme" in done.stdout


def test_serve_without_an_upstream_is_a_usage_error(tmp_path: Path) -> None:
    """It says how to give one."""
    done = run(tmp_path, "serve")

    assert done.returncode == 2
    assert "--upstream" in done.stderr


def test_a_flag_that_is_wrong_is_a_usage_error(tmp_path: Path) -> None:
    """Both those of the wrong type and those out of range."""
    for port in ("http", "70000"):
        done = run(tmp_path, "serve", "--upstream", "http://h", "--port", port)

        assert done.returncode == 2
        assert "--port" in done.stderr


def test_looking_at_settings_loads_no_server(tmp_path: Path) -> None:
    """`recollect config` starts fast, and works where the server's parts are broken."""
    script = (
        "import sys\n"
        "from admin.cli import app\n"
        "app(['config', 'check'], standalone_mode=False)\n"
        "print(sorted({'aiohttp', 'uvicorn', 'prometheus_client', 'hiredis'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines()[-1] == "[]"
