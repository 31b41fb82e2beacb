"""Links lead somewhere, and what can be copied from a page works."""

import json
import re
import subprocess
import textwrap
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest

from config.load import load
from tests.docs.pages import PAGES, ROOT, anchors, codes, part, prose, read, rows, snippets

_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")


def links() -> list[tuple[Path, str]]:
    return [
        (path, target)
        for path in PAGES
        for target in _LINK.findall(prose(path.read_text()))
        if not target.startswith("https://")
    ]


def all_snippets(language: str) -> list[str]:
    return [text for path in PAGES for text in snippets(path.read_text(), language)]


@pytest.mark.parametrize(("page", "target"), links(), ids=str)
def test_every_link_leads_to_a_file_and_a_heading(page: Path, target: str) -> None:
    """Relative links, as a reader of the repository follows them."""
    name, _, anchor = target.partition("#")
    aim = (page.parent / name).resolve() if name else page

    assert aim.is_file()
    assert not anchor or anchor in anchors(aim.read_text())


@pytest.mark.parametrize("text", all_snippets("json"))
def test_every_json_snippet_parses(text: str) -> None:
    """One document each."""
    json.loads(text)


@pytest.mark.parametrize("text", all_snippets("python"))
def test_every_python_snippet_compiles(text: str) -> None:
    """As a file of its own."""
    compile(text, "snippet", "exec")


@pytest.mark.parametrize("text", all_snippets("sh"))
def test_every_shell_snippet_parses(text: str) -> None:
    """`bash -n` reads, and runs nothing."""
    subprocess.run(["bash", "-n"], input=text, text=True, check=True, timeout=10)


def test_the_settings_in_the_readme_load(tmp_path: Path) -> None:
    """What a reader copies works, once the secret's file is there."""
    [example] = snippets(read("README.md"), "toml")
    secret_file = tmp_path / "tenancy.secret"
    secret_file.write_text("the same long text on every host\n")
    named = tomllib.loads(example)["tenancy"]["secret_file"]
    file = tmp_path / "recollect.toml"
    file.write_text(example.replace(named, str(secret_file)))

    settings = load(file, {}, {}, is_upstream_needed=True).settings

    assert settings.server.workers == 4
    assert settings.tenancy.secret is not None


def test_the_systemd_unit_sets_settings_that_exist_and_waits_for_the_drain() -> None:
    """It may not be killed before its answers are done."""
    [text] = snippets(read("docs/operations.md"), "ini")
    unit = ConfigParser(interpolation=None)
    unit.read_string(text)
    name, _, value = unit["Service"]["Environment"].partition("=")

    settings = load(None, {}, {name: value}).settings

    assert str(settings.server.data_dir) == value
    assert int(unit["Service"]["TimeoutStopSec"]) > settings.server.drain_s
    assert unit["Service"]["KillMode"] == "mixed"


@pytest.mark.demo
def test_the_request_in_the_readme_is_the_one_that_the_demo_prints() -> None:
    """So that a newcomer sees on the terminal what the page has promised."""
    pytest.importorskip("gguf", reason="needs the demo extra")
    from run_demo import instructions

    [curl] = [text for text in snippets(read("README.md"), "sh") if text.startswith("curl")]
    [python] = snippets(read("README.md"), "python")
    printed = textwrap.dedent(instructions("127.0.0.1", 8080))

    def words(text: str) -> str:
        return re.sub(r"[\s,]+", "", text)

    assert words(curl) in words(printed)
    assert words(python) in words(printed)


@pytest.mark.parametrize("text", all_snippets("http"))
def test_every_header_shown_is_of_a_documented_form(text: str) -> None:
    """Cache-Status, as docs/http.md has it."""
    value = text.strip().removeprefix("Cache-Status: ")
    forms = [codes(cell)[0] for cell, *_ in rows(part("docs/http.md", "forms"))]
    patterns = [re.escape(form).replace("FWD", "[a-z-]+") for form in forms]
    patterns = [re.sub(r"=N\b", "=-?[0-9]+", pattern) for pattern in patterns]
    patterns = [re.sub(r"=S\b", r"=0\\.[0-9]{3}", pattern) for pattern in patterns]
    patterns = [pattern.replace('"K"', '"[0-9a-f]{4}…"') for pattern in patterns]

    assert any(re.fullmatch(pattern, value) for pattern in patterns)


def test_the_readme_has_one_place_for_the_benchmark() -> None:
    """Between two marks, each on a line of its own."""
    lines = (ROOT / "README.md").read_text().splitlines()

    assert lines.count("<!-- bench:begin -->") == lines.count("<!-- bench:end -->") == 1
    assert lines.index("<!-- bench:begin -->") < lines.index("<!-- bench:end -->")
