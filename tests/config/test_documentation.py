"""docs/configuration.md says what the models say."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from config.load import load
from config.settings import RouteSettings, Settings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
EXAMPLE = re.compile(r"```toml\n(.*?)```", re.DOTALL)
ROW = re.compile(r"^\| `(\w+\.\w+)` \| (.+?) \| (.+?) \| (.+) \|$", re.MULTILINE)


def fields() -> dict[str, FieldInfo]:
    found: dict[str, FieldInfo] = {}
    for section, field in Settings.model_fields.items():
        model: Any = RouteSettings if section == "routes" else field.annotation
        assert issubclass(model, BaseModel)
        found |= {f"{section}.{name}": inner for name, inner in model.model_fields.items()}
    return found


def rows() -> dict[str, tuple[str, str]]:
    """Return type and default of each documented setting."""
    return {key: (kind, default) for key, kind, default, _ in ROW.findall(PAGE.read_text())}


def test_every_setting_is_documented_and_no_other() -> None:
    """Each setting has one row in the table of its section."""
    assert [key for key, *_ in ROW.findall(PAGE.read_text())] == list(fields())


@pytest.mark.parametrize("key", fields())
def test_the_documented_default_is_the_default(key: str) -> None:
    """As it would be written in the file; `not set` where the file has nothing to write."""
    field = fields()[key]
    documented = rows()[key][1]
    if field.is_required():
        assert documented == "required"
        return
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is None:
        assert documented == "not set"
    else:
        assert json.loads(documented.strip("`")) == json.loads(json.dumps(default))


def test_every_setting_has_a_docstring() -> None:
    """The models are the first place one looks."""
    assert [key for key, field in fields().items() if not field.description] == []


def test_the_example_loads(tmp_path: Path) -> None:
    """What a reader copies works, and shows sections that exist."""
    [example] = EXAMPLE.findall(PAGE.read_text())
    file = tmp_path / "recollect.toml"
    file.write_text(example)

    settings = load(file, {}, {}, is_upstream_needed=True).settings

    written = tomllib.loads(example)
    assert settings.routes[0].models == tuple(written["routes"][0]["models"])
    assert isinstance(settings.tenancy.secret, SecretStr)


def test_the_environment_examples_load() -> None:
    """The shell lines of the page, but for the digest that stands for one's own."""
    [block] = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    environ = {
        name: value.strip("'").replace("<SHA-256 of an API key>", "0" * 64)
        for name, _, value in (line.partition("=") for line in block.splitlines())
    }

    settings = load(None, {}, environ).settings

    assert settings.cache.ttl_s == 600
    assert settings.routes[0].models == ("gpt-4o*",)
